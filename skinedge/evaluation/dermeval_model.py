"""The network of DermEval: a frozen vision-language model that reads picture and narrative, under a trained judge.

The model reads the narrative as if it were writing it.  What it had in mind at every token (its last hidden state) and
how likely it would have been to write that token (a finding that is not on the picture surprises it) go to the judge,
together with the token itself, the picture's features, and the page of the disease that the narrative names, if
there is one.  Of each entry of that page the model is asked how likely it would have been to write it of this picture.
The judge is a small transformer over all of these; what it pools (weighted means, gated sums because damage
adds up) gives a critique, which findings are wrong in which way, and six distributions over ``LEVELS``.  A score is
its distribution's mean, to the nearest quarter.

Besides ``skinedge.model.reference`` and ``skinedge.calibration.layers`` the only place in the package that imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from skinedge.errors import MissingDependencyError
from skinedge.evaluation.damage import FLAWS
from skinedge.evaluation.scores import DIMENSIONS, HIGHEST, LOWEST
from skinedge.synthderm.findings import VOCABULARY

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as e:
    if e.name != "torch":
        raise
    raise MissingDependencyError(
        "DermEval needs torch, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
    ) from e

if TYPE_CHECKING:
    from skinedge.evaluation.dermeval_reading import Tree

STEP = 0.5
LEVELS = tuple(LOWEST + STEP * i for i in range(int((HIGHEST - LOWEST) / STEP) + 1))
GRAIN = STEP / 2
_CHANNELS = 3  # of surprise: log-probability of the token, entropy, highest probability
_GRADES = (1, 2, 3)

# Final hidden states [B, S, hidden] of a language model on embeddings [B, S, hidden] at positions [3, B, S].
Decode = Callable[[Any, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of the judge, and what the model that reads gives it: ``states``, ``surprise``, ``agreement`` with the page."""

    hidden: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    pooled: int = 64
    ways: int = 2
    states: bool = True
    surprise: bool = True
    agreement: bool = True


@dataclass(frozen=True)
class Filled:
    """Conversations filled up on the right: ``ids`` ``[B, S]``, ``positions`` ``[3, B, S]``, ``spoken`` ``[B, S]`` narrative."""

    ids: Tensor
    positions: Tensor
    spoken: Tensor


@dataclass(frozen=True)
class Seen:
    """What the judge is given of ``B`` narratives of up to ``T`` tokens, pages of up to ``P``, pictures of ``M`` patches.

    ``states`` ``[B, T, hidden]`` before each token, ``words`` ``[B, T, hidden]`` their embeddings, ``surprise`` ``[B, T, 3]``,
    ``page`` ``[B, P, hidden]``, ``told`` ``[B, T]`` and ``written`` ``[B, P]`` true where there is a token, ``about``
    ``[B, P]`` the finding that a page's token is about (from 1; 0: none), ``agreement`` ``[B, P, 2]`` how likely that finding
    is as the page has it, and otherwise, ``picture`` ``[B, M, hidden]``, ``M`` 0 where there is none.
    """

    states: Tensor
    words: Tensor
    surprise: Tensor
    told: Tensor
    page: Tensor
    written: Tensor
    about: Tensor
    agreement: Tensor
    picture: Tensor


@dataclass(frozen=True)
class Judged:
    """``scores``: logits ``[B, 6, levels]``; ``flaws``: logits ``[B, F]``, in the order of ``flaw_names``."""

    scores: Tensor
    flaws: Tensor


def flaw_names() -> tuple[str, ...]:
    """What the critique may name: a flaw of a finding, and how bad advice or contradiction at least are."""
    of_findings = (f"{flaw} {finding}" for finding in VOCABULARY for flaw in FLAWS)
    graded = (f"{kind} {grade}" for kind in ("advice", "contradiction") for grade in _GRADES)
    return (*of_findings, *graded, "missed cancer")


