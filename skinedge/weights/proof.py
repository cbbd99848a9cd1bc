"""Showing that every tensor of an adapter matters.

Of a LoRA the ledger sees it as the weights are read.  Of the side branch each tensor is set to zero in
turn and the branch is run on a probe: its outputs must change.  An expert that the router never picks on
the probe is run by itself instead, since another image may reach it.
"""

from __future__ import annotations

import numpy as np

from skinedge.model.adapter import AdapterShape, BranchOutput, run_branch, run_net
from skinedge.weights.checkpoint import Checkpoint, SideBranch
from skinedge.weights.ledger import Ledger
from skinedge.weights.source import Float32, row_blocks

PROBE_PATCHES = 48
_PROBED = 1 << 20  # bytes of a weight read at a time to see that an adapter changes it


def prove_side_branch(branch: SideBranch, ledger: Ledger) -> None:
    """Strike out of ``ledger`` every tensor of ``branch`` that makes a difference."""
    weights, shape = branch.weights(), branch.shape
    probe = probe_patches(shape)
    whole = run_branch(shape, weights, probe)
    for name in branch.source.names():
        without = {**weights, name: np.zeros_like(weights[name])}
        if _differ(whole, run_branch(shape, without, probe)) or _expert_differs(shape, weights, without, name):
            ledger.prove(name)


def probe_patches(shape: AdapterShape) -> Float32:
    """Patch rows in the range of normalised pixels: flat ones, bright ones, noise."""
    rng = np.random.default_rng(0)
    level = rng.uniform(-2, 2, (PROBE_PATCHES, 1))
    noise = rng.normal(0, 1, (PROBE_PATCHES, shape.patch_values)) * rng.uniform(0, 1.5, (PROBE_PATCHES, 1))
    return (level + noise).astype(np.float32)


def _differ(a: BranchOutput, b: BranchOutput) -> bool:
    pairs = ((a.shift, b.shift), (a.skin, b.skin), (a.embedding, b.embedding))
    return any(not np.array_equal(x, y) for x, y in pairs)


def _expert_differs(shape: AdapterShape, weights: dict[str, Float32], without: dict[str, Float32], name: str) -> bool:
    net = name.rpartition("net.")[0] + "net."
    if ".experts." not in name:
        return False
    h = np.random.default_rng(0).normal(0, 1, (4, shape.width)).astype(np.float32)
    return not np.array_equal(run_net(weights, net, h), run_net(without, net, h))


def prove_unread(checkpoint: Checkpoint) -> None:
    """Read weights whose adapters are still open in the ledger, until they are proved.

    An export that goes on does not read again what is written already.
    """
    ledger, weights = checkpoint.ledger, checkpoint.weights
    known = set(weights.names())
    for entry in ledger.open_entries():
        name = ledger.entered[entry]
        blocks = row_blocks(weights.spec(name), _PROBED) if name in known else ()
        for rows in blocks:
            if entry not in ledger.proved:
                weights.read(name, rows)
