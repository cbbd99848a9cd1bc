"""What a plan can choose from, for each target: groups of matrices, schemes, their sizes, and what they leave of a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from skinedge.calibration.statistics import Calibration
from skinedge.graph.decoder import stacked
from skinedge.graph.weights import store
from skinedge.model.config import ModelConfig
from skinedge.model.names import EMBEDDING, HEAD, expected_shapes
from skinedge.quantize import _ggml
from skinedge.quantize._llama_mix import fitting
from skinedge.quantize._storage import StoredMatrix
from skinedge.weights.cast import through_f16
from skinedge.weights.source import F32, Float32, TensorSource, row_blocks


class Candidates(Protocol):
    """A target's schemes for single matrices."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """The fewest bits first."""
        ...

    def only(self, schemes: tuple[str, ...]) -> Candidates:
        """The same with some of its schemes."""
        ...

    def groups(self, config: ModelConfig) -> Mapping[str, tuple[str, ...]]:
        """Matrices that share a scheme, by canonical names."""
        ...

    def nbytes(self, weights: TensorSource, name: str, scheme: str) -> int:
        """What a matrix takes."""
        ...

    def restore(self, weights: TensorSource, name: str, scheme: str) -> Float32:
        """``[out, in]``, what the scheme leaves of a matrix."""
        ...


def matrices(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The language model's matrices with their shapes; a tied head is the embedding and is not among them."""
    found = {n: s for n, s in expected_shapes(config).items() if len(s) == 2 and not n.startswith("visual.")}
    return {n: s for n, s in found.items() if n != EMBEDDING and (n != HEAD or not config.text.tie_word_embeddings)}


@dataclass(frozen=True)
class GgufCandidates:
    """ggml's types with the calibration's importances; where 256 does not divide a width the type that stands in."""

    calibration: Calibration | None = None
    schemes: tuple[str, ...] = ("iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")

    def only(self, schemes: tuple[str, ...]) -> GgufCandidates:
        return replace(self, schemes=schemes)

    def groups(self, config: ModelConfig) -> Mapping[str, tuple[str, ...]]:
        """Every matrix by itself."""
        return {name: (name,) for name in matrices(config)}

    def nbytes(self, weights: TensorSource, name: str, scheme: str) -> int:
        spec = weights.spec(name)
        return spec.rows * fitting(_ggml.TYPES[scheme], spec.cols).row_bytes(spec.cols)

    def restore(self, weights: TensorSource, name: str, scheme: str) -> Float32:
        spec = weights.spec(name)
        kind, inputs = fitting(_ggml.TYPES[scheme], spec.cols), self.calibration.inputs(name) if self.calibration else None
        out = np.empty((spec.rows, spec.cols), F32)
        for rows in row_blocks(spec):
            block = through_f16(weights.read(name, rows), name)
            out[rows] = _ggml.dequantize(kind, _ggml.quantize(kind, block, inputs.mean_square if inputs else None))
        return out


@dataclass(frozen=True)
class OnnxCandidates:
    """The schemes of ``skinedge/quantize`` as a graph holds them; matrices that it stacks share one.

    ``head`` says whether the head's scheme is free; ``rounding`` and ``activations`` are those of the export.
    """

    calibration: Calibration | None = None
    schemes: tuple[str, ...] = ("int4_b128", "int4_b64", "int4", "int4a", "int8")
    activations: str = "f32"
    rounding: str | None = None
    head: bool = True

    def only(self, schemes: tuple[str, ...]) -> OnnxCandidates:
        return replace(self, schemes=schemes)

    def groups(self, config: ModelConfig) -> Mapping[str, tuple[str, ...]]:
        """Matrices by the name of the one they are stacked into."""
        stacks = stacked(config.text)
        inside = {part for parts in stacks.values() for part in parts}
        found = {name: parts for name, parts in stacks.items() if name.endswith(".weight")}
        alone = [n for n in matrices(config) if n not in inside and (n != HEAD or self.head)]
        return found | {name: (name,) for name in alone}

    def nbytes(self, weights: TensorSource, name: str, scheme: str) -> int:
        return self._stored(weights, name, scheme).nbytes

    def restore(self, weights: TensorSource, name: str, scheme: str) -> Float32:
        return np.ascontiguousarray(self._stored(weights, name, scheme).restore().T)

    def _stored(self, weights: TensorSource, name: str, scheme: str) -> StoredMatrix:
        inputs = self.calibration.inputs(name) if self.calibration else None
        return store(weights, name, scheme, self.activations, inputs, self.rounding)


def output_error(weights: TensorSource, name: str, restored: Float32, mean_square: Float32) -> float:
    """``sum_oi m_i (W_oi - W'_oi)**2``: the squared error of a layer's outputs, if its inputs were uncorrelated."""
    spec, total = weights.spec(name), 0.0
    for rows in row_blocks(spec):
        difference = weights.read(name, rows).astype(F32) - restored[rows]
        total += float(np.square(difference, out=difference).sum(0, dtype=np.float64) @ mean_square)
    return total
