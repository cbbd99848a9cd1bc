"""The batched vision tower says what the model's own says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("size", [(168, 168), (112, 112), (224, 224), (56, 196)])
def test_equal_pictures_get_the_features_of_the_model_itself(tiny_model: Path, size: tuple[int, int]) -> None:
    import torch
    from PIL import Image

    from skinedge.model.config import read_config
    from skinedge.model.reference import Reference
    from skinedge.runtime.image import ProcessorConfig, to_pixels
    from train.vision import UniformVision

    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(3)]
    pixels = [to_pixels(p, ProcessorConfig()) for p in pictures]
    reference = Reference.from_checkpoint(tiny_model, threads=1)
    uniform = UniformVision(pixels[0].grid, read_config(tiny_model).vision)
    with torch.no_grad():
        features = uniform.encode(reference.model.model.visual, torch.from_numpy(np.stack([p.patches for p in pixels])))
    for mine, p in zip(features, pixels, strict=True):
        np.testing.assert_allclose(mine.numpy(), reference.encode_image(p).features, atol=2e-5)


def test_a_padded_batch_of_texts_gets_the_hidden_states_of_the_model_itself(tiny_model: Path) -> None:
    import torch

    from skinedge.model.reference import Reference
    from train.decoder import decode, rotary

    model = Reference.from_checkpoint(tiny_model, threads=1).model
    ids = torch.from_numpy(np.random.default_rng(5).integers(0, 300, (2, 24)))
    positions = torch.arange(24).expand(3, 2, -1)
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        text = model.model.language_model
        hidden = decode(text, embeds, *rotary(text, embeds, positions))
        truth = text(input_ids=ids, position_ids=positions).last_hidden_state
        short = text(input_ids=ids[:, :9], position_ids=positions[..., :9]).last_hidden_state
    np.testing.assert_allclose(hidden.numpy(), truth.numpy(), atol=2e-5)
    np.testing.assert_allclose(hidden[:, :9].numpy(), short.numpy(), atol=2e-5)
