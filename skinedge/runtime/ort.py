"""The session over ONNX Runtime: four graphs, an embedding table, a cache that is updated in place.

Past and present of every layer are bound to one buffer, so a step writes one position and copies
nothing.  The buffer is as long as the conversation needs: attention pays for its whole length, so it
starts short and grows.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from skinedge.errors import BundleError, MissingDependencyError, PromptError, TargetError
from skinedge.model.config import ModelConfig
from skinedge.runtime.embedding import EmbeddingTable
from skinedge.runtime.large_pages import large_pages
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, check_prompt
from skinedge.runtime.windows import vision_feeds
from skinedge.weights.source import Array

if TYPE_CHECKING:
    import onnxruntime as ort

CACHE_STEP = 256
CUDA = "CUDAExecutionProvider"
# onnxruntime's session settings; see docs/decisions/0018-decode-speed.md.
SETTINGS: Mapping[str, str] = MappingProxyType({
    # Products with few-bit weights round their inputs to 8 bits, block by block, as llama.cpp and onnxruntime-genai do.
    # "0" keeps them in 32 bits, at half the speed.
    "session.qdq_matmulnbits_accuracy_level": "4",
    # Spinning threads burn a shared CPU between the steps of a decoder.
    "session.intra_op.allow_spinning": "0",
})  # fmt: skip
_NUMPY = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
}


class OrtSession:
    """A bundle's ONNX graphs, open.  Implements ``skinedge.runtime.session.Session``.

    ``settings`` are onnxruntime's, by its own names: ``SETTINGS`` if not given.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        BundleError: a graph is missing or damaged.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        threads: int | None = None,
        context: int | None = None,
        device: str = "auto",
        settings: Mapping[str, str] = SETTINGS,
    ) -> None:
        self._config, self.settings = config, settings

        def opened(name: str) -> ort.InferenceSession:
            return open_graph(folder / f"{name}.onnx", threads, device, settings)

        with large_pages():
            self._decoder, self._head = opened("decoder"), opened("head")
        self._vision = opened("vision")
        self._adapter = opened("adapter") if (folder / "adapter.onnx").exists() else None
        self._table = EmbeddingTable(folder, config)
        types = {i.name: i.type for i in self._decoder.get_inputs()}
        self._float = _NUMPY[types["inputs_embeds"]]
        # Where activations overflow some of these are wider than others (skinedge.graph.precision).
        self._hidden = _NUMPY[next(i.type for i in self._head.get_inputs() if i.name == "hidden")]
        # Hidden states stay where they are made until the head has read them.
        self.on_gpu = CUDA in self._decoder.get_providers()
        self._place = "cuda" if self.on_gpu else "cpu"
        self._cache = _Cache(self._decoder, config, self._place)
        self._head_binding = self._head.io_binding()
        self._bias = np.zeros((1, config.text.vocab_size), np.float32)
        self._length = 0
        self._next_position = 0
        self.vocab_size = config.text.vocab_size
        most = self._cache.fixed or config.text.max_position_embeddings
        self.context_length = min(context or most, most)

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """Run the vision tower and, if there is one, the adapter branch."""
        feeds = vision_feeds(pixels, self._config.vision)
        features = _run(self._vision, feeds, ["image_features"])[0]
        if self._adapter is None:
            return ImageEncoding(pixels.grid, features, None, None)
        shift, skin = _run(self._adapter, {"pixel_values": pixels.patches}, ["shift", "skin"])
        unbiased = np.zeros_like(self._bias)
        bias = _run(self._head, {"hidden": shift[None].astype(self._hidden), "logit_bias": unbiased}, ["logits"])[0]
        return ImageEncoding(pixels.grid, features, bias[0, 0], skin[0])

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
        self._bias = np.zeros((1, self.vocab_size), np.float32) if bias is None else bias.reshape(1, -1).astype(np.float32)
        self._head_binding.bind_ortvalue_input("logit_bias", to_ort(self._bias))  # which does not own the memory
        self._length, self._next_position = keep, prompt.next_position
        embeds = self._table.mix(prompt.token_ids, images)[keep:]
        wanted = np.arange(len(embeds)) if all_positions else np.array([len(embeds) - 1])
        logits = self._forward(embeds, prompt.positions[:, keep:], wanted.astype(np.int64))
        return logits if all_positions else logits[0]

    def step(self, token: int) -> Float32:
        """See ``Session.step``."""
        if self._length >= self.context_length:
            raise PromptError(f"the context of {self.context_length} tokens is full.", hint="Open with a longer --context.")
        positions = np.full((3, 1), self._next_position, np.int64)
        self._next_position += 1
        embedding = self._table.rows(np.array([token], np.int64))
        logits: Float32 = self._forward(embedding, positions, np.zeros(1, np.int64))[0]
        return logits

    def close(self) -> None:
        """Free the graphs and the cache."""
        for name in ("_head_binding", "_cache", "_decoder", "_head", "_vision", "_adapter", "_table"):
            if hasattr(self, name):
                delattr(self, name)

    def _forward(self, embeds: Float32, positions: Array, wanted: Array) -> Float32:
        self._cache.reserve(self._length + len(embeds), self.context_length, keep=self._length)
        binding = self._cache.binding()
        feeds: dict[str, Array] = {
            "inputs_embeds": embeds[None].astype(self._float),
            "position_ids": positions,
            "start": np.array([self._length], np.int64),
            "hidden_index": wanted,
        }
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, to_ort(value))
        binding.bind_output("hidden", self._place)
        self._decoder.run_with_iobinding(binding)
        self._length += len(embeds)
        return self._logits(binding.get_outputs()[0], len(wanted))

    def _logits(self, hidden: ort.OrtValue, count: int) -> Float32:
        """``[count, vocabulary]``, written where the caller gets it."""
        logits: Float32 = np.empty((1, count, self.vocab_size), np.float32)
        self._head_binding.bind_ortvalue_input("hidden", hidden)
        self._head_binding.bind_ortvalue_output("logits", to_ort(logits))
        self._head.run_with_iobinding(self._head_binding)
        last: Float32 = logits[0]
        return last


