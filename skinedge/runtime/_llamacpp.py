"""llama.cpp's C interface, as much of it as a session needs, by ctypes.

The functions come from the shared object of ``xllamacpp`` or of llama-cpp-python
(``skinedge.quantize._ggml.libraries``).  Three of them take or return structures by value, and those
change from version to version: for xllamacpp they are declared here (``include/llama.h`` and
``tools/mtmd/mtmd.h`` of build 11549), llama-cpp-python brings its own.  Either way the defaults the
library returns are compared with the ones its source has, so that a version with another layout is
refused instead of misread.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from skinedge.errors import TargetError
from skinedge.quantize._ggml import symbol

_int, _uint, _float, _bool, _size = ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_bool, ctypes.c_size_t
_pointer, _text = ctypes.c_void_p, ctypes.c_char_p
_floats = ctypes.POINTER(ctypes.c_float)

FLASH_AUTO, FLASH_OFF = -1, 0
IMAGE_CHUNK = 1
LOG_ERROR = 4

# A structure of a later version may be longer: room for it keeps the call that returns it from
# writing past ours before it can be looked at.
_ROOM = ("room", ctypes.c_uint8 * 512)


class ModelParams(ctypes.Structure):
    """``struct llama_model_params``."""

    _fields_ = (
        *((name, _pointer) for name in ("devices", "tensor_buft_overrides")),
        *((name, _int) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, _pointer) for name in ("tensor_split", "progress_callback", "progress_user", "kv_overrides")),
        *((name, _bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp")),
        _ROOM,
    )


class ContextParams(ctypes.Structure):
    """``struct llama_context_params``."""

    _fields_ = (
        *((name, _uint) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, _uint) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, _int) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, _int) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, _float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, _float) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", _uint),
        ("defrag_thold", _float),
        *((name, _pointer) for name in ("cb_eval", "cb_eval_user_data")),
        *((name, _int) for name in ("type_k", "type_v")),
        ("moe_cache_size", _size),
        *((name, _pointer) for name in ("abort_callback", "abort_callback_data")),
        *((name, _bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")),
        ("samplers", _pointer),
        ("n_samplers", _size),
        ("ctx_other", _pointer),
        _ROOM,
    )


class VisionParams(ctypes.Structure):
    """``struct mtmd_context_params``."""

    _fields_ = (
        ("use_gpu", _bool),
        ("device", _pointer),
        ("print_timings", _bool),
        ("n_threads", _int),
        *((name, _text) for name in ("image_marker", "media_marker")),
        ("flash_attn_type", _int),
        ("warmup", _bool),
        *((name, _int) for name in ("image_min_tokens", "image_max_tokens")),
        *((name, _pointer) for name in ("cb_eval", "cb_eval_user_data")),
        ("batch_max_tokens", _int),
        *((name, _pointer) for name in ("progress_callback", "progress_callback_user_data")),
        _ROOM,
    )


class Batch(ctypes.Structure):
    """``struct llama_batch``; sequence numbers left out mean sequence 0."""

    _fields_ = (
        ("n_tokens", _int),
        *((name, _pointer) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    )


class InputPart(ctypes.Structure):
    """``struct mtmd_input_part``: text or an image."""

    _fields_ = (("text", _pointer), ("bitmap", _pointer))


Defaults = Mapping[str, float]

MODEL_DEFAULTS: Defaults = {
    "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "main_gpu": 0, "vocab_only": False, "check_tensors": False,
    "use_extra_bufts": True, "no_host": False, "no_alloc": False,
}  # fmt: skip
CONTEXT_DEFAULTS: Defaults = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max": 0, "n_threads": 4, "n_threads_batch": 4,
    "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1, "rope_freq_base": 0,
    "yarn_ext_factor": -1, "yarn_orig_ctx": 0, "type_k": 1, "type_v": 1, "embeddings": False, "offload_kqv": True,
    "no_perf": True, "op_offload": True, "swa_full": True, "kv_unified": False, "n_samplers": 0,
}  # fmt: skip
VISION_DEFAULTS: Defaults = {
    "use_gpu": True, "print_timings": True, "n_threads": 4, "flash_attn_type": -1, "warmup": True, "image_min_tokens": -1,
    "image_max_tokens": -1, "batch_max_tokens": 1024,
}  # fmt: skip


def check_defaults(params: ctypes.Structure, expected: Defaults, what: str) -> None:
    """Compare default parameters with those of the version this file is written for.

    Raises:
        TargetError: they differ, so the structure lies otherwise in memory and must not be used.
    """
    for name, value in expected.items():
        found = getattr(params, name)
        if found != value:
            raise TargetError(
                f"the installed llama.cpp is of an unknown version: its {what} have {name} = {found} where {value} was due.",
                hint="Install the one skinedge is made for: pip install 'skinedge[gguf]'.",
            )


class LlamaCpp:
    """The functions, checked and silenced; ``last_error`` is what llama.cpp last complained of.

    Raises:
        MissingDependencyError: llama.cpp is not installed.
        TargetError: it is of a version with another layout.
    """

    def __init__(self) -> None:
        model, context, vision = _structures()
        self.model_params = symbol("llama_model_default_params", model)
        self.context_params = symbol("llama_context_default_params", context)
        self.vision_params = symbol("mtmd_context_params_default", vision)
        check_defaults(self.model_params(), MODEL_DEFAULTS, "model parameters")
        check_defaults(self.context_params(), CONTEXT_DEFAULTS, "context parameters")
        check_defaults(self.vision_params(), VISION_DEFAULTS, "vision parameters")
        self.load_model = symbol("llama_model_load_from_file", _pointer, _text, model)
        self.new_context = symbol("llama_init_from_model", _pointer, _pointer, context)
        self.load_vision = symbol("mtmd_init_from_file", _pointer, _text, _pointer, vision)
        self.free_model = symbol("llama_model_free", None, _pointer)
        self.free_context = symbol("llama_free", None, _pointer)
        self.free_vision = symbol("mtmd_free", None, _pointer)
        self.vocab = symbol("llama_model_get_vocab", _pointer, _pointer)
        self.vocab_size = symbol("llama_vocab_n_tokens", _int, _pointer)
        self.feature_size = symbol("llama_model_n_embd_inp", _int, _pointer)
        self.supports_gpu = symbol("llama_supports_gpu_offload", _bool)
        self.memory = symbol("llama_get_memory", _pointer, _pointer)
        self.clear = symbol("llama_memory_clear", None, _pointer, _bool)
        self.forget = symbol("llama_memory_seq_rm", _bool, _pointer, _int, _int, _int)
        self.decode = symbol("llama_decode", _int, _pointer, Batch)
        self.logits = symbol("llama_get_logits_ith", _floats, _pointer, _int)
        self.new_bitmap = symbol("mtmd_bitmap_init", _pointer, _uint, _uint, _pointer)
        self.free_bitmap = symbol("mtmd_bitmap_free", None, _pointer)
        self.new_chunks = symbol("mtmd_input_chunks_init", _pointer)
        self.free_chunks = symbol("mtmd_input_chunks_free", None, _pointer)
        self.chunk_count = symbol("mtmd_input_chunks_size", _size, _pointer)
        self.chunk = symbol("mtmd_input_chunks_get", _pointer, _pointer, _size)
        self.chunk_type = symbol("mtmd_input_chunk_get_type", _int, _pointer)
        self.chunk_tokens = symbol("mtmd_input_chunk_get_n_tokens", _size, _pointer)
        parts = ctypes.POINTER(ctypes.POINTER(InputPart))
        self.tokenize = symbol("mtmd_tokenize_from_parts", _int, _pointer, _pointer, parts, _size, _bool)
        self.encode = symbol("mtmd_encode_chunk", _int, _pointer, _pointer)
        self.features = symbol("mtmd_get_output_embd", _floats, _pointer)
        self.last_error = ""
        self._silence()
        symbol("llama_backend_init", None)()

    def _silence(self) -> None:
        """Keep llama.cpp's log off the terminal; the callback must outlive every call."""
        self._callback = ctypes.CFUNCTYPE(None, _int, _text, _pointer)(self._heard)
        for function in ("llama_log_set", "mtmd_log_set"):
            symbol(function, None, _pointer, _pointer)(ctypes.cast(self._callback, _pointer), None)

    def _heard(self, level: int, text: bytes | None, user: int | None) -> None:
        del user
        if level == LOG_ERROR and text and text.strip():
            self.last_error = text.decode("utf-8", "replace").strip()


@functools.cache
def llama_cpp() -> LlamaCpp:
    """The interface, loaded once."""
    return LlamaCpp()


def _structures() -> tuple[Any, Any, Any]:
    """The three structures that are passed by value, as the installed package declares them."""
    if importlib.util.find_spec("llama_cpp"):
        llama, mtmd = importlib.import_module("llama_cpp.llama_cpp"), importlib.import_module("llama_cpp.mtmd_cpp")
        return llama.llama_model_params, llama.llama_context_params, mtmd.mtmd_context_params
    return ModelParams, ContextParams, VisionParams
