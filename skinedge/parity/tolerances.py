"""How far apart a bundle and PyTorch may be, stage by stage.

Pixels and tokens are whole numbers of the same computation and must be identical for every target.
Float schemes are gated; for quantized weights a difference is what was paid for, so what they compute is
reported without a verdict (a verdict on answers needs many cases: REFERENCE section 7).  What is stored of
them is gated all the same: the weights within their rounding, the side branch exactly (``parity.bands``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """``metric`` of a stage may be at most ``value``."""

    metric: str
    value: float


Limits = dict[str, Limit]

_EXACT: Limits = {"pixels": Limit("max_abs", 0.0), "tokens": Limit("different", 0.0), "bias": Limit("stored", 1.0)}

# Of the largest value: features of the embedded model reach 90, where a float32's last digit alone is 8e-6, and an absolute limit
# raises false alarms.  Sound bundles are off by 1.6e-6 at most (100 pictures); the smallest planted fault by 2e-2.
_ONNX_F32: Limits = {
    "features": Limit("relative", 1e-5),
    "bias": Limit("relative", 1e-5),
    "prefill": Limit("relative", 1e-5),
    "steps": Limit("relative", 1e-5),
    "narrative": Limit("different", 0.0),
    "answer": Limit("different", 0.0),
}
# Half-precision activations round at every operator; llama.cpp keeps those of the language model in 32 bits and computes parts of
# the vision tower in 16 whatever the scheme, so that of 100 of its narratives one leaves the reference's at a near tie.  Sound
# bundles are off by 1.9e-5 at most (f32 GGUF, 53 pictures), the smallest planted fault by 2.4e-4.
_ROUNDED: Limits = {"prefill": Limit("kl_mean", 1e-4), "steps": Limit("kl_mean", 1e-4)}

_BY_SCHEME: dict[tuple[str, str], Limits] = {
    ("onnx", "f32"): _ONNX_F32,
    ("onnx", "f16"): _ROUNDED,
    ("trt", "f16"): _ROUNDED,
    ("gguf", "f32"): _ROUNDED,
    ("gguf", "f16"): _ROUNDED,
}


def limits_for(target: str, scheme: str) -> Limits:
    """The gated stages of a bundle; a stage that is absent is only reported."""
    return _EXACT | _BY_SCHEME.get((target, scheme), {})
