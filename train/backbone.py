"""The frozen model's part: final hidden states at the positions that predict supervised tokens.

Right padding without a mask, since no token looks at a later one; positions are the runtime's own.
Pictures of one grid go through the vision tower together (``train.vision``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

from skinedge.model.config import ModelConfig
from skinedge.model.names import HEAD
from skinedge.model.reference import DTYPES, Reference
from skinedge.runtime.session import Grid, Pixels
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import BF16
from train.attention import SHORT
from train.decoder import decode, rotary
from train.examples import Example
from train.vision import UniformVision


class Backbone:
    """A Qwen2.5-VL that says what it has in mind before each supervised token."""

    def __init__(
        self, model: transformers.Qwen2_5_VLForConditionalGeneration, config: ModelConfig, *, checkpointing: bool = False
    ) -> None:
        self.model = model
        self._checkpointing = checkpointing
        self._config = config
        self._vision: dict[Grid, UniformVision] = {}

    @classmethod
    def frozen(
        cls, folder: Path, config: ModelConfig, precision: str, device: torch.device, *, checkpointing: bool = False
    ) -> Backbone:
        """The model of a checkpoint folder without its adapters, in the type of ``precision``."""
        model = Reference.from_checkpoint(folder, dtype=precision, device=str(device)).model
        model.requires_grad_(False)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return cls(model, config, checkpointing=checkpointing)

    def hidden(self, examples: Sequence[Example]) -> Tensor:
        """``[T, hidden]`` after the final norm, ``T`` the supervised tokens of all ``examples`` in order."""
        lengths = [len(e.token_ids) for e in examples]
        ids = np.zeros((len(examples), max(lengths)), np.int64)
        positions = np.zeros((3, len(examples), max(lengths)), np.int64)
        for i, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            ids[i, :length], positions[:, i, :length] = example.token_ids, example.positions
        embeds = self._embed(self._tensor(ids), [p for e in examples for p in e.pixels])
        last = self._decode(embeds, self._tensor(positions))
        rows = np.concatenate([i * max(lengths) + e.predicting for i, e in enumerate(examples)])
        return last.flatten(0, 1)[self._tensor(rows)]

    def _decode(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """The language model ``[B, S, hidden]``: on a CPU and for short texts by plain products, which are faster there."""
        language = self.model.model.language_model
        if embeds.device.type == "cpu" and embeds.shape[1] <= SHORT and not self._checkpointing:
            return decode(language, embeds, *rotary(language, embeds, positions))
        last: Tensor = language(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        return last

    def _embed(self, ids: Tensor, pixels: Sequence[Pixels]) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        if not pixels:
            return embeds
        features = self._features(pixels).to(embeds.dtype)
        places = (ids == self._config.image_token_id)[..., None].expand_as(embeds)
        return embeds.masked_scatter(places, features)

    def _features(self, pixels: Sequence[Pixels]) -> Tensor:
        """``[merged patches of all pictures, hidden]``, in order."""
        alike: dict[Grid, list[int]] = defaultdict(list)
        for number, picture in enumerate(pixels):
            alike[picture.grid].append(number)
        visual = self.model.model.visual
        found: dict[int, Tensor] = {}
        for grid, numbers in alike.items():
            vision = self._vision.setdefault(grid, UniformVision(grid, self._config.vision))
            patches = self._tensor(np.stack([pixels[n].patches for n in numbers])).to(visual.dtype)
            found |= zip(numbers, vision.encode(visual, patches), strict=True)
        return torch.cat([found[n] for n in range(len(pixels))])

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


def read_head(folder: Path, precision: str, device: torch.device) -> Tensor:
    """The language model's head ``[vocabulary, hidden]``, read without the rest of the model."""
    return to_tensor(np.array(open_checkpoint(folder).weights.read(HEAD))).to(device, DTYPES[precision])


def to_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the memory of ``array``; bfloat16 included, which torch does not take from numpy."""
    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
