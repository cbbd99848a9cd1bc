"""From graph to files: ``name.onnx`` and, beside it, ``name.onnx.data`` streamed from the weights.

A weight that an earlier graph of the same folder already stored is referred to, not stored again:
that is how the adapter graph uses the decoder's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.graph.builder import Graph
from skinedge.quantize._storage import StoredTensor
from skinedge.weights.stream import HashingFile, Progress, align, write_payloads

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
    sizes: dict[str, int]  # data file -> bytes


def lay_out(graphs: Sequence[Graph]) -> Layout:
    """Assign a file and an offset to each weight, in the order of first use."""
    places: dict[str, Place] = {}
    sizes: dict[str, int] = {}
    for graph in graphs:
        file, end = f"{graph.name}.onnx.data", 0
        for name, stored in graph.weights.items():
            if name not in places:
                nbytes = stored.payload.nbytes
                offset = align(end, PAGE if nbytes >= 16 * PAGE else LINE)
                places[name] = Place(file, offset, nbytes)
                end = offset + nbytes
        if end:
            sizes[file] = end
    return Layout(places, sizes)


def write_graphs(folder: Path, graphs: Sequence[Graph], progress: Progress, workers: int | None = None) -> dict[str, str]:
    """Write all graphs and their weights into ``folder``; returns sha256 by file name."""
    layout = lay_out(graphs)
    digests: dict[str, str] = {}
    weights: dict[str, StoredTensor] = {}
    for graph in graphs:
        weights |= graph.weights
        digests |= _write_model(folder, graph, layout)
    for file, nbytes in layout.sizes.items():
        placed = [(p.offset, weights[name].payload) for name, p in layout.places.items() if p.file == file]
        progress.begin(file, nbytes)
        with (folder / file).open("wb") as f:
            out = HashingFile(f)
            write_payloads(out, placed, progress, workers)
        digests[file] = out.hexdigest()
    return digests


def _write_model(folder: Path, graph: Graph, layout: Layout) -> dict[str, str]:
    import onnx_ir as ir

    for name, stored in graph.weights.items():
        place = layout.places[name]
        graph.model.graph.initializers[name].const_value = ir.ExternalTensor(
            place.file,
            place.offset,
            place.nbytes,
            ir.DataType[stored.onnx_type],
            shape=ir.Shape(stored.shape),
            name=name,
            base_dir=folder,
        )
    # Sorted protobuf fields: the same graph gives the same bytes.
    data = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    with (folder / f"{graph.name}.onnx").open("wb") as f:
        out = HashingFile(f)
        out.write(data)
    return {f"{graph.name}.onnx": out.hexdigest()}
