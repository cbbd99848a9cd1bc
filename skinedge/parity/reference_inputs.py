"""What the reference sees: pixels, tokens and positions as ``transformers`` itself makes them.

Nothing of ``skinedge.runtime`` takes part, so that a fault of ours cannot cancel itself out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.runtime.session import Grid, Pixels, Prompt

if TYPE_CHECKING:
    from PIL import Image

    from skinedge.model.reference import Reference


class ReferenceInputs:
    """The processor and tokenizer of a checkpoint, through ``transformers``."""

    def __init__(self, folder: Path, reference: Reference) -> None:
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._reference = reference

    def pixels(self, photograph: Image.Image) -> Pixels:
        """An RGB photograph through ``Qwen2VLImageProcessorPil``."""
        made = self._processor([photograph], return_tensors="np")
        frames, height, width = (int(n) for n in made["image_grid_thw"][0])
        return Pixels(made["pixel_values"], Grid(frames, height, width), np.asarray(photograph))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: those of the generation settings, else of the configuration."""
        model = self._reference.model
        ids = model.generation_config.eos_token_id if model.generation_config else None
        ids = model.config.text_config.eos_token_id if ids is None else ids
        return (ids,) if isinstance(ids, int) else tuple(ids or ())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens, as the tokenizer itself writes it."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def prompt(self, question: str, grids: Sequence[Grid]) -> Prompt:
        """The question about some images: chat template, image places widened as the processor widens them."""
        import torch

        content = [{"type": "image"} for _ in grids] + [{"type": "text", "text": question}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        config = self._reference.model.config
        place = self._tokenizer.convert_ids_to_tokens(config.image_token_id)
        pieces = text.split(place)
        merged = self._processor.merge_size**2
        text = pieces[0] + "".join(place * (g.patches // merged) + rest for g, rest in zip(grids, pieces[1:], strict=True))
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"]
        shapes = torch.tensor([[g.frames, g.height, g.width] for g in grids]) if grids else None
        kinds = (ids == config.image_token_id).long()
        rope_index = self._reference.model.model.get_rope_index
        positions, delta = rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=shapes)
        return Prompt(text, ids[0].numpy(), positions[:, 0].numpy(), ids.shape[1] + int(delta), tuple(grids))
