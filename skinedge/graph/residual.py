"""The residual stream of a tower or a decoder: parts read it through a norm and add to it.

Here the float types of different places meet.  Once a block's stream is wide it stays so, for what it carries goes on:
only a norm makes it narrow again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skinedge.graph.builder import GraphBuilder
from skinedge.graph.precision import widest
from skinedge.graph.weights import GraphWeights

if TYPE_CHECKING:
    import onnx_ir as ir


class Residual:
    """The stream as it grows.

    Attributes:
        value: the stream after what was added last.
        kind: its float type.
    """

    def __init__(self, g: GraphBuilder, weights: GraphWeights, value: ir.Value, kind: str, epsilon: float) -> None:
        self._g, self._weights, self._epsilon = g, weights, epsilon
        self.value, self.kind = value, kind

    def normed(self, norm: str, part: str) -> ir.Value:
        """The stream through the norm ``norm``, in the type of the part that reads it."""
        into = self._weights.precision.of(part)
        kind = widest(self.kind, into)
        x = self._g.convert(self.value, self.kind, kind)
        return self._g.convert(self._weights.rms_norm(self._g, x, norm, self._epsilon, kind), kind, into)

    def add(self, part: str, x: ir.Value) -> None:
        """Add what the part ``part`` made, in the type of its block's stream."""
        precision = self._weights.precision
        kind = widest(self.kind, precision.of(part.rpartition(".")[0]))
        self.value = self._g.convert(self.value, self.kind, kind)
        self.value = self._g.op("Add", self.value, self._g.convert(x, precision.of(part), kind))
        self.kind = kind
