"""The graphs of a whole model: decoder, vision tower and, if there is one, the side branch."""

from __future__ import annotations

from dataclasses import dataclass

from skinedge.graph.adapter import build_adapter
from skinedge.graph.builder import Graph
from skinedge.graph.decoder import build_decoder, stack_linears
from skinedge.graph.vision import build_vision
from skinedge.graph.weights import GraphWeights
from skinedge.model.names import HEAD
from skinedge.targets._contract import Applied
from skinedge.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class ModelGraphs:
    """All graphs of a model, and how each tensor will be stored."""

    graphs: tuple[Graph, ...]
    applied: dict[str, Applied]


def build_graphs(
    checkpoint: Checkpoint, *, scheme: str, vision_scheme: str, activations: str, cache_length: int | None = None
) -> ModelGraphs:
    """Build every graph of ``checkpoint``; no weight is read yet (the side branch's few excepted).

    Args:
        scheme: scheme of the language model's linear layers and head.
        vision_scheme: scheme of the vision tower's linear layers.
        activations: float type between them, ``f32``, ``f16`` or ``bf16``.
        cache_length: ``None`` for a symbolic cache length, a number for TensorRT.
    """
    config = checkpoint.config
    text = GraphWeights(stack_linears(config.text, checkpoint.weights), activations, lambda _: scheme)
    vision = GraphWeights(checkpoint.weights, activations, lambda _: vision_scheme)
    graphs = [build_decoder(config.text, text, cache_length), build_vision(config.vision, vision)]
    applied = text.applied | vision.applied
    if checkpoint.side_branch:
        graphs.append(build_adapter(checkpoint.side_branch, text.matrix(HEAD), activations, config.text.vocab_size))
        branch = checkpoint.side_branch.source
        applied |= {name: Applied("f32", 32.0, branch.spec(name).size) for name in branch.names()}
    return ModelGraphs(tuple(graphs), applied)
