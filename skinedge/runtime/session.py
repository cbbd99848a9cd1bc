"""The one interface through which every target is run, measured and compared.

A ``Session`` is a model that is loaded and ready.  It encodes an image once, takes a prompt, and
then gives the logits of one next token after another.  Sampling, stopping and text live above it
(``skinedge.runtime.generate``) and are the same for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from skinedge.errors import PromptError

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """An image as patches: frames x rows x columns (a still photograph has one frame)."""

    frames: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        """Number of patch rows."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Pixels:
    """A photograph as the model sees it.

    ``patches`` is float32 ``[grid.patches, 1176]``, normalised, in the processor's order: the four
    patches that will be merged into one token lie together.  ``image`` is the resized photograph,
    uint8 ``[14*height, 14*width, 3]``, before normalisation.
    """

    patches: Float32
    grid: Grid
    image: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prompt:
    """A rendered, tokenised prompt.

    ``token_ids`` is int64 ``[S]`` with one image token per merged patch; ``positions`` is int64
    ``[3, S]`` (temporal, height, width: mRoPE, arXiv 2409.12191 section 2.1); ``next_position`` is the
    position, equal on all three axes, of the first generated token; ``grids`` are those of the images
    in order of appearance.
    """

    text: str
    token_ids: Int64
    positions: Int64
    next_position: int
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class ImageEncoding:
    """What a model keeps of an image.

    ``features`` float32 ``[patches / 4, hidden]``; ``bias`` float32 ``[vocabulary]`` and ``skin`` float32
    ``[3]`` (light, medium, dark) come from the side branch and are ``None`` for a model without one.
    """

    grid: Grid
    features: Float32
    bias: Float32 | None
    skin: Float32 | None


class Session(Protocol):
    """A loaded model.  Not thread-safe: one conversation at a time.  ``on_gpu`` says where its decoder computes."""

    vocab_size: int
    context_length: int
    on_gpu: bool

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """Run the vision tower and the adapter branch on one image."""
        ...

    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        """Forget the past, read the prompt, and return logits.

        Args:
            prompt: what to read; its image tokens are replaced by the features of ``images``.
            images: encodings in order of appearance.
            bias: ``[vocabulary]``, added to the logits here and at every step until the next prefill.
            all_positions: return ``[S, vocabulary]`` instead of the last position's ``[vocabulary]``.
            keep: so many positions at the prompt's beginning, fewer than all, were the last ones read there and need not
                be read again (``skinedge.runtime.reuse`` counts them); 0 with ``all_positions``.

        Raises:
            PromptError: the prompt is longer than the context, or its images are not those given.
        """
        ...

    def step(self, token: int) -> Float32:
        """Append ``token`` and return the next logits ``[vocabulary]``, bias included.

        Raises:
            PromptError: the context is full.
        """
        ...

    def close(self) -> None:
        """Free the model.  Calling it twice is harmless."""
        ...


def combined_bias(images: Sequence[ImageEncoding]) -> Float32 | None:
    """The bias for a prompt: that of its image, or the mean over several; ``None`` without a side branch.

    The paper defines one image per case.  The mean keeps the size of the bias the same for one
    photograph and for two of the same lesion.
    """
    biases = [image.bias for image in images if image.bias is not None]
    if not biases:
        return None
    mean: Float32 = np.mean(biases, axis=0, dtype=np.float32)
    return mean


def check_prompt(prompt: Prompt, images: Sequence[ImageEncoding], context: int) -> None:
    """Refuse a prompt that does not fit.

    Raises:
        PromptError: too long, or its images are not those given.
    """
    if len(prompt.token_ids) > context:
        raise PromptError(
            f"the prompt has {len(prompt.token_ids)} tokens and the context holds {context}.",
            hint="Use fewer or smaller images, or open with a longer --context.",
        )
    if tuple(i.grid for i in images) != prompt.grids:
        raise PromptError(
            f"the prompt expects {len(prompt.grids)} images and {len(images)} encodings were given, or their sizes differ."
        )
