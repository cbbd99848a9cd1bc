"""Are a bundle's weights those of the checkpoint, within the rounding that was paid for?

How far a matrix may be from the checkpoint's depends on nothing but its scheme and its own values, so it can be worked out:
rounding to nearest in the scheme that the file declares is repeated from the checkpoint, and the file's relative error may be
at most ``MOST`` times that one's.  Scales that lie transposed, a block that was shifted, a wrong zero point give errors of the
weights' own size.  The side branch is stored in float32 by every scheme and must be the checkpoint's.  Why this is the gate:
docs/decisions/0019-gating-quantized-bundles.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.graph.adapter import build_adapter
from skinedge.parity.stored import Held, held_branch, held_tensors
from skinedge.quantize._int4 import scheme_name
from skinedge.weights.source import F32, Float32

if TYPE_CHECKING:
    from skinedge.manifest import Manifest
    from skinedge.weights.checkpoint import Checkpoint
    from skinedge.weights.source import TensorSource

# Rounding by importances or GPTQ trades a matrix's own error for its outputs' (measured: docs/decisions/0019).
MOST = 2.0
_FLOAT = {"f32": 1e-6, "f16": 1e-3, "bf16": 8e-3}  # half a step of the type, relative to the value, and some room


@dataclass(frozen=True)
class Rounding:
    """A matrix as the bundle has it: its relative error, and what the scheme's own rounding comes to.

    ``share`` of what it may be: above 1 it is not that scheme's rounding of these weights.
    """

    name: str
    kind: str
    error: float
    nearest: float

    @property
    def share(self) -> float:
        """``error`` over the most it may be."""
        return self.error / (MOST * self.nearest)

    @property
    def of_branch(self) -> bool:
        """Whether the side branch computes with it."""
        return self.name.startswith("adapter.")


def roundings(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> Iterator[Rounding]:
    """Every tensor of the bundle beside the checkpoint's, adapters merged.

    Args:
        folder: the bundle.
        manifest: its manifest.
        checkpoint: what it was made from.
    """
    for held in held_tensors(folder, manifest):
        yield rounding_of(held, checkpoint.weights)
    if checkpoint.side_branch:
        expected = build_adapter(checkpoint.side_branch).weights
        for name, values in held_branch(folder, manifest):
            exact = expected[name].values() if name in expected else None
            same = exact is not None and exact.shape == values.shape
            yield Rounding(name, "f32", _relative(exact, values) if exact is not None and same else math.inf, _FLOAT["f32"])


def rounding_of(held: Held, weights: TensorSource) -> Rounding:
    """One tensor beside the checkpoint's."""
    exact = weights.read(held.name).astype(F32).reshape(held.values.shape)
    nearest = _relative(exact, _nearest(held, weights, exact)) if held.quantized else _FLOAT[held.kind]
    # A matrix that its scheme holds exactly (all zero, say) has no error to be compared with.
    return Rounding(held.name, held.kind, _relative(exact, held.values), max(nearest, 1e-6))


def _relative(exact: Float32, other: Float32) -> float:
    size = float(np.linalg.norm(exact)) or 1.0
    return float(np.linalg.norm(exact - other)) / size


def _nearest(held: Held, weights: TensorSource, exact: Float32) -> Float32:
    """The checkpoint's tensor, rounded to nearest in the scheme that ``held`` declares."""
    from skinedge.quantize._ggml import TYPES, quantize

    if held.kind in TYPES:
        from skinedge.targets._gguf_tensors import import_gguf

        gguf = import_gguf()
        packed = quantize(TYPES[held.kind], exact.reshape(len(exact), -1))
        kind = gguf.GGMLQuantizationType[held.kind.upper()]
        found: Float32 = np.asarray(gguf.quants.dequantize(packed, kind), F32).reshape(exact.shape)
        return found
    from skinedge.graph.weights import store

    scheme = scheme_name(held.block or 32, asymmetric=held.asymmetric) if held.kind in ("int4", "uint4") else held.kind
    return store(weights, held.name, scheme, "f32").restore().T.reshape(exact.shape)
