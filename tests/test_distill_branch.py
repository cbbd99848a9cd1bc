"""The side branch in its training form, the losses against values worked out by hand, and what a fresh adapter changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from distill_setup import job, losses, run, write_records

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinedge.model.adapter import AdapterShape  # noqa: E402
from skinedge.model.reference import SideBranchModule  # noqa: E402
from train import losses as loss  # noqa: E402
from train.side_branch import SideBranch, packed, released  # noqa: E402

FRAME = 3 * 14 * 14


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_branch(experts: int, seed: int = 0) -> tuple[AdapterShape, SideBranchModule, SideBranch]:
    """The reference's module with random weights and ours with the same."""
    shape = AdapterShape(2 * FRAME, 32, 3, experts, 8, 8, 3, 8, 40, 12)
    torch.manual_seed(seed)
    theirs = SideBranchModule(shape)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = SideBranch(shape)
    ours.load_state_dict(packed(theirs.state_dict(), shape))
    return shape, theirs, ours


@pytest.mark.parametrize("experts", [0, 1, 2, 8])
def test_the_training_form_says_what_the_reference_says(experts: int) -> None:
    _, theirs, ours = random_branch(experts)
    patches = [12, 4, 20]
    rows = torch.randn(sum(patches), 3, FRAME // 3) * 0.3
    said = ours(rows.flatten(1), patches, [1, 2])
    both_frames = rows[:, :, None].expand(-1, -1, 2, -1).flatten(1)
    alone = [theirs(part) for part in both_frames.split(patches)]
    for i, one in enumerate(alone):
        torch.testing.assert_close(said.skin_logits[i].softmax(-1), one.skin, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(said.embedding[i], one.embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said.shift[0], alone[0].shift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said.shift[1], (alone[1].shift + alone[2].shift) / 2, atol=1e-5, rtol=1e-5)
    if experts:
        torch.testing.assert_close(said.probability.sum(1), torch.full((3,), float(sum(patches))))
        assert said.selected.sum(1).tolist() == [min(2, experts) * sum(patches)] * 3


@pytest.mark.parametrize("experts", [0, 8])
def test_gradients_are_those_of_the_reference(experts: int) -> None:
    shape, theirs, ours = random_branch(experts)
    rows = torch.randn(10, 3, FRAME // 3) * 0.3
    ours(rows.flatten(1), [10], [1]).shift.square().sum().backward()
    theirs(rows[:, :, None].expand(-1, -1, 2, -1).flatten(1)).shift.square().sum().backward()
    zero = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in ours.named_parameters()}
    mine = released(zero, shape)
    for name, parameter in theirs.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(mine[name], expected, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("experts", [0, 8])
def test_names_are_the_released_ones_and_come_back(experts: int) -> None:
    shape, theirs, ours = random_branch(experts)
    names = released(ours.state_dict(), shape)
    assert list(names) == list(shape.tensors())
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(names[name], tensor, atol=0, rtol=0)
    assert all(torch.equal(t, packed(names, shape)[n]) for n, t in ours.state_dict().items())


def test_a_fresh_side_branch_changes_nothing() -> None:
    shape = AdapterShape(2 * FRAME, 32, 3, 8, 8, 8, 3, 8, 40, 12)
    branch = SideBranch(shape, scale=1.5)
    rows = torch.randn(10, FRAME)
    said = branch(rows, [10], [1])
    assert said.shift.abs().max() == 0
    tensors = released(branch.state_dict(), shape)
    assert tensors["logit_bias_scale"] == 1.5
    for i in range(shape.layers):
        for net in shape.nets(i):
            assert not tensors[net + "2.weight"].any()
            assert tensors[net + "0.weight"].any()
    plain = torch.nn.functional.linear(rows, branch._still_weight()).mean(0)
    torch.testing.assert_close(said.embedding[0], branch.out_proj(plain))


@pytest.mark.parametrize("kind", ["side-branch", "lora"])
def test_the_first_loss_of_an_adapter_is_that_of_the_model_alone(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from skinedge.model.reference import Reference

    data = write_records(tmp_path / "set", 4)
    changes = {"adapter__kind": kind, "train__batch": 4, "train__steps": 1}
    run(tiny_model, data, tmp_path / "out", **changes)
    reference = Reference.from_checkpoint(tiny_model, threads=1)
    made = job(tiny_model, data, tmp_path / "other", **changes)
    total, tokens = 0.0, 0
    for example in map(made.sources.maker, made.records):
        inputs = {"input_ids": torch.from_numpy(example.token_ids)[None]}
        grids = torch.tensor([[p.grid.frames, p.grid.height, p.grid.width] for p in example.pixels])
        pixels = torch.from_numpy(np.concatenate([p.patches for p in example.pixels]))
        kinds = (inputs["input_ids"] == made.config.image_token_id).int()
        labels = torch.from_numpy(example.labels)[None]
        with torch.no_grad():
            out = reference.model(**inputs, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=kinds, labels=labels)
        total, tokens = total + float(out.loss) * len(example.targets), tokens + len(example.targets)
    assert losses(tmp_path / "out")[0]["ce"] == pytest.approx(total / tokens, rel=1e-5)


def test_cross_entropy_by_hand() -> None:
    # Two tokens, vocabulary of 3, logits = hidden @ head.T + bias = [1, 0, 0] and [0, 2, 1].
    hidden, head = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    bias = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]], requires_grad=True)
    total = loss.Vocabulary(head).biased_loss(hidden, torch.tensor([0, 2]), bias, [1, 1])
    first = math.log(math.e + 2) - 1
    second = math.log(1 + math.e**2 + math.e) - 1
    assert total.item() == pytest.approx(first + second, rel=1e-6)
    total.backward()
    z = 1 + math.e**2 + math.e
    assert bias.grad is not None
    np.testing.assert_allclose(bias.grad[1], [1 / z, math.e**2 / z, math.e / z - 1], rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_cross_entropy_in_chunks_is_torchs_own(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, vocabulary = [3, 0, 7, 2], 11
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk * 4 * vocabulary)
    torch.manual_seed(1)
    hidden, head = torch.randn(12, 5, requires_grad=True), torch.randn(vocabulary, 5)
    bias, labels = torch.randn(4, vocabulary, requires_grad=True), torch.randint(0, vocabulary, (12,))
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(tokens))
    expected = torch.nn.functional.cross_entropy(hidden @ head.T + bias[owner], labels, reduction="sum")
    total = loss.Vocabulary(head).biased_loss(hidden.detach(), labels, bias, tokens)
    torch.testing.assert_close(total, expected)
    gradients = (torch.autograd.grad(e * 0.3, bias) for e in (total, expected))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    expected = torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="sum")
    total = loss.Vocabulary(head).loss(hidden, labels)
    torch.testing.assert_close(total, expected)
    gradients = (torch.autograd.grad(e * 0.3, hidden) for e in (total, expected))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_confident_token_leaves_its_small_gradient_in_bf16() -> None:
    """A hundred tokens of probability 0.999 each: in 16 bits their sum less their number would be nothing, or noise."""
    head, bias = torch.eye(8).bfloat16(), torch.zeros(1, 8, requires_grad=True)
    hidden, labels = 9 * torch.eye(8)[:1].repeat(100, 1), torch.zeros(100, dtype=torch.long)
    total = loss.Vocabulary(head).biased_loss(hidden.bfloat16(), labels, bias, [100])
    (gradient,) = torch.autograd.grad(total, bias)
    p = 1 / (1 + 7 * math.exp(-9))
    assert gradient[0, 0].item() == pytest.approx(100 * (p - 1), rel=1e-3)
    assert gradient[0, 1].item() == pytest.approx(100 * p * math.exp(-9), rel=1e-3)


