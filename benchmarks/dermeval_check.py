"""DermEval on diagnoses and damage that it never saw: rank correlation, error and calibration of each dimension, and baselines.

Usage: python -m benchmarks.dermeval_check [--weights DIR] [--also NAME=DIR ...] [--work DIR] [--json FILE]

Sets are those of ``train.dermeval_sets``: ``familiar``; new ``diagnoses``; new ``damage``; ``unseen``, which has both and on
which Spearman's rank correlation must reach 0.7 in every dimension (exit code 1 if not), with intervals by a bootstrap over
pictures; ``redrawn`` is the same with other pictures, findings and draws of the sentences.  The evaluator was chosen on
``choice``, whose pictures and sentences are in no other set.  Baselines: the mean score of the training narratives' targets, the
length of the text, the same judge without the picture, and whatever is given with ``--also`` (a text-only evaluator, stages of
training).  DermBench texts (../shared/data/dermbench, kept outside the project) are damaged sentence by sentence and read without
a picture and without a page: SynthDerm is all that the evaluator knows, so these figures say how far that carries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skinedge.console import Json, counted
from skinedge.embedded import BASE
from skinedge.evaluation.damage import FORMS, KINDS, LOSSES, MOST, targets
from skinedge.evaluation.damage_text import damage_text
from skinedge.evaluation.dermeval import EMBEDDED, DermEval, read_judge
from skinedge.evaluation.scorer import Scorable
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.weights.checkpoint import checkpoint_digest
from train.dermeval import figures, show
from train.dermeval_fit import score_all, truth_of, without_pictures
from train.dermeval_sets import CHOICE, HELD_OUT, TESTS, Sizes, TestSet, Workshop

DERMBENCH = Path(__file__).parents[2] / "shared" / "data" / "dermbench" / "references.jsonl"
RESULT = Path(__file__).parent / "results" / "dermeval.json"
BAR = 0.7
REDRAWN = 1311  # seed of a second draw of ``unseen``, which nothing was looked at before the weights were chosen
Scores = npt.NDArray[np.float64]


def calibration(scores: Scores, truth: Scores, bins: int = 5) -> dict[str, Json]:
    """Of each dimension: mean score and mean truth in bins of equal width, and the mean gap weighted by size."""
    found: dict[str, Json] = {}
    for i, name in enumerate(DIMENSIONS):
        place = np.clip((scores[:, i] / 5 * bins).astype(int), 0, bins - 1)
        inside = [place == b for b in range(bins) if (place == b).any()]
        rows = [{"n": int(x.sum()), "score": float(scores[x, i].mean()), "truth": float(truth[x, i].mean())} for x in inside]
        gap = sum(r["n"] * abs(r["score"] - r["truth"]) for r in rows) / len(scores)
        found[name] = {"gap": round(gap, 4), "bins": [{k: round(v, 3) for k, v in r.items()} for r in rows]}
    return found


def intervals(test: TestSet, scores: Scores, truth: Scores, draws: int = 1000) -> dict[str, Json]:
    """The 95 % interval of Spearman's correlation of each dimension, pictures drawn anew with all their narratives."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    pictures: dict[int, list[int]] = {}
    for i, sample in enumerate(test.samples):
        pictures.setdefault(sample.row, []).append(i)
    groups = list(pictures.values())
    drawn = [[i for g in rng.integers(len(groups), size=len(groups)) for i in groups[g]] for _ in range(draws)]
    found: dict[str, Json] = {}
    for d, name in enumerate(DIMENSIONS):
        values = [float(spearmanr(scores[rows, d], truth[rows, d]).statistic) for rows in drawn]
        found[name] = [round(float(x), 3) for x in np.quantile(values, (0.025, 0.975))]
    return found


def by_kind(test: TestSet, scores: Scores) -> dict[str, Json]:
    """Spearman's correlation with the severity, over narratives with this damage alone or none, in each dimension it lowers."""
    from scipy.stats import spearmanr

    found: dict[str, Json] = {}
    for kind in KINDS:
        rows = [i for i, s in enumerate(test.samples) if {d.kind for d in s.made.done} <= {kind}]
        severity = np.array([test.samples[i].made.severity(kind) for i in rows])
        if len(set(severity)) < 2:
            continue
        found[kind] = {
            "n": len(rows),
            **{d: round(-float(spearmanr(scores[rows, DIMENSIONS.index(d)], severity).statistic), 3) for d in LOSSES[kind]},
        }
    return found


def baselines(test: TestSet, mean: Scores) -> dict[str, dict[str, Json]]:
    """Always the mean score; and the length of the text, fitted to each dimension by a line on this very set."""
    truth = truth_of(test.watched)
    length = np.array([len(s.made.text) for s in test.samples], np.float64)
    lines = [np.polyval(np.polyfit(length, truth[:, i], 1), length) for i in range(len(DIMENSIONS))]
    return {"mean": figures(np.tile(mean, (len(truth), 1)), truth), "length": figures(np.stack(lines, 1), truth)}


