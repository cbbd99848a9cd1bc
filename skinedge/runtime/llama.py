"""The session over llama.cpp: a GGUF bundle in this process, with raw logits.

No server and no socket: tokens and positions go in through the C interface exactly as the prompt has
them (llama.cpp's own tokenizer, template and image resize are not used, each of which differs from the
reference somewhere), and all logits come out.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from skinedge.errors import BundleError, NotFiniteError, PromptError, TargetError, UsageError
from skinedge.model.adapter import BranchOutput
from skinedge.model.config import ModelConfig
from skinedge.quantize._ggml import TYPES
from skinedge.runtime._gguf_head import head_times
from skinedge.runtime._llamacpp import FLASH_AUTO, FLASH_OFF, IMAGE_CHUNK, Batch, InputPart, LlamaCpp, llama_cpp
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, check_prompt
from skinedge.weights.source import Array

Branch = Callable[[Float32], BranchOutput]  # patch rows [P, 1176] -> what the adapter says of the image

DEVICES = ("auto", "cpu", "cuda")
# Keys and values are allocated at once: 470 MB for this many positions of the 7B.
DEFAULT_CONTEXT = 8192
BATCH = 512  # positions computed together
# Positions whose logits are kept at a time: llama.cpp reserves memory for this many rows of the vocabulary.
OUTPUTS = 16
# No image is enlarged or reduced by llama.cpp: the processor has settled its size.
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 1, 16384


@dataclass(frozen=True)
class Arithmetic:
    """How exactly llama.cpp computes attention.

    ``cache`` is the type of keys and values; "flash" attention needs no memory that grows with the square
    of the length, but on a CPU it adds up in 16-bit floats.  That alone moves the logits by a KL of 7e-6
    (tiny model): more than 16-bit weights do (2e-6), nothing beside 4-bit ones (1e-1).
    """

    cache: str = "f16"
    text_flash: bool = True
    vision_flash: bool = True


FAST = Arithmetic()
CAREFUL = Arithmetic(text_flash=False)
EXACT = Arithmetic("f32", text_flash=False, vision_flash=False)


class LlamaSession:
    """A GGUF bundle, open.  Implements ``skinedge.runtime.session.Session``.

    Args:
        text: ``model.gguf``.
        vision: ``mmproj.gguf``.
        config: the model's sizes.
        branch: the adapter's side branch, if the model has one.
        arithmetic: how exactly attention is computed.
        threads: CPU threads, at most as many as the machine has; all physical cores if not given.
        context: positions to make room for.
        device: ``cpu``, ``cuda``, or ``auto`` for whatever llama.cpp was built for.

    Raises:
        MissingDependencyError: llama.cpp is not installed.
        TargetError: it is of another version, or has no such device.
        BundleError: a file is missing, damaged, or of another model.
    """

    def __init__(
        self,
        text: Path,
        vision: Path,
        config: ModelConfig,
        *,
        branch: Branch | None = None,
        arithmetic: Arithmetic = FAST,
        threads: int | None = None,
        context: int | None = None,
        device: str = "auto",
    ) -> None:
        self._api = llama_cpp()
        self._text, self._config, self._branch = text, config, branch
        # Waiting threads spin: more of them than the machine runs at once only stand in each other's way.
        self._threads = max(1, min(threads or psutil.cpu_count(logical=False) or 1, os.cpu_count() or 1))
        longest = config.text.max_position_embeddings
        self.vocab_size = config.text.vocab_size
        self.context_length = min(context or DEFAULT_CONTEXT, longest)
        self.on_gpu = _on_gpu(self._api, device)
        with ExitStack() as stack:
            model = self._load_model(stack)
            self._context: int | None = self._new_context(stack, model, arithmetic)
            self._vision: int | None = self._load_vision(stack, model, vision, arithmetic)
            # Freed in the order vision, context, model; by close(), or when the session is forgotten.
            self._free = weakref.finalize(self, stack.pop_all().close)
        self._bias: Float32 | None = None
        self._length = self._next_position = 0

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """Run the vision tower and, if there is one, the adapter branch.

        Raises:
            NotFiniteError: the features are no numbers.
            TargetError: llama.cpp saw another image than was given.
        """
        features = _finite(
            self._features(pixels),
            "the vision tower's features",
            "Export it with --vision-scheme bf16, or with --overflow and a report of skinedge overflow.",
        )
        if self._branch is None:
            return ImageEncoding(pixels.grid, features, None, None)
        seen = self._branch(pixels.patches)
        return ImageEncoding(pixels.grid, features, head_times(self._text, seen.shift, self._threads), seen.skin)

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
        is_image = prompt.token_ids == self._config.image_token_id
        features = np.concatenate([image.features for image in images]) if images else np.zeros((0, 0), np.float32)
        if is_image.sum() != len(features):
            raise PromptError(f"the prompt has {is_image.sum()} image tokens and its images have {len(features)}.")
        self._forget(prompt, keep)
        self._bias, self._length, self._next_position = bias, keep, prompt.next_position
        logits: list[Float32] = []
        taken = int(is_image[:keep].sum())
        for run in _runs(is_image, OUTPUTS if all_positions else BATCH, keep):
            wanted = np.full(run.stop - run.start, all_positions, np.int8)
            wanted[-1] |= run.stop == len(is_image)
            positions = prompt.positions[:, run]
            if is_image[run.start]:
                block = features[taken : taken + len(wanted)]
                taken += len(wanted)
                logits += self._decode_features(block, positions, wanted)
            else:
                logits += self._decode_tokens(prompt.token_ids[run], positions[0], wanted)
        return np.stack(logits) if all_positions else logits[-1]

    def step(self, token: int) -> Float32:
        """See ``Session.step``."""
        if self._length >= self.context_length:
            raise PromptError(f"the context of {self.context_length} tokens is full.", hint="Open with a longer --context.")
        position = np.array([self._next_position])
        self._next_position += 1
        return self._decode_tokens(np.array([token]), position, np.ones(1, np.int8))[0]

    def close(self) -> None:
        """Free the model.  Calling it twice is harmless."""
        self._context = self._vision = self._branch = None
        self._free()

    def _forget(self, prompt: Prompt, keep: int) -> None:
        """Empty the cache from ``keep`` on.

        llama.cpp forgets by position and not by place, and the tokens of one image share theirs in time, which is the
        one that counts: a cut inside an image would take all of it away.
        """
        memory = self._api.memory(_alive(self._context))
        if keep:
            cut = int(prompt.positions[0, keep])
            if cut > prompt.positions[0, keep - 1] and self._api.forget(memory, 0, cut, -1):
                return
            raise TargetError(f"llama.cpp cannot keep the first {keep} positions of the conversation.")
        # The last conversation's keys and values are overwritten, too: they are patient data.
        self._api.clear(memory, True)

    def _load_model(self, stack: ExitStack) -> int:
        api = self._api
        params = api.model_params()
        params.n_gpu_layers = -1 if self.on_gpu else 0
        model = _opened(self._text, lambda path: api.load_model(path, params), api)
        stack.callback(api.free_model, model)
        found = api.vocab_size(api.vocab(model)), api.feature_size(model)
        if found != (self.vocab_size, self._config.text.hidden_size):
            raise BundleError(f"{self._text}: it has {found[0]} tokens of {found[1]} values, which is not the manifest's model.")
        return model

    def _new_context(self, stack: ExitStack, model: int, arithmetic: Arithmetic) -> int:
        params = self._api.context_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.context_length, BATCH, BATCH
        params.n_outputs_max = params.n_outputs_max_per_seq = OUTPUTS
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = FLASH_AUTO if arithmetic.text_flash else FLASH_OFF
        params.type_k = params.type_v = TYPES[arithmetic.cache].code
        params.offload_kqv = params.op_offload = self.on_gpu
        context: int | None = self._api.new_context(model, params)
        if not context:
            raise TargetError(
                f"llama.cpp cannot make room for {self.context_length} positions: {self._api.last_error}",
                hint="Open with a shorter --context.",
            )
        stack.callback(self._api.free_context, context)
        return context

    def _load_vision(self, stack: ExitStack, model: int, path: Path, arithmetic: Arithmetic) -> int:
        api = self._api
        params = api.vision_params()
        params.use_gpu, params.n_threads = self.on_gpu, self._threads
        params.flash_attn_type = FLASH_AUTO if arithmetic.vision_flash else FLASH_OFF
        params.print_timings = params.warmup = False
        params.image_min_tokens, params.image_max_tokens = MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS
        vision = _opened(path, lambda name: api.load_vision(name, model, params), api)
        stack.callback(api.free_vision, vision)
        return vision

    def _features(self, pixels: Pixels) -> Float32:
        """``[patches / 4, hidden]``; the image goes in as it is, since it already has the size llama.cpp would give it."""
        api, vision = self._api, _alive(self._vision)
        image = np.ascontiguousarray(pixels.image)
        with ExitStack() as stack:
            bitmap = api.new_bitmap(image.shape[1], image.shape[0], image.ctypes.data)
            stack.callback(api.free_bitmap, bitmap)
            chunks = api.new_chunks()
            stack.callback(api.free_chunks, chunks)
            part = InputPart(bitmap=bitmap)
            failed = api.tokenize(vision, chunks, (ctypes.POINTER(InputPart) * 1)(ctypes.pointer(part)), 1, False)
            found = [api.chunk(chunks, i) for i in range(api.chunk_count(chunks))]
            seen = [chunk for chunk in found if api.chunk_type(chunk) == IMAGE_CHUNK]
            tokens = [api.chunk_tokens(chunk) for chunk in seen]
            if failed or tokens != [pixels.grid.patches // 4]:
                raise TargetError(f"llama.cpp made {tokens} tokens of an image of {pixels.grid.patches // 4}.")
            if api.encode(vision, seen[0]):
                raise TargetError(f"llama.cpp could not encode the image: {api.last_error}")
            shape = (tokens[0], self._config.text.hidden_size)
            return np.ctypeslib.as_array(api.features(vision), shape).copy()

    def _decode_tokens(self, ids: Array, positions: Array, wanted: Array) -> list[Float32]:
        ids, positions = np.ascontiguousarray(ids, np.int32), np.ascontiguousarray(positions, np.int32)
        batch = Batch(len(ids), token=ids.ctypes.data, pos=positions.ctypes.data, logits=wanted.ctypes.data)
        return self._decode(batch, wanted)

    def _decode_features(self, features: Float32, positions: Array, wanted: Array) -> list[Float32]:
        """Image features take four positions each, axis by axis: time, height, width, unused."""
        axes = np.zeros((4, len(features)), np.int32)
        axes[:3] = positions
        features = np.ascontiguousarray(features, np.float32)
        batch = Batch(len(features), embd=features.ctypes.data, pos=axes.ctypes.data, logits=wanted.ctypes.data)
        return self._decode(batch, wanted)

    def _decode(self, batch: Batch, wanted: Array) -> list[Float32]:
        context = _alive(self._context)
        code = self._api.decode(context, batch)
        if code:
            raise TargetError(
                f"llama.cpp could not compute the next {len(wanted)} positions (code {code}): {self._api.last_error}"
            )
        self._length += len(wanted)
        rows = [np.ctypeslib.as_array(self._api.logits(context, int(i)), (self.vocab_size,)) for i in np.flatnonzero(wanted)]
        hint = "Export it again with another --scheme."
        return [_finite(row.copy() if self._bias is None else row + self._bias, "the logits", hint) for row in rows]


def _on_gpu(api: LlamaCpp, device: str) -> bool:
    if device not in DEVICES:
        raise UsageError(f"unknown device '{device}'.", hint=f"Known: {', '.join(DEVICES)}.")
    available = bool(api.supports_gpu())
    if device == "cuda" and not available:
        raise TargetError(
            "the installed llama.cpp was built without a GPU.", hint="Install llama-cpp-python with CUDA, or use --device cpu."
        )
    return available and device != "cpu"


def _opened(path: Path, load: Callable[[bytes], int | None], api: LlamaCpp) -> int:
    if not path.is_file():
        raise BundleError(f"{path} is missing.", hint="Export the bundle again.")
    api.last_error = ""
    handle = load(os.fsencode(path))
    if not handle:
        raise BundleError(f"{path} cannot be opened: {api.last_error}", hint="Check the bundle: skinedge verify.")
    return handle


def _alive(handle: int | None) -> int:
    if handle is None:
        raise TargetError("the session is closed.", hint="Open the bundle again.")
    return handle


def _finite(values: Float32, what: str, hint: str) -> Float32:
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{what} are not finite numbers: 16-bit floats overflowed.", hint=hint)
    return values


def _runs(is_image: Array, longest: int, begin: int = 0) -> Iterator[slice]:
    """Stretches of only text or only image tokens from ``begin`` on, at most ``longest`` each."""
    turns = np.flatnonzero(np.diff(is_image[begin:].astype(np.int8))) + 1 + begin
    edges = [begin, *turns.tolist(), len(is_image)]
    for start, stop in itertools.pairwise(edges):
        for first in range(start, stop, longest):
            yield slice(first, min(stop, first + longest))
