"""The weights that a bundle's files hold, as they declare them: what its session should be computing with.

Read from the files themselves and not by the session, so that a fault of one does not hide in the other: ONNX by the
``onnx`` library, GGUF by the ``gguf`` library, dequantized by the definitions of each format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skinedge.graph.decoder import stacked
from skinedge.model.config import ModelConfig
from skinedge.model.names import expected_shapes
from skinedge.weights.source import F32, Array, Float32

if TYPE_CHECKING:
    from skinedge.manifest import Manifest

GRAPHS = ("decoder", "head", "vision")


@dataclass(frozen=True)
class Held:
    """A tensor of the language model or the vision tower under its canonical name, in its own shape, as float32.

    ``kind`` is how it is stored: ``f32``, ``int4``, ``q4_k``.  ``block`` the number of inputs that share a scale, if it is an
    ONNX type with such blocks; ``asymmetric`` whether there are zero points.
    """

    name: str
    values: Float32
    kind: str
    block: int | None = None
    asymmetric: bool = False

    @property
    def quantized(self) -> bool:
        """Whether its values are rounded to few steps."""
        return self.kind not in ("f32", "f16", "bf16")


def held_tensors(folder: Path, manifest: Manifest) -> Iterator[Held]:
    """Every tensor of the bundle's language model and vision tower, one at a time; for a trt bundle those of its ONNX side."""
    config = manifest.architecture.config()
    if manifest.target == "gguf":
        return _of_gguf(folder, config)
    return _of_onnx(folder / "onnx" if manifest.target == "trt" else folder, config)


def held_branch(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Float32]]:
    """The side branch's tensors as its graph has them, by their names there; none where the bundle has no branch."""
    import onnx

    path = (folder / "onnx" if manifest.target == "trt" else folder) / "adapter.onnx"
    if not path.is_file():
        return
    model = onnx.load(path, load_external_data=False)
    read = onnx_reader(model, path.parent)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("adapter."):
            yield tensor.name, read(tensor.name).astype(F32)


def _of_onnx(folder: Path, config: ModelConfig) -> Iterator[Held]:
    parts, shapes = stacked(config.text), expected_shapes(config)
    for graph in GRAPHS:
        for held in _graph_tensors(folder / f"{graph}.onnx"):
            names, first = parts.get(held.name, (held.name,)), 0
            for name in names:
                rows = shapes[name][0]
                values = held.values[first : first + rows].reshape(shapes[name])
                yield Held(name, np.ascontiguousarray(values), held.kind, held.block, held.asymmetric)
                first += rows


def _graph_tensors(path: Path) -> Iterator[Held]:
    """Tensors under their stacked names, matrices as ``[out, in]``."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    read = onnx_reader(model, path.parent)
    made = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if node.op_type == "MatMul" and position == 1 and name in made:
                yield _dequantized(made[name], made, read)
            elif name.endswith((".weight", ".bias")) and node.op_type in ("MatMul", "Add", "RMSNormalization"):
                values = read(name).astype(F32)
                yield Held(name, values.T if node.op_type == "MatMul" else values, _kind(read(name)))


def onnx_reader(model: Any, folder: Path) -> Callable[[str], Array]:
    """Initialisers of a graph by name, each read when it is asked for."""
    from onnx import numpy_helper
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    tensors = {t.name: t for t in model.graph.initializer}

    def read(name: str) -> Array:
        tensor = type(tensors[name])()
        tensor.CopyFrom(tensors[name])
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        values: Array = numpy_helper.to_array(tensor)
        return values

    return read


def _dequantized(node: Any, made: dict[str, Any], read: Callable[[str], Array]) -> Held:
    """ONNX DequantizeLinear-21: ``(q - z) * s``, with a scale for each block of inputs or for each output."""
    block = next((a.i for a in node.attribute if a.name == "block_size"), 0)
    stored, scale = node.input[0], node.input[1]
    values = read(stored).astype(F32)
    scales = _dequantized(made[scale], made, read).values.T if scale in made else read(scale).astype(F32)
    zeros = read(node.input[2]).astype(F32) if len(node.input) > 2 else None
    if block:
        values = values.reshape(len(scales), block, -1)
        values = ((values if zeros is None else values - zeros[:, None]) * scales[:, None]).reshape(-1, values.shape[-1])
    else:
        values = values * scales
    name, _, kind = stored.rpartition(".")
    return Held(name, values.T, kind, block or None, zeros is not None)


def _kind(values: Array) -> str:
    return {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[values.dtype.name]


def _of_gguf(folder: Path, config: ModelConfig) -> Iterator[Held]:
    from skinedge.quantize._llama_mix import Mix
    from skinedge.targets._gguf_tensors import PATCH_EMBEDDING, Stored, import_gguf, text_tensors, vision_tensors
    from skinedge.targets.gguf import TEXT_FILE, VISION_FILE

    gguf, shapes = import_gguf(), expected_shapes(config)
    lists: dict[str, tuple[Stored, ...]] = {
        TEXT_FILE: text_tensors(config, Mix("f16", file_type=1)),
        VISION_FILE: vision_tensors(config, "f16"),
    }
    for file, listed in lists.items():
        tensors = {t.name: t for t in gguf.GGUFReader(folder / file).tensors}
        groups: dict[str, list[Stored]] = {}
        for stored in listed:
            groups.setdefault(stored.source, []).append(stored)
        for source, group in groups.items():
            read = [tensors[s.name] for s in group]
            pieces = [
                np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), F32).reshape(s.shape)
                for s, t in zip(group, read, strict=True)
            ]
            values = np.stack(pieces, 2) if source == PATCH_EMBEDDING else np.concatenate(pieces)
            yield Held(source, values.reshape(shapes[source]), read[0].tensor_type.name.lower())