def dermbench(scorer: DermEval, texts: int, seed: int) -> dict[str, Json]:
    """DermBench's references, each left sound and damaged once in every way."""
    records = [json.loads(line) for line in DERMBENCH.read_text(encoding="utf-8").splitlines() if line.strip()]
    rng = np.random.default_rng(seed)
    chosen = [records[i] for i in rng.permutation(len(records))[:texts]]
    told, truth, kinds, failed = [], [], [], dict.fromkeys(KINDS, 0)
    for r in chosen:
        others = [records[i] for i in rng.permutation(len(records))]
        near = next(o for o in others if o["category"] == r["category"] and o["diagnosis"] != r["diagnosis"])
        far = next(o for o in others if o["category"] != r["category"])
        wrong = (near["diagnosis"], far["diagnosis"])
        told.append(r["reference"])
        truth.append(targets(()))
        kinds.append(("", 0))
        for kind in KINDS:
            severity = int(rng.integers(1, MOST[kind] + 1))
            text, done = damage_text(
                r["reference"], kind, severity, rng,
                diagnosis=r["diagnosis"], wrong=wrong, elsewhere=far["reference"], form=FORMS[int(rng.integers(2))],
            )  # fmt: skip
            if done is None:
                failed[kind] += 1
                continue
            told.append(text)
            truth.append(targets((done,)))
            kinds.append((kind, done.severity))
    asked = [Scorable(str(i), text) for i, text in enumerate(told)]
    results = {r.id: r for r in counted("DermBench", list(scorer.score(asked)), True)}
    valid = [i for i in range(len(told)) if (results[str(i)].scores) is not None]
    scores = np.array([[(results[str(i)].scores or {})[d] for d in DIMENSIONS] for i in valid])
    true = np.array([[truth[i][d] for d in DIMENSIONS] for i in valid])
    found: dict[str, Json] = {
        "texts": len(chosen), "narratives": len(told), "invalid": len(told) - len(valid), "could_not_be_damaged": failed,
        "read": "without a picture and without a page, in the words that the tiny model's tokenizer has",
        "all": figures(scores, true), "calibration": calibration(scores, true),
    }  # fmt: skip
    for kind in KINDS:
        rows = [n for n, i in enumerate(valid) if kinds[i][0] in ("", kind)]
        found[kind] = figures(scores[rows], true[rows])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=EMBEDDED)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--work", type=Path, default=Path("build/dermeval"))
    parser.add_argument("--texts", type=int, default=60, help="DermBench texts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    digest = checkpoint_digest(BASE)
    judge, about = read_judge(args.weights, digest)
    settings = about["figures"]["settings"]
    shop = Workshop(BASE, Sizes(settings["pictures"], settings["each"]), args.work, quiet=False)
    tests = shop.tests()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    report: dict[str, Any] = {
        "status": "measured",
        "machine": machine,
        "held_out": list(HELD_OUT),
        "settings": settings,
        "weights": about["sha256"],
        "bar": BAR,
    }
    choice = shop.test(CHOICE)
    report["choice"] = figures(score_all(judge, choice.watched), truth_of(choice.watched))
    report["tests"] = {name: _test(tests[name], judge) for name in TESTS}
    redrawn = Workshop(BASE, Sizes(12, 1, seed=REDRAWN), args.work / "redrawn", quiet=False).test("unseen")
    report["redrawn"] = _test(redrawn, judge)
    unseen = tests["unseen"]
    mean = truth_of(shop.training()).mean(0)
    report["baselines"] = baselines(unseen, mean)
    blind = shop.test("unseen", blind=True)
    report["baselines"]["same judge, no picture"] = figures(score_all(judge, blind.watched), truth_of(blind.watched))
    report["also"] = {}
    for name, _, folder in (text.partition("=") for text in args.also):
        other, told = read_judge(Path(folder), digest)
        text_only = told["figures"]["settings"]["blind"]
        report["also"][name] = {
            "settings": told["figures"]["settings"],
            "choice": figures(*_both(other, choice, text_only)),
            **{n: figures(*_both(other, t, text_only)) for n, t in tests.items()},
        }
    report["dermbench"] = (
        "skipped: DermBench's texts are not here"
        if not DERMBENCH.is_file()
        else dermbench(DermEval(args.weights, picture=False, batch=4), args.texts, 7)
    )
    args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8", newline="\n")
    return _say(report)


def _both(judge: Any, test: TestSet, text_only: bool) -> tuple[Scores, Scores]:
    watched = without_pictures(test.watched) if text_only else test.watched
    return score_all(judge, watched), truth_of(watched)


def _test(test: TestSet, judge: Any) -> dict[str, Json]:
    scores, truth = score_all(judge, test.watched), truth_of(test.watched)
    return {
        **figures(scores, truth),
        "intervals": intervals(test, scores, truth),
        "calibration": calibration(scores, truth),
        "by_kind": by_kind(test, scores),
    }


def _say(report: Mapping[str, Any]) -> int:
    parts: Sequence[tuple[str, Mapping[str, Json]]] = [
        *report["tests"].items(),
        ("redrawn", report["redrawn"]),
        *report["baselines"].items(),
        *((name, found["unseen"]) for name, found in report["also"].items()),
    ]
    for name, found in parts:
        show(name, found)
    if isinstance(report["dermbench"], dict):
        show("dermbench", report["dermbench"]["all"])
    low = [d for d in DIMENSIONS if (report["tests"]["unseen"][d]["spearman"] or 0) < BAR]
    print(f"below {BAR} on what was never seen: {', '.join(low) or 'none'}")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