class _Cache:
    """Keys and values of all layers, each in one buffer that is both input and output."""

    def __init__(self, decoder: ort.InferenceSession, config: ModelConfig, place: str) -> None:
        self._decoder, self._place = decoder, place
        self._binding: ort.IOBinding | None = None
        pasts = [i for i in decoder.get_inputs() if i.name.startswith("past.")]
        self._names = [i.name for i in pasts]
        length = pasts[0].shape[2]
        self.fixed = length if isinstance(length, int) else None  # a graph made for TensorRT
        self._dtypes = [_NUMPY[i.type] for i in pasts]
        self._shape = (1, config.text.num_kv_heads, 0, config.text.head_dim)
        self._buffers: list[Array] = []
        self._values: list[ort.OrtValue] = []
        self._length = 0

    def reserve(self, needed: int, limit: int, keep: int) -> None:
        """Make room for ``needed`` positions, keeping the first ``keep``."""
        if needed <= self._length:
            return
        self._length = self.fixed or max(needed, min(limit, -(-needed // CACHE_STEP) * CACHE_STEP))
        batch, heads, _, width = self._shape
        grown = []
        for i, dtype in enumerate(self._dtypes):
            buffer = np.zeros((batch, heads, self._length, width), dtype)
            if keep:
                buffer[:, :, :keep] = self._buffers[i][:, :, :keep]
            grown.append(buffer)
        self._buffers = grown
        self._values = [to_ort(b) for b in grown]
        self._binding = None

    def binding(self) -> ort.IOBinding:
        """The decoder's binding: ``hidden``, to be bound anew for each run, and each buffer as past and as present."""
        # For a GPU an input is copied when it is bound, so the last run's present must be bound again.
        if self._binding is None or self._place != "cpu":
            self._binding = self._decoder.io_binding()
            self._binding.bind_output("hidden", self._place)  # first: get_outputs() follows the order of binding
            for name, value in zip(self._names, self._values, strict=True):
                self._binding.bind_ortvalue_input(name, value)
                self._binding.bind_ortvalue_output(name.replace("past.", "present.", 1), value)
        return self._binding


def open_graph(path: Path, threads: int | None, device: str, settings: Mapping[str, str] = SETTINGS) -> ort.InferenceSession:
    """Open one ONNX file on the CPU, or on a GPU where onnxruntime-gpu finds one; ``settings`` are onnxruntime's.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        BundleError: the file is missing or damaged.
        TargetError: ``device`` is not to be had, or a type of the graph's cannot be computed there.
    """
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise MissingDependencyError(
            "running an ONNX graph needs onnxruntime.", hint="Install it: pip install 'skinedge[onnx]'."
        ) from e
    if not path.is_file():
        raise BundleError(f"{path} is missing.", hint="Export the bundle again.")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # onnxruntime starts as many threads as it is told to, needed or not.
    options.intra_op_num_threads = min(threads or 0, os.cpu_count() or 1)
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    available = ort.get_available_providers()
    if device == "cuda" and CUDA not in available:
        raise TargetError(
            "onnxruntime has no CUDA here.", hint="Install it: pip install 'skinedge[onnx-gpu]', or run on the CPU."
        )
    providers = [p for p in (CUDA, "CPUExecutionProvider") if p in available and (device != "cpu" or p != CUDA)]
    if CUDA in providers:
        _load_cuda()
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as e:  # onnxruntime raises its own classes, which are not exported under stable names
        reason = str(e).splitlines()[0]
        if "NOT_IMPLEMENTED" in reason:
            what = reason.rpartition(":")[2].strip()
            raise TargetError(
                f"{path.name} uses an operator in a type that onnxruntime cannot compute here ({what}).",
                hint="bf16 graphs need a GPU: export with --scheme f32, f16, int8 or int4 for a CPU.",
            ) from e
        raise BundleError(f"{path} cannot be opened: {reason}.", hint="Check the bundle: skinedge verify.") from e
    if device == "cuda" and CUDA not in session.get_providers():  # onnxruntime goes on with the CPU by itself
        raise TargetError(
            "onnxruntime cannot load CUDA here: a driver, CUDA's libraries or cuDNN is missing or of another version.",
            hint="Install the libraries with it: pip install 'skinedge[onnx-gpu]', or run on the CPU.",
        )
    return session


@functools.cache
def _load_cuda() -> None:
    """Load the CUDA and cuDNN that pip has installed, where no linker looks; what is missing shows when it is used."""
    import onnxruntime as ort

    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()


def to_ort(array: Array) -> ort.OrtValue:
    """An array as ONNX Runtime's own value, sharing memory where the type allows it."""
    import onnxruntime as ort

    array = np.ascontiguousarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), 16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _run(session: ort.InferenceSession, feeds: dict[str, Array], outputs: list[str]) -> list[Float32]:
    """Float32 outputs by name."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, to_ort(value))
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return [value.numpy() for value in binding.get_outputs()]
