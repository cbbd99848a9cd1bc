"""Train an evaluator of narratives: ``python -m train.dermeval --out DIR``.

Draws pictures and damaged narratives (``train.dermeval_sets``), lets the frozen model read them once, trains the judge on
true scores and then by score-oriented REINFORCE (``train.dermeval_fit``), and writes weights, figures and card.  The same
command on the same machine gives the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from skinedge.console import Json, note, run_command, say
from skinedge.embedded import BASE
from skinedge.errors import UsageError
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.registry import check
from skinedge.staging import refuse_taken

ESTIMATORS = ("off", "sampled", "exact")
_EVERY = 50  # steps between two lines of progress


def figures(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> dict[str, Json]:
    """Rank correlation, mean absolute error and bias of each dimension, of scores ``[N, 6]``."""
    from scipy.stats import spearmanr

    found: dict[str, Json] = {"n": len(truth)}
    for i, name in enumerate(DIMENSIONS):
        mine, true = scores[:, i], truth[:, i]
        flat = np.ptp(mine) == 0 or np.ptp(true) == 0
        found[name] = {
            "spearman": None if flat else round(float(spearmanr(mine, true).statistic), 4),
            "mae": round(float(np.abs(mine - true).mean()), 4),
            "bias": round(float((mine - true).mean()), 4),
        }
    return found


def show(name: str, found: Mapping[str, Json]) -> None:
    """A line of figures for people."""
    parts = []
    for dimension in DIMENSIONS:
        one = found[dimension]
        assert isinstance(one, Mapping)
        parts.append(f"{one['spearman']}/{one['mae']}")
    say(f"{name:12} n {found['n']:>5}  spearman/mae  {'  '.join(parts)}")


def card(held_out: Sequence[str], settings: Mapping[str, Json], results: Mapping[str, Mapping[str, Json]]) -> str:
    """The model card."""
    lines = [
        "# DermEval of skinedge", "",
        "A judge over a frozen vision-language model: picture and narrative in, six scores from 0 to 5 out. Trained by "
        "`python -m train.dermeval` on SynthDerm narratives damaged in known ways (`skinedge/evaluation/damage.py`), first on "
        "true scores, then by score-oriented REINFORCE. **It knows drawn pictures and must not be used to judge what is said of "
        "a patient.**", "",
        f"Never seen in training: {', '.join(held_out)}; damage of the form `other` and its sentences.", "",
        f"Settings: {', '.join(f'{k} {v}' for k, v in settings.items())}.", "",
        f"| Spearman / mean absolute error | n | {' | '.join(DIMENSIONS)} |",
        f"|{'---|' * (len(DIMENSIONS) + 2)}",
    ]  # fmt: skip
    for name, found in results.items():
        cells = []
        for dimension in DIMENSIONS:
            one = found[dimension]
            assert isinstance(one, Mapping)
            cells.append(f"{one['spearman']} / {one['mae']}")
        lines.append(f"| {name} | {found['n']} | {' | '.join(cells)} |")
    return "\n".join((*lines, "", "Sets: `train/dermeval_sets.py`; more figures: `benchmarks/results/dermeval.json`.", ""))


app = typer.Typer(
    name="python -m train.dermeval",
    help="Train an evaluator of narratives on damaged SynthDerm narratives.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for weights, figures and card.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that reads; by default the embedded one.")] = BASE,
    work: Annotated[Path, typer.Option(help="What was read is kept here for another run.")] = Path("build/dermeval"),
    pictures: Annotated[int, typer.Option(min=12, help="Pictures drawn for training.")] = 1920,
    each: Annotated[int, typer.Option(min=1, help="Narratives of each picture.")] = 4,
    tests: Annotated[int, typer.Option(min=12, help="Pictures drawn for the tests.")] = 480,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs on true scores.")] = 5,
    lr: Annotated[float, typer.Option(min=0, help="Highest learning rate there.")] = 1e-3,
    thin: Annotated[float, typer.Option(min=0, max=0.2, help="Share of tokens that are hidden in the first stage.")] = 0.0,
    reinforce: Annotated[str, typer.Option(help="off, sampled (REINFORCE) or exact (its expectation).")] = "sampled",
    reinforce_epochs: Annotated[int, typer.Option(min=1, help="Epochs of REINFORCE.")] = 1,
    reinforce_lr: Annotated[float, typer.Option(min=0, help="Highest learning rate there.")] = 2e-4,
    average: Annotated[float, typer.Option(min=0, max=1, help="How far the weights go from before REINFORCE to after it.")] = 0.5,
    start: Annotated[Path | None, typer.Option(help="Go on from this judge instead of from random weights.")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Words and page alone: no picture, no states, no surprise.")] = False,
    states: Annotated[bool, typer.Option(help="Give the judge the model's hidden states.")] = True,
    surprise: Annotated[bool, typer.Option(help="Give the judge how likely each token was.")] = True,
    seed: Annotated[int, typer.Option(help="Fixes weights and order.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train, test on what was never seen, and write the evaluator."""
    import torch

    from skinedge.evaluation.dermeval import read_judge, write_judge
    from skinedge.evaluation.dermeval_model import Judge, Shape
    from skinedge.weights.checkpoint import checkpoint_digest
    from train import dermeval_fit as fit
    from train.dermeval_sets import CHOICE, HELD_OUT, LAYOUT, Sizes, Workshop

    check("estimator", reinforce, ESTIMATORS)
    refuse_taken(out)
    if not model.is_dir():
        raise UsageError(f"{model}: there is no such folder.", hint="Give the folder of a model with --model.")
    if threads:
        torch.set_num_threads(threads)
    digest = checkpoint_digest(model)
    shop = Workshop(model, Sizes(pictures, each, tests), work, quiet=quiet)
    training = fit.without_pictures(shop.training()) if blind else shop.training()
    torch.manual_seed(seed)
    began = time.monotonic()
    if start:
        judge, before = read_judge(start, digest)
    else:
        before = {}
        judge = Judge(
            Shape(shop.config.text.hidden_size, states=states and not blind, surprise=surprise and not blind, agreement=not blind)
        )
    if epochs:
        fit.supervised(judge, training, fit.Stage(epochs, lr, seed, thin=thin), None if quiet else _Progress("true scores"))
    if reinforce != "off":
        how = fit.Reinforce(exact=reinforce == "exact")
        stage = fit.Stage(reinforce_epochs, reinforce_lr, seed + 1)
        before = {name: value.clone() for name, value in judge.state_dict().items()}
        fit.reinforce(judge, training, stage, how, None if quiet else _Progress("REINFORCE"))
        judge.load_state_dict({n: torch.lerp(before[n], value, average) for n, value in judge.state_dict().items()})
    took = time.monotonic() - began
    results = {}
    for name, test in {CHOICE: shop.test(CHOICE), **shop.tests()}.items():
        watched = fit.without_pictures(test.watched) if blind else test.watched
        results[name] = figures(fit.score_all(judge, watched), fit.truth_of(watched))
        show(name, results[name])
    settings: dict[str, Json] = {
        "epochs": epochs, "lr": lr, "thin": thin,
        "reinforce": reinforce, "reinforce_epochs": reinforce_epochs, "reinforce_lr": reinforce_lr,
        "average": average,
        "blind": blind, "states": states, "surprise": surprise, "seed": seed, "pictures": pictures, "each": each,
        "start": before.get("sha256"), "layout": LAYOUT,
    }  # fmt: skip
    about = {"settings": settings, "held_out": list(HELD_OUT), "tests": results}
    write_judge(out, judge, digest, card(HELD_OUT, settings, results), about)
    note(f"trained in {took:.0f} s; the evaluator is in {out}.")


class _Progress:
    """A line now and then."""

    def __init__(self, what: str) -> None:
        self._what, self._began = what, time.monotonic()
        self._rows: list[dict[str, float]] = []

    def __call__(self, step: int, row: dict[str, float]) -> None:
        self._rows.append(row)
        if len(self._rows) == _EVERY:
            means = ", ".join(f"{k} {sum(r[k] for r in self._rows) / _EVERY:.3f}" for k in row)
            note(f"{self._what}: step {step + 1}, {means} ({time.monotonic() - self._began:.0f} s)")
            self._rows.clear()


def main() -> None:
    """Entry point."""
    run_command(app, stopped="stopped; what was read is kept.")


if __name__ == "__main__":
    main()
