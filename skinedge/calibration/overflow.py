"""Overflow pre-flight: how large the values inside a model become, against the range of narrow float types.

The model runs in float32, layer by layer, over photographs and over pictures made to provoke it
(``skinedge.calibration.triggers``).  Watched are what goes into and comes out of each linear layer, and the residual
stream after each block: in a float16 engine the first of them to pass 65504 becomes infinite, and not-a-number next.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

from skinedge.calibration.layers import LayerStream, Stage, Tensor, nn
from skinedge.calibration.overflow_report import Reach
from skinedge.calibration.samples import Sample
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.stream import Progress, Quiet

# A norm between a block's two halves sees the stream as the first has left it.
_MIDDLE = ("norm2", "post_attention_layernorm")


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
    for name, module in stage.module.named_children():
        if name in _MIDDLE:
            hooks.append(module.register_forward_pre_hook(lambda _, x: note(stage.name, "residual", x[0])))
    if stage.module not in stage.linears.values():
        hooks.append(stage.module.register_forward_hook(lambda _m, _x, y: note(stage.name, "residual", y)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
