"""What a calibration will measure, write and need, from the configuration and the samples' sizes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skinedge.calibration.samples import Sample
from skinedge.calibration.statistics import LayerShape
from skinedge.model.config import ModelConfig
from skinedge.model.names import EMBEDDING, HEAD, Shapes, expected_shapes
from skinedge.weights.source import BLOCK_BYTES, F32, TensorSpec

GRANULE = 32  # the smallest group of the int4 schemes: a block of second moments should not cut one


@dataclass(frozen=True)
class CalibrationPlan:
    """``rows`` per layer, bytes to write and an upper estimate of resident memory beyond the mapped checkpoint."""

    shapes: tuple[LayerShape, ...]
    rows: Mapping[str, int]
    images: int
    tokens: int
    nbytes: int
    memory: int


def plan(config: ModelConfig, samples: Sequence[Sample], block: int | None = None) -> CalibrationPlan:
    """What calibrating on ``samples`` comes to."""
    grids = [grid for sample in samples for grid in sample.grids]
    patches, tokens = sum(g.patches for g in grids), sum(len(s.token_ids) for s in samples)
    shapes = layer_shapes(config, pictures=bool(grids), block=block)
    merged = patches // config.vision.spatial_merge_size**2
    rows = {s.name: merged if ".merger." in s.name else patches if s.name.startswith("visual.") else tokens for s in shapes}
    nbytes = sum(spec.nbytes for shape in shapes for spec in shape.specs)
    return CalibrationPlan(shapes, rows, len(grids), tokens, nbytes, _memory(config, samples, patches, tokens, shapes))


def layer_shapes(config: ModelConfig, *, pictures: bool, block: int | None = None) -> tuple[LayerShape, ...]:
    """The linear layers in the order in which they run; ``pictures=False`` leaves the vision tower out."""
    shapes = {**expected_shapes(config), HEAD: (config.text.vocab_size, config.text.hidden_size)}
    return tuple(
        LayerShape(name, width, _block(width, block) if block else None)
        for name, width in ((name, TensorSpec(name, shape, F32).cols) for name, shape in _matrices(shapes).items())
        if pictures or not name.startswith("visual.")
    )


def _matrices(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if len(shape) > 1 and name != EMBEDDING}


def _block(width: int, most: int) -> int:
    """The largest divisor of ``width`` up to ``most``, of whole granules if there is such a one."""
    divisors = [n for n in range(1, min(width, most) + 1) if width % n == 0]
    return max(divisors, key=lambda n: (n % GRANULE == 0, n))


def _memory(config: ModelConfig, samples: Sequence[Sample], patches: int, tokens: int, shapes: Sequence[LayerShape]) -> int:
    """Hidden states before and after, the largest layer in float32, its sums, and the widest sample's activations."""
    t, v = config.text, config.vision
    hidden = 4 * (patches * v.hidden_size + tokens * t.hidden_size)
    layer = 4 * (3 * t.hidden_size * t.intermediate_size + 4 * t.hidden_size**2)
    sums = max((sum(spec.nbytes for spec in shape.specs) for shape in shapes), default=0) * 3
    longest = max(max((g.patches for g in s.grids), default=0) * v.intermediate_size for s in samples)
    widest = max(longest, max(len(s.token_ids) for s in samples) * t.intermediate_size)
    return hidden + layer + sums + 4 * 4 * widest + 4 * BLOCK_BYTES
