"""Whether the colour of a picture gives its diagnosis away: ``python -m train.probe --data FILE``.

A multinomial logistic regression on a few numbers a picture (the mean of red, green and blue; with their spread, for
information).  If this could diagnose, a model that is right about these pictures would have shown nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer

from skinedge.console import Json, counted, emit, run_command, say, table
from skinedge.errors import UsageError
from skinedge.parity.statistics import Share
from skinedge.runtime.photograph import load_photograph
from train.diagnose import percent
from train.held_out import HeldOut, read_held_out, share_json

Float64 = npt.NDArray[np.float64]
FOLDS = 5
_PENALTY = 1e-4  # on the squared weights: separable classes would otherwise have no optimum


def linear_probe(features: Float64, labels: Sequence[str], seed: int, *, folds: int = FOLDS) -> Share:
    """How many labels a logistic regression gets right on pictures it was not fitted to (cross-validation).

    Args:
        features: ``[n, d]``; they are standardised on the pictures that are fitted to.
        labels: ``n`` diagnoses.
        seed: fixes the folds.
        folds: number of parts, each tested once.

    Raises:
        UsageError: there are fewer pictures than folds.
    """
    if len(labels) < folds:
        raise UsageError(f"{len(labels)} pictures cannot be cut into {folds} folds.")
    numbers = _numbers(labels)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(labels)), folds)
    right = 0
    for part in parts:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        right += int((_classify(features[rest], numbers[rest], features[part]) == numbers[part]).sum())
    return Share(right, len(labels))


def transferred_probe(features: Float64, labels: Sequence[str], test: Float64, truth: Sequence[str]) -> Share:
    """The same, fitted to one set of pictures and tested on another."""
    numbers = _numbers([*labels, *truth])
    said = _classify(features, numbers[: len(labels)], test)
    return Share(int((said == numbers[len(labels) :]).sum()), len(truth))


def colour_features(records: Sequence[HeldOut], *, quiet: bool = True) -> Float64:
    """Mean and standard deviation of red, green and blue of each record's first picture, ``[n, 6]``, 0 to 1."""
    rows = []
    for record in counted("reading pictures", records, quiet):
        pixels = np.asarray(load_photograph(record.images[0]), np.float64).reshape(-1, 3) / 255
        rows.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
    return np.stack(rows)


def _numbers(labels: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _classify(features: Float64, labels: npt.NDArray[np.int64], test: Float64) -> npt.NDArray[np.int64]:
    """The likeliest class of each row of ``test`` after fitting to ``features``."""
    mean, std = features.mean(0), features.std(0) + 1e-12
    x, y = torch.from_numpy((features - mean) / std), torch.from_numpy(labels)
    model = torch.nn.Linear(x.shape[1], int(labels.max()) + 1, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        lbfgs.zero_grad()
        value = torch.nn.functional.cross_entropy(model(x), y) + _PENALTY * model.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    lbfgs.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        said: npt.NDArray[np.int64] = model(torch.from_numpy((test - mean) / std)).argmax(1).numpy()
    return said


app = typer.Typer(
    name="python -m train.probe",
    help="Show whether the mean colour of a picture gives its diagnosis away.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def probe(
    data: Annotated[Path, typer.Option(help="JSON Lines file of records with their diagnoses.")],
    test: Annotated[Path | None, typer.Option(help="Test on these records; left out: 5-fold cross-validation.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")] = False,
) -> None:
    """Fit and test a logistic regression on colour."""
    records = read_held_out(data)
    tested = read_held_out(test) if test else ()
    colours, others = (colour_features(r, quiet=quiet or as_json) if r else np.empty((0, 6)) for r in (records, tested))
    labels, truth = ([r.diagnosis for r in part] for part in (records, tested))
    shares = {
        name: transferred_probe(colours[:, :d], labels, others[:, :d], truth)
        if test
        else linear_probe(colours[:, :d], labels, seed)
        for name, d in {"mean colour": 3, "mean and spread of colour": 6}.items()
    }
    _show(shares, truth or labels, as_json)


def _show(shares: Mapping[str, Share], labels: Sequence[str], as_json: bool) -> None:
    commonest = Share(max(labels.count(label) for label in set(labels)), len(labels))
    if as_json:
        result: dict[str, Json] = {name.replace(" ", "_"): share_json(share) for name, share in shares.items()}
        emit({**result, "commonest_diagnosis": commonest.value, "diagnoses": len(set(labels))})
        return
    table(("what the probe sees", "diagnoses right"), [(name, percent(share)) for name, share in shares.items()])
    say(f"{len(set(labels))} diagnoses; always the commonest is right in {100 * commonest.value:.1f} %.")


def main() -> None:
    """Entry point: a line for every mistake, never a traceback for one the user can mend."""
    run_command(app)


if __name__ == "__main__":
    main()
