"""From graph to files: ``name.onnx`` and, beside it, ``name.onnx.data`` streamed from the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.graph.builder import Graph
from skinedge.quantize._storage import StoredTensor
from skinedge.weights.stream import Progress, align, hashing_file, write_payloads

# Large tensors start on a page so that a runtime can map them; small ones on a cache line.
PAGE, LINE = 4096, 64


@dataclass(frozen=True)
class Place:
    """Where a weight lies."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """Where every weight of a folder's graphs lies, known before any is read."""

    places: dict[str, Place]
    data: dict[str, int]  # data file -> bytes
    models: dict[str, bytes]  # graph file -> its content

    @property
    def sizes(self) -> dict[str, int]:
        """Every file -> bytes."""
        return {name: len(content) for name, content in self.models.items()} | self.data


def lay_out(graphs: Sequence[Graph]) -> Layout:
    """Assign a file and an offset to each weight, in the order of first use."""
    places: dict[str, Place] = {}
    data: dict[str, int] = {}
    for graph in graphs:
        file, end = f"{graph.name}.onnx.data", 0
        for name, stored in graph.weights.items():
            nbytes = stored.payload.nbytes
            offset = align(end, PAGE if nbytes >= 16 * PAGE else LINE)
            places[name] = Place(file, offset, nbytes)
            end = offset + nbytes
        data[file] = end
    return Layout(places, data, {f"{graph.name}.onnx": _model(graph, places) for graph in graphs})


def write_graphs(folder: Path, graphs: Sequence[Graph], progress: Progress, workers: int | None = None) -> dict[str, str]:
    """Write all graphs and their weights into ``folder``; returns sha256 by file name."""
    layout = lay_out(graphs)
    digests: dict[str, str] = {}
    weights: dict[str, StoredTensor] = {}
    for graph in graphs:
        weights |= graph.weights
    for file, content in layout.models.items():
        (folder / file).write_bytes(content)
        digests[file] = hashlib.sha256(content).hexdigest()
    for file, nbytes in layout.data.items():
        placed = [(p.offset, weights[name].payload) for name, p in layout.places.items() if p.file == file]
        progress.begin(file, nbytes)
        with hashing_file(folder / file) as out:
            write_payloads(out, placed, progress, workers)
        digests[file] = out.hexdigest()
    return digests


def _model(graph: Graph, places: Mapping[str, Place]) -> bytes:
    """The graph file, which refers to its weights by place."""
    import onnx_ir as ir

    for name, stored in graph.weights.items():
        place = places[name]
        graph.model.graph.initializers[name].const_value = ir.ExternalTensor(
            place.file,
            place.offset,
            place.nbytes,
            ir.DataType[stored.onnx_type],
            shape=ir.Shape(stored.shape),
            name=name,
        )
    # Sorted protobuf fields: the same graph gives the same bytes.
    content: bytes = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    return content
