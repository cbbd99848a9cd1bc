"""Writing an ONNX graph as one writes the model: an operator per line, weights from a stream.

The graph is built node by node from the configuration, not traced, so that it holds exactly the
standard operators that every consumer takes (ONNX Runtime, TensorRT-RTX, TensorRT) and exporting
needs no PyTorch.  Weights enter as promises (``StoredTensor``): their bytes are pulled when the file
is written (``skinedge.graph.files``).  See ``docs/decisions/0001-own-graph-builder.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skinedge.errors import MissingDependencyError
from skinedge.quantize._storage import ONNX_TYPES, StoredMatrix, StoredTensor
from skinedge.weights.source import F32, Array

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 24  # the first with TensorScatter: a cache that is updated in place
IR_VERSION = 11

Dim = int | str
Attribute = int | float | str | Sequence[int] | None


@dataclass(frozen=True)
class Graph:
    """A finished graph and the weights it refers to, by initializer name."""

    name: str
    model: ir.Model
    weights: dict[str, StoredTensor]


@dataclass
class GraphBuilder:
    """Collects nodes; every method that makes one returns its output value.

    Values have the float types that those who ask for nodes give them (``skinedge.graph.precision``).
    """

    name: str
    _inputs: list[ir.Value] = field(default_factory=list)
    _outputs: list[ir.Value] = field(default_factory=list)
    _nodes: list[ir.Node] = field(default_factory=list)
    _initializers: dict[str, ir.Value] = field(default_factory=dict)
    _weights: dict[str, StoredTensor] = field(default_factory=dict)
    _converted: dict[tuple[ir.Value, str], ir.Value] = field(default_factory=dict)

    def input(self, name: str, onnx_type: str, shape: Sequence[Dim]) -> ir.Value:
        """Declare a graph input; a string is a symbolic length."""
        value = self._value(name, onnx_type, shape)
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, onnx_type: str, shape: Sequence[Dim]) -> None:
        """Declare a graph output."""
        import onnx_ir as ir

        value.name, value.type, value.shape = name, ir.TensorType(ir.DataType[onnx_type]), ir.Shape(shape)
        self._outputs.append(value)

    def op(self, operator: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """A node with one output."""
        return self.ops(operator, 1, *inputs, **attributes)[0]

    def ops(self, operator: str, count: int, *inputs: ir.Value | None, **attributes: Attribute) -> Sequence[ir.Value]:
        """A node with ``count`` outputs."""
        import onnx_ir as ir

        number = len(self._nodes)
        node = ir.node(operator, inputs, attributes or None, num_outputs=count, name=f"{operator}_{number}")
        for i, out in enumerate(node.outputs):
            out.name = f"{operator}_{number}.{i}"
        self._nodes.append(node)
        return node.outputs

    def constant(self, values: Array | Sequence[int] | int) -> ir.Value:
        """A small constant kept inside the graph; whole numbers are int64.  Equal ones are shared."""
        import onnx_ir as ir

        array = np.asarray(values, dtype=None if isinstance(values, np.ndarray) else np.int64)
        key = f"const.{array.dtype}.{array.shape}.{array.tobytes().hex()}"
        if key not in self._initializers:
            name = f"const_{len(self._initializers)}"
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.type, value.shape = ir.TensorType(ir.tensor(array).dtype), ir.Shape(array.shape)
            self._initializers[key] = value
        return self._initializers[key]

    def scalar(self, value: float) -> ir.Value:
        """A float32 constant."""
        return self.constant(np.array(value, F32))

    def weight(self, stored: StoredTensor) -> ir.Value:
        """A weight kept beside the graph; asking twice gives the same one."""
        name = stored.payload.name
        if name not in self._initializers:
            self._initializers[name] = self._value(name, stored.onnx_type, stored.shape)
            self._weights[name] = stored
        return self._initializers[name]

    def matmul(self, x: ir.Value, matrix: StoredMatrix) -> ir.Value:
        """``x @ W`` with ``W [in, out]``, dequantized on the way if it is quantized.

        ``x`` must have three axes: ONNX Runtime fuses ``DequantizeLinear -> MatMul`` only then.
        """
        values = self.weight(matrix.values)
        if matrix.scales is not None:
            blocks = {"axis": 0, "block_size": matrix.block} if matrix.block else {"axis": 1}
            scales = self.weight(matrix.scales)
            if matrix.outer:
                scales = self.op("DequantizeLinear", scales, self.weight(matrix.outer))
            zeros = [self.weight(matrix.zero_points)] if matrix.zero_points else []
            values = self.op("DequantizeLinear", values, scales, *zeros, **blocks)
        return self.op("MatMul", x, values)

    def cast(self, x: ir.Value, onnx_type: str) -> ir.Value:
        """``x`` in another element type."""
        import onnx_ir as ir

        return self.op("Cast", x, to=int(ir.DataType[onnx_type]))

    def convert(self, x: ir.Value, kind: str, into: str) -> ir.Value:
        """``x``, of the float type ``kind`` (``f32``, ``f16``, ``bf16``), in another; asking twice gives the same value."""
        if kind == into:
            return x
        if (x, into) not in self._converted:
            self._converted[x, into] = self.cast(x, ONNX_TYPES[into])
        return self._converted[x, into]

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """Reshape; 0 keeps an axis, -1 infers one."""
        return self.op("Reshape", x, self.constant(shape))

    def transpose(self, x: ir.Value, *order: int) -> ir.Value:
        """Permute the axes."""
        return self.op("Transpose", x, perm=order)

    def silu(self, x: ir.Value) -> ir.Value:
        """``x * sigmoid(x)``."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def finish(self) -> Graph:
        """The graph; the builder must not be used afterwards."""
        import onnx_ir as ir

        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=tuple(self._initializers.values()),
            opset_imports={"": OPSET},
            name=self.name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="skinedge")
        return Graph(self.name, model, self._weights)

    def _value(self, name: str, onnx_type: str, shape: Sequence[Dim]) -> ir.Value:
        import onnx_ir as ir

        return ir.Value(name=name, type=ir.TensorType(ir.DataType[onnx_type]), shape=ir.Shape(shape))


def require_onnx() -> None:
    """Check that the graph libraries are there.

    Raises:
        MissingDependencyError: they are not.
    """
    try:
        import onnx_ir  # noqa: F401
    except ImportError as e:
        raise MissingDependencyError("exporting a graph needs onnx-ir.", hint="Install it: pip install 'skinedge[onnx]'.") from e
