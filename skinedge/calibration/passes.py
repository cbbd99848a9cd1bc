"""The calibration pass: what every linear layer is given when the model reads photographs with their narratives.

Sums over all rows (tokens, or patches of the vision tower) of all samples, taken by hooks while the model runs layer
by layer (``skinedge.calibration.layers``): at any time one layer's weights and statistics are in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from skinedge.calibration.layers import LayerStream, Tensor, nn, torch
from skinedge.calibration.plan import layer_shapes
from skinedge.calibration.samples import Sample
from skinedge.calibration.statistics import LinearInputs
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.stream import Progress, Quiet

# Layers that are given what another layer beside them is given: it is summed once.
_SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def calibrate(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, block: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[str, LinearInputs]]:
    """Statistics of each linear layer, in the order of ``layer_shapes``, as soon as the layer has been run.

    Args:
        checkpoint: with its adapters.
        samples: what it reads.
        block: take second moments, in diagonal blocks of at most this width.
        progress: advanced by bytes of weights.
    """
    shapes = {s.name: s for s in layer_shapes(checkpoint.config, pictures=any(s.grids for s in samples), block=block)}
    for stage in LayerStream(checkpoint, samples, logits=False, progress=progress or Quiet()).stages():
        sums = {name: _Sums(shapes[name].width, shapes[name].block) for name in stage.linears if _twin(name) not in stage.linears}
        with _watching(stage.linears, sums):
            stage.run()
        for name in stage.linears:
            yield name, sums[_twin(name) if name not in sums else name].result()
        del stage  # with its weights, before those of the next layer are read


def _twin(name: str) -> str:
    """The layer beside ``name`` that is given the same; no layer's name if there is none."""
    parent, _, own = name.removesuffix(".weight").rpartition(".")
    return f"{parent}.{_SAME_INPUT.get(own, '')}.weight"


@contextlib.contextmanager
def _watching(linears: Mapping[str, nn.Module], sums: Mapping[str, _Sums]) -> Iterator[None]:
    hooks = [linears[name].register_forward_pre_hook(found.add) for name, found in sums.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Sums:
    """Running sums over the inputs of one layer; those of squares in float64, products of pairs in float32."""

    def __init__(self, width: int, block: int | None) -> None:
        self._rows, self._width, self._block = 0, width, block
        self._squares = torch.zeros(width, dtype=torch.float64)
        self._peak = torch.zeros(width)
        self._products = torch.zeros(width // block, block, block) if block else None

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A forward pre-hook."""
        x = inputs[0].reshape(-1, self._width).float()
        self._rows += len(x)
        self._squares += x.square().sum(0)
        self._peak = torch.maximum(self._peak, x.abs().amax(0))
        if self._products is not None:
            for products, part in zip(self._products, torch.split(x, self._products.shape[-1], 1), strict=True):
                products.addmm_(part.T, part)

    def result(self) -> LinearInputs:
        """The means."""
        mean_square = (self._squares / self._rows).float().numpy()
        moment = None if self._products is None else (self._products / self._rows).numpy()
        return LinearInputs(self._rows, mean_square, self._peak.numpy(), moment)
