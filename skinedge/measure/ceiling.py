"""How fast a bundle could decode at most: every token reads all weights of the language model and the cache so far.

``tokens/s <= bandwidth / (weight bytes + cache bytes a position * context)`` (REFERENCE section 6).
"""

from __future__ import annotations

from skinedge.devices import known_devices, read_device
from skinedge.manifest import Manifest
from skinedge.measure.result import Result

_FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
# Weights that fit into a cache are not read from memory: the ceiling says nothing about them (largest: 384 MiB).
SAYS_NOTHING_BELOW = 768 << 20


def weight_bytes(manifest: Manifest) -> int | None:
    """Bytes of weights that one token reads: decoder and head, not the embedding's table, the vision tower or the side branch.

    ``None`` for a target that skinedge does not run.
    """
    nbytes = {f.path: f.nbytes for f in manifest.files}
    for folder in ("", "onnx/"):  # a plan holds its graph's weights, some of them twice, and reads one of the two
        files = [f"{folder}{graph}.onnx.data" for graph in ("decoder", "head")]
        if all(f in nbytes for f in files):
            return sum(nbytes[f] for f in files)
    if manifest.target != "gguf":
        return None
    head = "output.weight" if "output.weight" in manifest.applied else "token_embd.weight"
    read = [a for n, a in manifest.applied.items() if n.startswith(("blk.", "output_norm.")) or n == head]
    return round(sum(a.bits * a.weights for a in read) / 8)


def cache_bytes(manifest: Manifest) -> int:
    """Bytes of keys and values that one position of context takes (57,344 for the 7B in 16 bits)."""
    text = manifest.architecture.text
    return 2 * text.num_layers * text.num_kv_heads * text.head_dim * _FLOAT_BYTES[_cache_type(manifest)]


def _cache_type(manifest: Manifest) -> str:
    """The floats of the cache: those of the activations, as each target chooses them where nothing is asked."""
    scheme, asked = manifest.scheme.asked, manifest.scheme.activations
    if manifest.target == "gguf":
        return "f32" if scheme == "f32" else "f16"
    if asked in _FLOAT_BYTES:
        return str(asked)
    if manifest.target == "trt":
        return "bf16" if scheme == "bf16" else "f16"
    return scheme if scheme in _FLOAT_BYTES else "f32"


def memory_gb_s(result: Result) -> tuple[float, str] | None:
    """GB/s at which the memory that held the weights can be read at most, and who says so.

    The probe of the run, or the data sheet of the device that the machine was said to be, if that is more: a probe may be slow.
    The data sheet of a graphics card says nothing of a run on the processor beside it.
    """
    found = [(result.bandwidth_gb_s, "probe on the machine")] if result.bandwidth_gb_s else []
    name = result.machine.device
    if name in known_devices():
        device = read_device(name)
        elsewhere = {"gpu": "cpu", "cpu": "gpu"}.get(device.kind, "nowhere")
        if device.bandwidth_gb_s and result.flags.get("ran_on") != elsewhere:
            found.append((device.bandwidth_gb_s, "data sheet"))
    return max(found, default=None)


def ceiling(bandwidth: float, weights: int, cache: int, context: float) -> float:
    """Tokens a second at most.

    Args:
        bandwidth: bytes a second.
        weights: bytes that a token reads of them.
        cache: bytes of keys and values a position.
        context: positions so far.
    """
    return bandwidth / (weights + cache * context)
