"""How much each matrix hurts when it is stored in few bits: KL of the final logits, measured on photographs.

The model runs layer by layer (``skinedge.calibration.layers``).  At its layer every group of matrices is replaced by
what is left of it in a scheme, and the hidden states that come out walk on through the rest of the model beside
the clean ones: one pass over the weights measures all groups, however large the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from skinedge.calibration.layers import LayerStream, Tensor, nn, read_tensor, torch
from skinedge.calibration.samples import Sample
from skinedge.model.names import HEAD
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.source import Float32
from skinedge.weights.stream import Progress

Restore = Callable[[str], Float32]  # the name of a matrix -> [out, in], what a scheme leaves of it

# Positions of a narrative that are looked at: their logits are the work.
POSITIONS = 64


@dataclass(frozen=True)
class Damage:
    """Over the narratives' positions: mean KL in nats, and the share whose likeliest token is another one.

    ``answer`` is that share at the last positions, where the answer stands.
    """

    kl: float
    changed: float
    answer: float


@dataclass(frozen=True)
class Asked:
    """A sample, and where in it the narrative is: from the position before its first token to the one before its last."""

    sample: Sample
    first: int
    answer: int  # the last so many positions hold the answer

    def positions(self) -> Tensor:
        """At most ``POSITIONS`` of the narrative, those of the answer among them."""
        last = len(self.sample.token_ids) - 1
        early = torch.linspace(self.first, max(self.first, last - self.answer - 1), max(1, POSITIONS - self.answer)).long()
        return torch.cat(
            [torch.unique(early[early < last - self.answer]), torch.arange(max(self.first, last - self.answer), last)]
        )


@torch.inference_mode()
def measure(
    checkpoint: Checkpoint,
    asked: Sequence[Asked],
    groups: Mapping[str, Sequence[str]],
    restore: Restore,
    progress: Progress,
) -> dict[str, Damage]:
    """The damage of each group of matrices, replaced by itself.

    Args:
        checkpoint: with its adapters.
        asked: what it reads.
        groups: matrices that are replaced together, by canonical names; those of a group are in one layer.
        restore: what is left of a matrix.
        progress: advanced by bytes of weights.
    """
    stream = LayerStream(checkpoint, [a.sample for a in asked], logits=False, progress=progress)
    measured: list[str] = []
    for stage in stream.stages():
        if stage.name == "lm_head":
            break
        here = [name for name, members in groups.items() if members[0] in stage.linears]
        clean, changed = stream.hidden[: len(asked)], []
        for name in here:
            with _replaced(stage.linears, groups[name], restore):
                changed += [stage.step(i, h) for i, h in enumerate(clean)]
        stage.run()
        stream.hidden += changed
        measured += here
        del stage
    return _compare(checkpoint, asked, stream.hidden, measured, [n for n, m in groups.items() if m == (HEAD,)], restore)


@contextmanager
def _replaced(linears: Mapping[str, nn.Module], names: Sequence[str], restore: Restore) -> Iterator[None]:
    kept = {name: linears[name].weight for name in names}
    for name in names:
        linears[name].weight = nn.Parameter(torch.from_numpy(restore(name)), requires_grad=False)
    try:
        yield
    finally:
        for name, weight in kept.items():
            linears[name].weight = weight


def _compare(
    checkpoint: Checkpoint,
    asked: Sequence[Asked],
    states: Sequence[Tensor],
    measured: Sequence[str],
    heads: Sequence[str],
    restore: Restore,
) -> dict[str, Damage]:
    """Logits of each copy against those of the clean one; a head's damage is that of its own product."""
    head = read_tensor(checkpoint.weights, HEAD)
    sums = {name: [0.0, 0.0, 0.0] for name in (*measured, *heads)}
    other = torch.from_numpy(restore(HEAD)) if heads else head
    places = [a.positions() for a in asked]
    clean = [(states[i][p] @ head.T).log_softmax(-1) for i, p in enumerate(places)]
    for number, name in enumerate((*measured, *heads)):
        of_head = name in heads
        for i, where in enumerate(places):
            state = states[i if of_head else (number + 1) * len(asked) + i][where]
            found = (state @ (other if of_head else head).T).log_softmax(-1)
            kl = (clean[i].exp() * (clean[i] - found)).sum(-1)
            differs = (clean[i].argmax(-1) != found.argmax(-1)).float()
            answer = differs[-asked[i].answer :] if asked[i].answer else differs[:0]
            for k, value in enumerate((kl.mean(), differs.mean(), answer.mean() if len(answer) else differs.mean())):
                sums[name][k] += float(value) / len(asked)
    return {name: Damage(*found) for name, found in sums.items()}
