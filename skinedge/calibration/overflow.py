"""Overflow pre-flight: how large the values inside a model become, against the range of narrow float types.

The model runs in float32, layer by layer, over photographs and over pictures made to provoke it
(``skinedge.calibration.triggers``).  Watched are what goes into and comes out of each linear layer, and the residual
stream after each block: in a float16 engine the first of them to pass 65504 becomes infinite, and not-a-number next.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from skinedge.calibration.layers import LayerStream, Stage, Tensor, nn
from skinedge.calibration.samples import Sample
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.stream import Progress, Quiet

LIMITS = {"f16": 65504.0, "bf16": 3.3895313892515355e38, "fp8": 448.0}  # the largest finite value; fp8 is e4m3


@dataclass(frozen=True)
class Reach:
    """The largest ``|x|`` of one place.

    ``layer`` is the canonical name of a weight, for its input and output, or of a block, for the residual stream after it;
    ``picture`` is the one on which it was seen.
    """

    layer: str
    place: str  # input, output, residual
    peak: float
    picture: str

    def to_json(self) -> dict[str, str | float]:
        """As data, with the headroom in each type."""
        peak = min(self.peak, 3.4e38)  # JSON has no infinity
        room = {f"headroom_{kind}": min(self.headroom(kind), 3.4e38) for kind in LIMITS}
        return {"layer": self.layer, "place": self.place, "peak": peak, "picture": self.picture, **room}

    def headroom(self, activations: str) -> float:
        """How many times the peak fits into the range of ``activations`` (below 1: it overflows)."""
        return LIMITS[activations] / self.peak if self.peak else math.inf


def survey(checkpoint: Checkpoint, samples: Mapping[str, Sample], progress: Progress | None = None) -> tuple[Reach, ...]:
    """The reach of every place, in the order of computation."""
    stream = LayerStream(checkpoint, list(samples.values()), logits=True, progress=progress or Quiet())
    pictures = [name for name, sample in samples.items() for _ in sample.grids]
    found: dict[tuple[str, str], Reach] = {}
    for stage in stream.stages():
        seen_by = pictures if stage.name.startswith("visual.") else list(samples)
        with _watching(stage, stream, seen_by, found):
            stage.run()
        del stage  # with its weights, before those of the next layer are read
    return tuple(found.values())


def offending(reaches: Iterable[Reach], activations: str = "f16", margin: float = 1.0) -> frozenset[str]:
    """The layers and blocks that must not compute in ``activations``: their headroom is below ``margin``."""
    return frozenset(r.layer for r in reaches if r.headroom(activations) < margin)


@contextlib.contextmanager
def _watching(stage: Stage, stream: LayerStream, seen_by: list[str], found: dict[tuple[str, str], Reach]) -> Iterator[None]:
    def note(layer: str, place: str, x: Tensor) -> None:
        peak = float(x.abs().max().nan_to_num(nan=math.inf))
        if (layer, place) not in found or peak > found[layer, place].peak:
            found[layer, place] = Reach(layer, place, peak, seen_by[stream.current])

    def watch(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            note(layer, "input", inputs[0])
            note(layer, "output", output)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in stage.linears.items()]
    if stage.module not in stage.linears.values():
        hooks.append(stage.module.register_forward_hook(lambda _m, _x, y: note(stage.name, "residual", y)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
