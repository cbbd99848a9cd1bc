"""The graphs of a whole model: decoder, head, vision tower and, if there is one, the side branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skinedge.graph.adapter import build_adapter
from skinedge.graph.builder import Graph
from skinedge.graph.decoder import build_decoder, build_head, stack_linears
from skinedge.graph.embedding import FILE, embedding_applied, embedding_size, write_embedding
from skinedge.graph.files import lay_out, write_graphs
from skinedge.graph.vision import build_vision
from skinedge.graph.weights import GraphWeights
from skinedge.targets._contract import Applied
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.source import TensorSource
from skinedge.weights.stream import Progress


@dataclass(frozen=True)
class ModelGraphs:
    """All graphs of a model and its embedding table, and how each tensor will be stored."""

    graphs: tuple[Graph, ...]
    weights: TensorSource
    applied: dict[str, Applied]

    @property
    def sizes(self) -> dict[str, int]:
        """Every file -> bytes."""
        return {FILE: embedding_size(self.weights), **lay_out(self.graphs).sizes}

    def write(self, folder: Path, progress: Progress, workers: int | None = None) -> dict[str, str]:
        """Write everything into ``folder``; returns sha256 by file name."""
        table = write_embedding(self.weights, folder, progress, workers)
        return table | write_graphs(folder, self.graphs, progress, workers)


def build_graphs(
    checkpoint: Checkpoint,
    *,
    scheme: str,
    head_scheme: str,
    vision_scheme: str,
    activations: str,
    cache_length: int | None = None,
) -> ModelGraphs:
    """Build every graph of ``checkpoint``; no weight is read yet (the side branch's few excepted).

    Args:
        scheme: scheme of the language model's linear layers.
        head_scheme: scheme of its head.
        vision_scheme: scheme of the vision tower's linear layers.
        activations: float type between them, ``f32``, ``f16`` or ``bf16``.
        cache_length: ``None`` for a symbolic cache length, a number for TensorRT.
    """
    config = checkpoint.config
    text = GraphWeights(stack_linears(config.text, checkpoint.weights), activations, lambda _: scheme)
    head = GraphWeights(checkpoint.weights, activations, lambda _: head_scheme)
    vision = GraphWeights(checkpoint.weights, activations, lambda _: vision_scheme)
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
    return ModelGraphs(tuple(graphs), checkpoint.weights, applied)
