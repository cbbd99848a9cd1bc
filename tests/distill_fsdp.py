"""Run by ``torch.distributed.run``: a side branch cut up by FSDP, its state gathered, put back, and trained on."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from skinedge.model.adapter import AdapterShape
from train.side_branch import SideBranch
from train.states import load_states, whole_states

SHAPE = AdapterShape(1176, 32, 2, 4, 8, 8, 3, 8, 40, 12)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = SideBranch(SHAPE)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        said = self.branch(rows, [len(rows)], [1])
        return sum(part.square().sum() for part in (said.shift, said.skin_logits, said.embedding, said.probability))


def made(*, cut_up: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = Branch()
    if cut_up:
        fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return module, torch.optim.AdamW(module.parameters(), 1e-3)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    module(torch.randn(8, 588)).backward()
    optimizer.step()
    optimizer.zero_grad()


def equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.allclose(t, theirs[n], atol=1e-7) for n, t in mine.items())


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    alone, cut_up = made(cut_up=False), made(cut_up=True)
    for seed in range(3):
        step(*alone, seed)
        step(*cut_up, seed)
    expected, kept = whole_states(*alone), whole_states(*cut_up)
    if dist.get_rank() == 0:
        print("same" if all(map(equal, expected, kept)) else f"not the same: {expected} {kept}")
    box = [kept]
    dist.broadcast_object_list(box)
    again = made(cut_up=True)
    load_states(*again, *box[0])
    for seed in range(3, 5):
        step(*alone, seed)
        step(*again, seed)
    expected, kept = whole_states(*alone), whole_states(*again)
    if dist.get_rank() == 0:
        print("same" if all(map(equal, expected, kept)) else f"not the same: {expected} {kept}")
    dist.barrier()
    dist.destroy_process_group()
    # A thread of gloo's may outlive its group, and a process that ends in the usual way is then aborted after its work.
    sys.stdout.flush()
    os._exit(0)


main()
