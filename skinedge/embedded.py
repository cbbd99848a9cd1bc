"""The model that comes with skinedge: what a command works on when it is given none.

Today it is the tiny model with random weights (``skinedge.model.tiny``), written into a temporary
folder; a trained one takes its place when there is one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.model.config import read_config
from skinedge.model.tiny import make_lora, make_model, make_side_branch

NAME = "skinedge-tiny"


def write_embedded(folder: Path) -> AdapterCheckpoint:
    """Write the embedded model, a LoRA and a side branch into ``folder``; the same bytes each time."""
    model = make_model(folder / "model")
    config = read_config(model)
    adapters = [make_lora(folder / "lora", config), make_side_branch(folder / "side-branch", config)]
    return AdapterCheckpoint.find(model, adapters)


@contextmanager
def embedded_checkpoint() -> Iterator[AdapterCheckpoint]:
    """The embedded model for the length of a command."""
    with tempfile.TemporaryDirectory(prefix="skinedge-") as folder:
        yield write_embedded(Path(folder))