@torch.no_grad()
def look(
    model: Any, text: Filled, features: Tensor | None, decode: Decode | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Let a frozen ``Qwen2_5_VLForConditionalGeneration`` read; ``features`` ``[B, merged patches, hidden]`` of the pictures.

    Returns:
        ``states``, ``words``, ``surprise`` and ``told`` of ``Seen``.
    """
    embeds = model.get_input_embeddings()(text.ids)
    if features is not None:
        places = (text.ids == model.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(places, features.flatten(0, 1).to(embeds.dtype))
    hidden = (decode or _decode)(model.model.language_model, embeds, text.positions)
    before, spoken = hidden[:, :-1], text.spoken[:, 1:]
    logs = model.lm_head(before[spoken]).float().log_softmax(-1)
    chosen = logs.gather(1, text.ids[:, 1:][spoken][:, None])[:, 0]
    probability = logs.exp()
    noticed = torch.stack([chosen.clamp(min=-16) / 4, -(probability * logs).sum(-1) / 2, probability.amax(-1)], -1)
    counts = spoken.sum(1)
    told = torch.arange(int(counts.max()))[None] < counts[:, None]
    return _packed(before[spoken], told), _packed(embeds[:, 1:][spoken], told), _packed(noticed, told), told


@torch.no_grad()
def believe(model: Any, tree: Tree, features: Tensor) -> Tensor:
    """How likely a frozen model finds each of ``VALUES`` on pictures ``[B, merged patches, hidden]``: ``[B, values]``.

    The values of a finding sum to one.  All clauses go through the model at once, each seeing only what leads to it.
    """
    count = len(features)
    ids = torch.from_numpy(tree.ids)[None].expand(count, -1)
    embeds = model.get_input_embeddings()(ids)
    places = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(places, features.flatten(0, 1).to(embeds.dtype))
    mask = torch.zeros(tree.visible.shape, dtype=embeds.dtype).masked_fill(~torch.from_numpy(tree.visible), -torch.inf)
    positions = torch.from_numpy(tree.positions)[:, None].expand(-1, count, -1)
    hidden = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask[None, None].expand(count, 1, -1, -1), use_cache=False
    ).last_hidden_state
    first = min(min(b) for b in tree.before)
    logs = model.lm_head(hidden[:, first:]).float().log_softmax(-1)
    each = [
        logs[:, [b - first for b in before], [int(tree.ids[p]) for p in places_]].sum(-1)
        for before, places_ in zip(tree.before, tree.places, strict=True)
    ]
    parts = torch.split(torch.stack(each, -1), [len(values) for values in VOCABULARY.values()], -1)
    return torch.cat([part.softmax(-1) for part in parts], -1)


def _packed(rows: Tensor, told: Tensor) -> Tensor:
    """Rows ``[tokens of all, ...]`` as ``[B, T, ...]``, zeros where nothing is told."""
    out = torch.zeros(*told.shape, rows.shape[-1])
    out[told] = rows.float()
    return out


class Judge(nn.Module):
    """The trained part: a bidirectional transformer over narrative, page and picture, and a head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        # Each in its own scale: the model's states are many times as long as its embeddings.
        self.word, self.seen = _enter(shape.hidden, shape.width), _enter(shape.hidden, shape.width)
        self.state = _enter(shape.hidden, shape.width) if shape.states else None
        self.surprise = nn.Linear(_CHANNELS, shape.width) if shape.surprise else None
        self.about = nn.Embedding(len(VOCABULARY) + 1, shape.width)
        self.agreement = nn.Linear(2, shape.width, bias=False) if shape.agreement else None
        self.kinds = nn.Parameter(torch.randn(3, shape.width) * 0.5)  # narrative, page, picture
        self.layers = nn.ModuleList(_Layer(shape.width, shape.heads) for _ in range(shape.layers))
        self.phrases = _Phrases(shape.hidden, len(_GRADES))
        self.head = _Head(shape)

    def forward(self, seen: Seen) -> Judged:
        """What is thought of each narrative."""
        narrative, page = self.word(seen.words), self.word(seen.page)
        narrative, page = narrative + _places(narrative), page + _places(page)
        page = page + self.about(seen.about)
        if self.agreement is not None:
            page = page + self.agreement(seen.agreement)
        if self.state is not None:
            narrative = narrative + self.state(seen.states)
        if self.surprise is not None:
            narrative = narrative + self.surprise(seen.surprise)
        parts = (narrative, page, self.seen(seen.picture))
        x = torch.cat([part + kind for part, kind in zip(parts, self.kinds, strict=True)], 1)
        there = torch.cat([seen.told, seen.written, torch.ones(seen.picture.shape[:2], dtype=torch.bool)], 1)
        mask = torch.zeros(there.shape, dtype=x.dtype).masked_fill(~there, -torch.inf)
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        judged: Judged = self.head(x, there, self.phrases(seen.words, seen.told))
        return judged


def _enter(inside: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inside), nn.Linear(inside, width))


class _Phrases(nn.Module):
    """Advice is graded by its phrases alone: three words at a time, the strongest anywhere (Kim, arXiv 1408.5882).

    A transformer learns the sentences of a few dozen by heart; what no window of three words says, this cannot learn.  In
    training some words are hidden, so that no single one decides.
    """

    def __init__(self, inside: int, grades: int, width: int = 96) -> None:
        super().__init__()
        self.norm, self.hide = nn.LayerNorm(inside), nn.Dropout1d(0.15)
        self.window, self.drop = nn.Linear(3 * inside, width), nn.Dropout(0.3)
        self.grade = nn.Linear(width, grades)

    def forward(self, words: Tensor, told: Tensor) -> Tensor:
        """Logits ``[B, grades]`` that advice is at least so bad."""
        kept = self.hide(self.norm(words)) * told[..., None]
        around = functional.pad(kept, (0, 0, 1, 1))
        three = torch.cat([around[:, :-2], kept, around[:, 2:]], -1)
        heard = functional.gelu(self.window(three)).masked_fill(~told[..., None], 0)
        logits: Tensor = self.grade(self.drop(heard.amax(1)))
        return logits


