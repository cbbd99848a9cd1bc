"""The graphs of a whole model: decoder, head, vision tower and, if there is one, the side branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skinedge.calibration.statistics import Calibration, LinearInputs
from skinedge.errors import UsageError
from skinedge.graph.adapter import build_adapter
from skinedge.graph.builder import Graph
from skinedge.graph.decoder import build_decoder, build_head, stack_linears
from skinedge.graph.embedding import FILE, embedding_applied, embedding_size, write_embedding
from skinedge.graph.files import lay_out, write_graphs
from skinedge.graph.precision import Precision
from skinedge.graph.vision import build_vision
from skinedge.graph.weights import GraphWeights
from skinedge.model.names import EMBEDDING
from skinedge.registry import check
from skinedge.targets._contract import Applied
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.source import TensorSource
from skinedge.weights.stacked import StackedSource
from skinedge.weights.stream import Progress


@dataclass(frozen=True)
class ModelGraphs:
    """All graphs of a model and its embedding table, and how each tensor will be stored."""

    graphs: tuple[Graph, ...]
    weights: TensorSource
    applied: dict[str, Applied]
    precision: Precision

    @property
    def sizes(self) -> dict[str, int]:
        """Every file -> bytes."""
        return {FILE: embedding_size(self.weights), **lay_out(self.graphs).sizes}

    def write(self, folder: Path, progress: Progress, workers: int | None = None) -> dict[str, str]:
        """Write everything into ``folder``; returns sha256 by file name."""
        table = write_embedding(self.weights, folder, progress, workers)
        return table | write_graphs(folder, self.graphs, progress, workers)


@dataclass(frozen=True)
class Care:
    """What is known and wanted beyond a scheme: statistics, rounding, and schemes of single matrices by canonical name."""

    calibration: Calibration | None = None
    rounding: str | None = None
    mix: Mapping[str, str] = field(default_factory=dict)


def build_graphs(
    checkpoint: Checkpoint,
    *,
    scheme: str,
    head_scheme: str,
    vision_scheme: str,
    precision: Precision,
    cache_length: int | None = None,
    care: Care | None = None,
) -> ModelGraphs:
    """Build every graph of ``checkpoint``; no weight is read yet (the side branch's few excepted).

    Args:
        checkpoint: with its adapters.
        scheme: scheme of the language model's linear layers.
        head_scheme: scheme of its head.
        vision_scheme: scheme of the vision tower's linear layers.
        precision: float type between them, and where it is wider.
        cache_length: ``None`` for a symbolic cache length, a number for TensorRT.
        care: statistics, rounding and single matrices' schemes.

    Raises:
        UsageError: ``care`` names a matrix that is not there, gives the parts of a stacked one different schemes, or asks
            for a rounding without the statistics it needs.
        CalibrationError: the calibration is of another model.
    """
    config, care = checkpoint.config, care or Care()
    source = stack_linears(config.text, checkpoint.weights)
    matrices = tuple(name for name in source.names() if len(source.spec(name).shape) == 2 and name != EMBEDDING)
    for name in care.mix:
        check("matrix", name, matrices)

    def weights(default: str) -> GraphWeights:
        return GraphWeights(
            source, precision, lambda name: _scheme(source, care.mix, name, default), lambda name: _inputs(source, care, name),
            care.rounding,
        )  # fmt: skip

    text, head, vision = weights(scheme), weights(head_scheme), weights(vision_scheme)
    graphs = [
        build_decoder(config.text, text, cache_length),
        build_head(config.text, head),
        build_vision(config.vision, vision),
    ]
    applied = embedding_applied(checkpoint.weights) | text.applied | head.applied | vision.applied
    if checkpoint.side_branch:
        graphs.append(build_adapter(checkpoint.side_branch))
        branch = checkpoint.side_branch.source
        applied |= {name: Applied("f32", 32.0, branch.spec(name).size) for name in branch.names()}
    return ModelGraphs(tuple(graphs), checkpoint.weights, applied, precision)


def _scheme(source: StackedSource, mix: Mapping[str, str], name: str, default: str) -> str:
    """The scheme of a matrix; a stacked one has that of its parts."""
    if name in mix:
        return mix[name]
    found = {part: mix.get(part, default) for part in source.parts(name)}
    if len(set(found.values())) > 1:
        raise UsageError(
            f"'{name}' is one matrix and its parts are to be stored differently: "
            f"{', '.join(f'{part} as {scheme}' for part, scheme in found.items())}.",
            hint=f"Give them one scheme, or name '{name}' itself.",
        )
    return next(iter(found.values()))


def _inputs(source: StackedSource, care: Care, name: str) -> LinearInputs | None:
    """What the layer was given; the parts of a stacked matrix are given the same."""
    return care.calibration.inputs(source.parts(name)[0]) if care.calibration else None
