"""What learns: the side branch or a LoRA, behind one face, and its way to and from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skinedge.errors import AdapterError
from skinedge.model.adapter import AdapterShape, infer_shape, released_name
from skinedge.model.config import ModelConfig
from train.batches import Batch
from train.rows import CHANNELS
from train.settings import SideBranchSection
from train.side_branch import BranchOutputs, SideBranch, packed, released
from train.whitening import turned

ADAPTER_FILE = "adapter.safetensors"
_FACTORS = Path("in_proj") / "factors.safetensors"


class Said(NamedTuple):
    """A student's answer to a batch: the hidden states it changed ``[T, hidden]``, or what the side branch says."""

    hidden: Tensor | None
    branch: BranchOutputs | None


class Student(Protocol):
    """A module that trains; ``forward(batch)`` gives ``Said``."""

    module: nn.Module

    def write(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write ``state`` (of ``module``, whole) as an adapter that ``open_checkpoint`` opens."""
        ...

    def read(self, folder: Path) -> dict[str, Tensor]:
        """The state that ``write`` wrote."""
        ...


class BatchedBranch(nn.Module):
    """A side branch that takes a whole batch, in training turned and mirrored if ``turn``."""

    def __init__(self, branch: SideBranch, *, turn: bool) -> None:
        super().__init__()
        self.branch = branch
        self._turn = turn

    def forward(self, batch: Batch) -> Said:
        """The branch on the batch's pictures."""
        rows = turned(batch.rows, CHANNELS, int(torch.randint(8, ()))) if self._turn and self.training else batch.rows
        return Said(None, self.branch(rows, batch.patches, batch.images))


class SideBranchStudent:
    """The side branch of a recipe; ``basis`` are the coordinates in which its first layer learns.

    Raises:
        AdapterError: the side branch to go on from does not fit the model, or is for another teacher.
    """

    def __init__(self, section: SideBranchSection, config: ModelConfig, teacher: int | None, basis: Tensor | None = None) -> None:
        start = _read_start(Path(section.start)) if section.start else None
        self.shape = branch_shape(section, config, teacher, start)
        branch = SideBranch(self.shape, scale=section.scale, frames=config.vision.temporal_patch_size, basis=basis)
        if start is not None:
            branch.load_state_dict(packed(start, self.shape))
        self.module: nn.Module = BatchedBranch(branch, turn=section.turn)

    def write(self, folder: Path, state: dict[str, Tensor]) -> None:
        own = {n.removeprefix("branch."): t for n, t in state.items()}
        save_file(released(own, self.shape), folder / ADAPTER_FILE)
        if "basis" in own:  # the released form has the product only, from which training could not go on exactly
            (folder / _FACTORS).parent.mkdir()
            save_file({name: own[name] for name in ("basis", "in_proj.weight")}, folder / _FACTORS)

    def read(self, folder: Path) -> dict[str, Tensor]:
        own = packed(load_file(folder / ADAPTER_FILE), self.shape)
        if (folder / _FACTORS).is_file():
            own |= load_file(folder / _FACTORS)
        return {f"branch.{n}": t for n, t in own.items()}


def branch_shape(
    section: SideBranchSection, config: ModelConfig, teacher: int | None, start: dict[str, Tensor] | None = None
) -> AdapterShape:
    """Sizes from the recipe, the model and the teacher (``None``: no teacher), or those of ``start``.

    Raises:
        AdapterError: ``start`` does not fit the model, or is for a teacher of another width.
    """
    hidden, values = config.text.hidden_size, config.vision.patch_values
    if start is None:
        return AdapterShape(
            values, section.width, section.layers, section.experts, section.bottleneck, section.skin_hidden, 3,
            section.bias_rank, hidden, teacher or section.teacher,
        )  # fmt: skip
    found = {name: tuple(t.shape) for name, t in start.items()}
    shape = infer_shape(found, hidden=hidden, patch_values=values, where=section.start)
    if teacher not in (None, shape.teacher):
        raise AdapterError(
            f"{section.start}: its out_proj gives {shape.teacher} values and the teacher's features have {teacher}.",
            hint="Use the teacher that this side branch was distilled from, or train without one (--teacher '').",
        )
    return shape


def _read_start(path: Path) -> dict[str, Tensor]:
    from skinedge.weights.shards import shard_paths

    stored = {n: t for file in shard_paths(path) for n, t in load_file(file).items()}
    tensors = {name: t.float() for n, t in stored.items() if (name := released_name(n))}
    if not tensors:
        raise AdapterError(f"{path}: there is no side branch in it.", hint="Give the folder of a trained side branch.")
    if "distill_head.out_proj.weight" in tensors:
        rows = len(tensors["distill_head.out_proj.weight"])
        tensors.setdefault("distill_head.out_proj.bias", torch.zeros(rows))
    return tensors