class _Layer(nn.Module):
    """Attention by plain products, whose backward is faster on a CPU than that of torch's own layer, and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + mask).softmax(-1)
        x = x + self.out((weights.to(v.dtype) @ v).transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.down(functional.gelu(self.up(self.between(x))))
        return result


class _Head(nn.Module):
    """Six dimensions, each finding and the conduct (advice, contradiction) are pooled each in their own way."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._dimensions, self._findings = len(DIMENSIONS), len(VOCABULARY)
        self._slots = self._dimensions + self._findings + 1
        names, inside = len(flaw_names()), 2 * shape.ways * shape.pooled
        self.norm = nn.LayerNorm(shape.width)
        self.weigh = nn.Linear(shape.width, 2 * self._slots * shape.ways)
        self.value = nn.Linear(shape.width, shape.pooled)
        self.middle = nn.Parameter(torch.randn(self._slots, inside, shape.pooled) * inside**-0.5)
        self.finding = nn.Parameter(torch.zeros(self._findings, shape.pooled, len(FLAWS)))
        self.conduct = nn.Linear(shape.pooled, names - self._findings * len(FLAWS) - len(_GRADES))
        self.own: Tensor
        self.register_buffer("own", torch.tensor([float(name != "Safety") for name in DIMENSIONS])[:, None], persistent=False)
        self.critic = nn.Linear(names, self._dimensions * shape.pooled)
        self.leave = nn.Parameter(torch.zeros(self._dimensions, shape.pooled, len(LEVELS)))
        self.offset = nn.Parameter(torch.zeros(self._dimensions, len(LEVELS)))

    def forward(self, x: Tensor, there: Tensor, advice: Tensor) -> Judged:
        inner = functional.gelu(torch.einsum("bdi,dio->bdo", self._pool(self.norm(x), there), self.middle))
        dimensions, findings, conduct = torch.split(inner, [self._dimensions, self._findings, 1], 1)
        found = torch.einsum("bfi,fil->bfl", findings, self.finding).flatten(1)
        flaws = torch.cat([found, advice, self.conduct(conduct[:, 0])], 1)
        # Whether something is unsafe follows from what was found, and from nothing else.
        dimensions = dimensions * self.own
        critique = self.critic(flaws.sigmoid().detach()).reshape(dimensions.shape)
        scores = torch.einsum("bdi,dil->bdl", functional.gelu(dimensions + critique), self.leave) + self.offset
        return Judged(scores, flaws)

    def _pool(self, x: Tensor, there: Tensor) -> Tensor:
        """``[B, slots, 2 * ways * pooled]``: weighted means and gated sums."""
        value = self.value(x)
        batch, length, _ = x.shape
        soft, gates = self.weigh(x).float().reshape(batch, length, 2, -1).unbind(2)
        hidden = ~there[..., None]
        soft = soft.masked_fill(hidden, -1e4).softmax(1)
        gates = gates.sigmoid().masked_fill(hidden, 0) / 16  # a sum over some dozen tokens comes to about one
        weights = torch.cat([soft, gates], -1).to(value.dtype)
        pooled = torch.einsum("bsw,bsv->bwv", weights, value).float()
        means, sums = (part.reshape(batch, self._slots, -1) for part in pooled.chunk(2, 1))
        return torch.cat([means, sums], -1)


def expected(logits: Tensor) -> Tensor:
    """Scores ``[B, 6]``: the mean of each distribution."""
    return logits.float().softmax(-1) @ torch.tensor(LEVELS)


def settled(logits: Tensor) -> Tensor:
    """Scores ``[B, 6]`` as they are given out: ``expected``, to the nearest ``GRAIN``; less than that is no difference."""
    return (expected(logits) / GRAIN).round() * GRAIN


def part(seen: Seen, rows: Tensor) -> Seen:
    """Some rows of a batch."""
    return Seen(*(getattr(seen, f.name)[rows] for f in fields(seen)))


def _places(x: Tensor) -> Tensor:
    """Sines of the place ``[S, width]``."""
    width = x.shape[-1]
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(x.shape[1])[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1) * 0.5


def _decode(language: Any, embeds: Tensor, positions: Tensor) -> Tensor:
    """``transformers``' own pass over whole texts; no token looks at a later one, so filling on the right disturbs nothing."""
    hidden: Tensor = language(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    return hidden
