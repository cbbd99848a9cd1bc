"""Which scheme each weight of a graph gets, and the record of what it got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skinedge.graph.builder import GraphBuilder
from skinedge.graph.precision import Precision
from skinedge.quantize._rounding import NEAREST, choose
from skinedge.quantize._storage import StoredMatrix, StoredTensor, store_rows
from skinedge.registry import load
from skinedge.targets._contract import Applied
from skinedge.weights.cast import FLOATS
from skinedge.weights.source import TensorSource

if TYPE_CHECKING:
    import onnx_ir as ir

    from skinedge.calibration.statistics import LinearInputs


def store(
    source: TensorSource, name: str, scheme: str, kind: str, inputs: LinearInputs | None = None, rounding: str | None = None
) -> StoredMatrix:
    """A linear layer's weight, transposed and in its scheme, rounded with what is known of its inputs.

    Args:
        source: has the weight ``[out, in]``.
        name: its name there.
        scheme: a file of ``skinedge/quantize``.
        kind: float type of the activations.
        inputs: what the layer was given on photographs.
        rounding: how few-bit schemes round; ``None`` the best that ``inputs`` allows.

    Raises:
        UsageError: the rounding needs statistics that are not there.
        CalibrationError: they are of another model.
    """
    known = choose(rounding, inputs, name, source.spec(name).cols) if scheme.startswith("int4") else NEAREST
    stored: StoredMatrix = load("quantize", "scheme", scheme).store(source, name, kind, known)
    return stored


@dataclass
class GraphWeights:
    """The weights of one graph as promises, and a record of the scheme each tensor got.

    ``precision`` says in which float type each part computes: its weights, or their scales, are stored in it.
    ``scheme_of`` maps a linear layer's tensor name to a scheme (a file of ``skinedge/quantize``), ``inputs_of`` to what
    the layer was given on photographs; ``rounding`` is how few-bit schemes round, ``None`` the best that this allows.

    Raises:
        UsageError: from ``matrix``: the rounding needs statistics that are not there.
        CalibrationError: likewise: they are of another model.
    """

    source: TensorSource
    precision: Precision
    scheme_of: Callable[[str], str]
    inputs_of: Callable[[str], LinearInputs | None] = lambda _: None
    rounding: str | None = None
    applied: dict[str, Applied] = field(default_factory=dict)

    def matrix(self, name: str, *, quantized: bool = True) -> StoredMatrix:
        """A linear layer's weight, transposed and in its scheme, or in its part's float type if it must not be quantized."""
        kind, scheme = self.precision.part(name), self.scheme_of(name)
        if not quantized or scheme in FLOATS:
            scheme = kind
        stored = store(self.source, name, scheme, kind, self.inputs_of(name), self.rounding)
        self.applied[name] = Applied(stored.scheme, stored.bits, self.source.spec(name).size)
        return stored

    def rows(self, name: str, kind: str) -> StoredTensor:
        """A tensor as it lies, in a float type: a bias or a norm."""
        stored = store_rows(self.source, name, kind)
        size = self.source.spec(name).size
        self.applied[name] = Applied(kind, stored.payload.nbytes * 8 / size, size)
        return stored

    def linear(self, g: GraphBuilder, x: ir.Value, module: str, *, bias: bool = True) -> ir.Value:
        """``x @ W (+ b)`` of the linear layer ``module``; ``x`` has three axes and the type of the layer's part."""
        y = g.matmul(x, self.matrix(f"{module}.weight"))
        return g.op("Add", y, g.weight(self.rows(f"{module}.bias", self.precision.part(module)))) if bias else y

    def rms_norm(self, g: GraphBuilder, x: ir.Value, module: str, epsilon: float, kind: str) -> ir.Value:
        """Root mean square normalisation over the last axis of ``x``, of type ``kind`` (ONNX RMSNormalization-23)."""
        return g.op("RMSNormalization", x, g.weight(self.rows(f"{module}.weight", kind)), axis=-1, epsilon=epsilon)
