"""A run's folder: what run it is, its checkpoints, and how one is resumed.

::

    OUT/run.json                       what is trained, on what, how; written first
    OUT/log/metrics.jsonl, tensorboard/
    OUT/checkpoints/step-00000500/     the adapter as it is exported, and optimizer/ with AdamW's state
    OUT/adapter.safetensors ...        the trained adapter; the checkpoints are then removed

A checkpoint appears whole (``skinedge.staging``) and the last two are kept, so the process may be killed at any
moment.  There is no other state: the order of the data, the learning rate and the random numbers are
functions of the step (``train.schedule``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skinedge.errors import OutputError
from skinedge.staging import refuse_taken, staged, staged_file
from train.errors import TrainingError
from train.states import Tensors

RUN_FILE = "run.json"
KEPT = 2
_DONE = ".checkpoints.done"
Row = dict[str, float]  # one step's figures


class RunFolder:
    """The folder of one run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.checkpoints = out / "checkpoints"
        self.metrics = out / "log" / "metrics.jsonl"
        self.tensorboard = out / "log" / "tensorboard"

    def claim(self, identity: dict[str, str], adapter_file: str) -> None:
        """Make the folder that of the run ``identity``, or check that it is.

        Raises:
            OutputError: it holds something else, or the run is finished.
            TrainingError: it holds another run; the first difference is named.
        """
        shutil.rmtree(self.out / _DONE, ignore_errors=True)  # of a run that was killed at its very end
        self.check(identity, adapter_file)
        if not (self.out / RUN_FILE).is_file():
            with staged_file(self.out / RUN_FILE) as f:
                f.write(json.dumps(identity, indent=1).encode())

    def check(self, identity: dict[str, str], adapter_file: str) -> None:
        """Whether ``claim`` would succeed; raises what it raises."""
        path = self.out / RUN_FILE
        if not path.is_file():
            refuse_taken(self.out)
            return
        found = _read(path)
        for name in {**identity, **found}:
            if found.get(name) != identity.get(name):
                raise TrainingError(
                    f"{self.out} holds a run with another {name} "
                    f"({_short(found.get(name))} where this one has {_short(identity.get(name))}).",
                    hint="Run it with what it was begun with to resume it, choose another --out, or remove it.",
                )
        if (self.out / adapter_file).is_file() and not self.checkpoints.exists():
            raise OutputError(f"{self.out}: this run is finished.", hint="Choose another --out to train again.")

    def last_step(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        return max(map(_step, self._steps()), default=0)

    def save(self, step: int, write_adapter: Callable[[Path], None], optimizer: Tensors) -> Path:
        """Write the checkpoint of ``step`` and remove all but the last two."""
        folder = self.checkpoints / f"step-{step:08d}"
        with staged(folder) as beside:
            write_adapter(beside)
            (beside / "optimizer").mkdir()
            save_file(optimizer, beside / "optimizer" / "adamw.safetensors")
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old)
        return folder

    def load(self, step: int) -> tuple[Path, Tensors]:
        """The checkpoint of ``step``: its folder, which is an adapter, and the optimizer's state.

        Raises:
            TrainingError: it is damaged.
        """
        folder = self.checkpoints / f"step-{step:08d}"
        try:
            return folder, load_file(folder / "optimizer" / "adamw.safetensors")
        except (OSError, SafetensorError) as e:
            raise TrainingError(
                f"{folder} is damaged: {e}.", hint="Remove this folder to resume from the checkpoint before it."
            ) from e

    def finish(self, adapter_file: str) -> None:
        """Put the last checkpoint's adapter into place, its weights last, and remove the checkpoints."""
        folder = self.checkpoints / f"step-{self.last_step():08d}"
        files = [p for p in folder.iterdir() if p.is_file()]
        for file in sorted(files, key=lambda p: (p.name == adapter_file, p.name)):
            (self.out / file.name).unlink(missing_ok=True)
            with staged_file(self.out / file.name) as f, file.open("rb") as stored:
                shutil.copyfileobj(stored, f)
        done = self.out / _DONE
        self.checkpoints.rename(done)  # at once, so that no half of them is ever taken for a checkpoint
        shutil.rmtree(done)

    def _steps(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*"), key=_step)


def truncate_metrics(path: Path, step: int) -> list[Row]:
    """The lines of ``metrics.jsonl`` up to ``step``, which are all that the file then holds.

    A run that was killed has logged steps that its last checkpoint does not know, and perhaps half a line.
    """
    kept: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = cast(Row, json.loads(line))
        except ValueError:
            break
        if row["step"] > step:
            break
        kept.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8", newline="\n")
    beside.replace(path)
    return kept


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def _read(path: Path) -> dict[str, str]:
    try:
        return cast(dict[str, str], json.loads(path.read_text(encoding="utf-8")))
    except ValueError as e:
        raise TrainingError(f"{path} is damaged: it is not JSON.", hint="Remove the folder, or choose another --out.") from e
