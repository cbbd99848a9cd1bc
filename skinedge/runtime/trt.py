"""The session over TensorRT plans: what to run when, and where everything lies on the device.

Keys and values of a layer lie in one buffer that is bound as past and as present, which TensorRT's cache
update demands.  A prompt longer than its profile is read in pieces.  The adapter's plan is opened for each
photograph and closed again; its shift becomes the bias in the head's plan, the one place where the head is.

Everything that touches CUDA is behind ``Device``; the tests put ONNX Runtime there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from skinedge.errors import NotFiniteError, PromptError
from skinedge.model.config import ModelConfig
from skinedge.runtime.embedding import EmbeddingTable
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, check_prompt
from skinedge.runtime.windows import vision_feeds
from skinedge.weights.source import Array

Shape = tuple[int, ...]
ONNX = "onnx"  # the folder of a bundle that holds the graphs and the embedding table


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan; -1 in ``shape`` is a length that varies."""

    name: str
    dtype: np.dtype[np.generic]
    shape: Shape
    is_input: bool

    def nbytes(self, shape: Shape) -> int:
        """Bytes of this tensor at ``shape``."""
        return math.prod(shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Bounds:
    """The shapes an input may have under one profile: the one it is tuned for, and the largest."""

    usual: Shape
    most: Shape


class Plan(Protocol):
    """An open plan."""

    tensors: Mapping[str, Tensor]
    profiles: Sequence[Mapping[str, Bounds]]  # by input whose shape varies

    def run(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Compute: ``shapes`` of all inputs, device ``addresses`` of all inputs and outputs."""
        ...

    def close(self) -> None:
        """Free the plan."""
        ...


class Device(Protocol):
    """A GPU: memory by address, and plans."""

    def open(self, path: Path) -> Plan:
        """Load a plan."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Address of new memory; one byte at least, so that empty tensors have an address too."""
        ...

    def free(self, address: int) -> None:
        """Give memory back."""
        ...

    def clear(self, address: int, nbytes: int) -> None:
        """Fill with zeros."""
        ...

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the device."""
        ...

    def download(self, address: int, array: Array) -> None:
        """Wait for what was started, then copy from the device into a contiguous array."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class TrtSession:
    """A bundle's plans, open.  Implements ``skinedge.runtime.session.Session``.

    Raises:
        BundleError: a plan is missing or is not one.
        TargetError: the device refuses a plan or has not the memory.
    """

    on_gpu = True  # plans run nowhere else

    def __init__(self, folder: Path, config: ModelConfig, device: Device, *, context: int | None = None) -> None:
        self._config, self._device = config, device
        self._adapter = folder / "adapter.plan"
        self._vision = device.open(folder / "vision.plan")
        self._table = EmbeddingTable(folder / ONNX, config)
        self._decoder = _Decoder(device, device.open(folder / "decoder.plan"), device.open(folder / "head.plan"))
        self._length = 0
        self._next_position = 0
        self.vocab_size = config.text.vocab_size
        self.context_length = min(context or self._decoder.cache_length, self._decoder.cache_length)

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """Run the vision tower and, if there is one, the adapter branch.

        Raises:
            NotFiniteError: the photograph drives the vision tower out of the range of its 16-bit floats.
        """
        feeds = vision_feeds(pixels, self._config.vision)
        merged = pixels.grid.patches // self._config.vision.spatial_merge_size**2
        outputs = {"image_features": (merged, self._config.vision.out_hidden_size)}
        features = _run_once(self._device, self._vision, feeds, outputs)["image_features"]
        if not np.isfinite(features).all():
            raise NotFiniteError(
                "the vision tower left the range of 16-bit floats on this photograph.",
                hint="Export it with --activations bf16, or with --overflow and a report of skinedge overflow.",
            )
        if not self._adapter.exists():
            return ImageEncoding(pixels.grid, features, None, None)
        shift, skin = self._run_adapter(pixels)
        return ImageEncoding(pixels.grid, features, self._decoder.bias_of(shift), skin)

    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        """See ``Session.prefill``."""
        check_prompt(prompt, images, self.context_length)
        self._decoder.set_bias(np.zeros(self.vocab_size, np.float32) if bias is None else bias)
        self._length, self._next_position = 0, prompt.next_position
        size = self._decoder.most_logits if all_positions else self._decoder.most_tokens
        rows = []
        embeds = self._table.mix(prompt.token_ids, images)
        for start in range(keep, len(embeds), size):
            piece = embeds[start : start + size]
            wanted = np.arange(len(piece)) if all_positions else np.array([len(piece) - 1])
            self._decoder.run(piece, prompt.positions[:, start : start + size], start, wanted)
            if all_positions or start + size >= len(embeds):
                rows.append(self._decoder.logits(len(wanted)))
        self._length = len(prompt.token_ids)
        logits: Float32 = np.concatenate(rows) if all_positions else rows[-1][-1]
        return logits

    def step(self, token: int) -> Float32:
        """See ``Session.step``."""
        if self._length >= self.context_length:
            raise PromptError(f"the context of {self.context_length} tokens is full.", hint="Open with a longer --context.")
        positions = np.full((3, 1), self._next_position, np.int64)
        embeds = self._table.rows(np.array([token], np.int64))
        self._decoder.run(embeds, positions, self._length, np.zeros(1, np.int64))
        logits: Float32 = self._decoder.logits(1)[0]
        self._length += 1
        self._next_position += 1
        return logits

    def close(self) -> None:
        """Free the plans and the device."""
        if hasattr(self, "_decoder"):
            self._decoder.close()
            self._vision.close()
            self._device.close()
            del self._decoder

    def _run_adapter(self, pixels: Pixels) -> tuple[Float32, Float32]:
        adapter = self._device.open(self._adapter)
        try:
            outputs = {t.name: t.shape for t in adapter.tensors.values() if not t.is_input}
            found = _run_once(self._device, adapter, {"pixel_values": pixels.patches}, outputs)
        finally:
            adapter.close()
        return found["shift"][0], found["skin"][0]


class _Decoder:
    """The plans of decoder and head with their buffers, each as large as any profile needs."""

    def __init__(self, device: Device, plan: Plan, head: Plan) -> None:
        self._device, self._plan, self._head = device, plan, head
        tokens = [p["inputs_embeds"] for p in plan.profiles]
        self._decode = min(range(len(tokens)), key=lambda i: tokens[i].usual)
        self._prefill = max(range(len(tokens)), key=lambda i: (tokens[i].usual, tokens[i].most))
        most = plan.profiles[self._prefill]
        self.most_tokens = most["inputs_embeds"].most[1]
        self.most_logits = min(most["hidden_index"].most[0], head.profiles[0]["hidden"].most[1])
        self._vocab = head.tensors["logits"].shape[2]
        self._hidden = head.tensors["hidden"].shape[2]
        pasts = [t for t in plan.tensors.values() if t.name.startswith("past.")]
        self.cache_length = pasts[0].shape[2]
        self._addresses: dict[str, int] = {}
        for past in pasts:
            self._addresses[past.name] = self._addresses[past.name.replace("past.", "present.", 1)] = self._cleared(past)
        # Hidden states stay on the device: the decoder's output is the head's input.
        shapes = {n: b.most for n, b in most.items()}
        shapes |= {"hidden": (1, self.most_logits, self._hidden), "logits": (1, self.most_logits, self._vocab)}
        self._tensors = {**plan.tensors, **head.tensors}
        for tensor in self._tensors.values():
            if tensor.name not in self._addresses:
                self._addresses[tensor.name] = device.allocate(tensor.nbytes(shapes.get(tensor.name, tensor.shape)))

    def set_bias(self, bias: Float32) -> None:
        """The bias on the logits from now on; it stays on the device."""
        self._upload("logit_bias", bias.reshape(1, -1))

    def bias_of(self, shift: Float32) -> Float32:
        """What the head makes of the side branch's ``shift`` ``[hidden]``: the bias ``[vocabulary]``.

        The bias in force is forgotten.
        """
        self.set_bias(np.zeros(self._vocab, np.float32))
        self._upload("hidden", shift.reshape(1, 1, -1))
        bias: Float32 = self.logits(1)[0]
        return bias

    def run(self, embeds: Float32, positions: Array, start: int, wanted: Array) -> None:
        """Read the rows ``embeds``, which go to the cache from ``start`` on; the states at ``wanted`` stay on the device."""
        feeds: dict[str, Array] = {
            "inputs_embeds": embeds[None],
            "position_ids": positions,
            "start": np.array([start], np.int64),
            "hidden_index": wanted,
        }
        for name, value in feeds.items():
            self._upload(name, value)
        shapes = {t.name: t.shape for t in self._plan.tensors.values() if t.is_input} | {n: v.shape for n, v in feeds.items()}
        profile = self._decode if len(embeds) == 1 else self._prefill
        self._plan.run(profile, shapes, {name: self._addresses[name] for name in self._plan.tensors})

    def close(self) -> None:
        self._plan.close()
        self._head.close()
        for address in set(self._addresses.values()):
            self._device.free(address)

    def logits(self, count: int) -> Float32:
        """Logits ``[count, vocabulary]`` of the hidden states that lie on the device."""
        shapes = {"hidden": (1, count, self._hidden), "logit_bias": (1, self._vocab)}
        self._head.run(0, shapes, {name: self._addresses[name] for name in self._head.tensors})
        logits = np.empty((count, self._vocab), np.float32)
        self._device.download(self._addresses["logits"], logits)
        return logits

    def _cleared(self, past: Tensor) -> int:
        """A cache buffer of zeros: what attention masks must still be a number."""
        nbytes = past.nbytes(past.shape)
        address = self._device.allocate(nbytes)
        self._device.clear(address, nbytes)
        return address

    def _upload(self, name: str, value: Array) -> None:
        tensor = self._tensors[name]
        self._device.upload(self._addresses[name], np.ascontiguousarray(value, tensor.dtype))


def _run_once(device: Device, plan: Plan, feeds: Mapping[str, Array], outputs: Mapping[str, Shape]) -> dict[str, Float32]:
    """Run a plan with one profile on buffers made for this run; all outputs in float32."""
    values = {n: np.ascontiguousarray(v, plan.tensors[n].dtype) for n, v in feeds.items()}
    results: dict[str, Array] = {n: np.empty(shape, plan.tensors[n].dtype) for n, shape in outputs.items()}
    addresses: dict[str, int] = {}
    try:
        for name, array in (*values.items(), *results.items()):
            addresses[name] = device.allocate(array.nbytes)
        for name, array in values.items():
            device.upload(addresses[name], array)
        plan.run(0, {n: v.shape for n, v in values.items()}, addresses)
        for name, array in results.items():
            device.download(addresses[name], array)
    finally:
        for address in addresses.values():
            device.free(address)
    return {n: a.astype(np.float32) for n, a in results.items()}
