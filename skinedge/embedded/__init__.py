"""The model that comes with skinedge: what a command works on when it is given none.

``tiny`` is a Qwen2.5-VL of 5.4 million weights that describes SynthDerm pictures and has no idea which disease
they show; ``side-branch`` is the adapter that makes it diagnose.  ``train/recipes/tiny_base.toml`` and ``demo.toml``
say how they were trained.  They are for trying and testing skinedge: no patient may be looked at with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint

NAME = "skinedge-tiny"
BASE = Path(__file__).parent / "tiny"
SIDE_BRANCH = Path(__file__).parent / "side-branch"


def embedded_checkpoint(adapters: Sequence[Path] | None = None) -> AdapterCheckpoint:
    """The embedded base with ``adapters``, or with the side branch that comes with it."""
    return AdapterCheckpoint.find(BASE, [SIDE_BRANCH] if adapters is None else adapters)