def test_cross_entropy_under_a_strong_bias_and_in_bf16() -> None:
    """A bias of tens turns the likeliest token into the least likely one, and rounding stays that of the type."""
    torch.manual_seed(2)
    hidden, head, labels = 4 * torch.randn(40, 16), torch.randn(300, 16), torch.randint(0, 300, (40,))
    bias = 12 * torch.randn(2, 300)
    logits = hidden.double() @ head.double().T + bias.double().repeat_interleave(20, 0)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").float()
    torch.testing.assert_close(loss.Vocabulary(head).biased_loss(hidden, labels, bias, [20, 20]), expected, rtol=1e-5, atol=0)
    rounded = loss.Vocabulary(head.bfloat16()).biased_loss(hidden.bfloat16(), labels, bias, [20, 20])
    torch.testing.assert_close(rounded, expected, rtol=5e-3, atol=0)


def test_cosine_skin_and_balance_by_hand() -> None:
    embedding, teacher = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, 3.0]])
    assert float(loss.cosine_loss(embedding, teacher)) == pytest.approx(10 * (0 + 1 - math.sqrt(0.5)), rel=1e-5)
    logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    labels = torch.tensor([1, 0, -100])
    assert float(loss.skin_loss(logits, labels)) == pytest.approx(math.log(3) + math.log(1 + 2 * math.exp(-5)), rel=1e-5)
    # One layer, 4 experts, 10 patches: mean probability .4 .3 .2 .1, each patch keeps two experts.
    probability, selected = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[10.0, 6.0, 4.0, 0.0]])
    by_hand = 4 * (0.4 * 1.0 + 0.3 * 0.6 + 0.2 * 0.4 + 0.1 * 0.0)
    assert float(loss.balance_loss(probability, selected, 10, lambda t: t)) == pytest.approx(by_hand, rel=1e-6)
    even = loss.balance_loss(torch.full((1, 8), 1.25), torch.full((1, 8), 2.5), 10, lambda t: t)
    assert float(even) == pytest.approx(2.0), "perfect balance of top 2"
    # Two processes, each with half of the patches: their shares add up.
    halves = [loss.balance_loss(probability / 2, selected / 2, 5, lambda t: 2 * t) for _ in range(2)]
    assert float(sum(halves)) == pytest.approx(by_hand, rel=1e-6)
