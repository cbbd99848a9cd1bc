"""Do the statistics of a certificate keep their word?  Coverage of the intervals, size and power of the tests, by simulation.

Usage: python benchmarks/parity_simulation.py [--out benchmarks/results/parity_simulation.json]

Where the outcomes can be counted (Wilson, Tango) every one is weighed by its probability, so these figures are exact; the others
are of drawn data sets and carry the standard error of that.  One core, a few minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from skinedge.parity.equivalence import hall, needed, needed_by_score, power_of
from skinedge.parity.margins import LEAST_LENGTHS, LEAST_SCORES
from skinedge.parity.tango import tango_limits

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int], float], Floats]
N = (60, 100, 200, 300, 600, 1000)
SHARES = (0.50, 0.80, 0.90, 0.95, 0.98, 0.995)
DISCORDANT = (0.01, 0.02, 0.05, 0.10, 0.20)
MARGINS = (0.01, 0.02, 0.03, 0.05)
SCORE_MARGIN, DRAWN, RESAMPLES, SETS = 0.10, 10_000, 10_000, 2000
_NEGLIGIBLE = 1e-12


def wilson_coverage() -> list[dict[str, float]]:
    """Exact, over all counts."""
    from scipy import stats

    z2, rows = NormalDist().inv_cdf(0.975) ** 2, []
    for n in N:
        k = np.arange(n + 1)
        middle, half = (k + z2 / 2) / (n + z2), np.sqrt(z2) / (n + z2) * np.sqrt(k * (n - k) / n + z2 / 4)
        rows += [
            {"n": n, "share": p, "coverage": float(stats.binom.pmf(k, n, p)[np.abs(p - middle) <= half].sum())} for p in SHARES
        ]
    return rows


def tables(n: int, discordant: float, difference: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Discordant counts that can be seen, and how likely each is: b, c, p, all ``[k]``."""
    from scipy import stats

    only_first, only_second = (discordant - difference) / 2, (discordant + difference) / 2
    most = int(stats.binom.isf(_NEGLIGIBLE, n, max(only_first, only_second))) + 1
    b, c = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    p = stats.binom.pmf(b, n, only_first) * stats.binom.pmf(c, np.maximum(n - b, 0), only_second / (1 - only_first))
    kept = (p > _NEGLIGIBLE) & (b + c <= n)
    return b[kept], c[kept], p[kept] / p[kept].sum()


def tango_coverage() -> list[dict[str, float]]:
    """Exact: how often the interval of 95 % holds the truth, and at the margin, how often the test lets a bundle pass."""
    rows = []
    for n in N:
        for discordant in DISCORDANT:
            for difference in (0.0, *(-m for m in MARGINS if m <= discordant)):
                b, c, p = tables(n, discordant, difference)
                low, high = tango_limits(b, c, n)
                row = {"n": n, "discordant": discordant, "difference": difference}
                row["coverage"] = float(p[(low <= difference) & (difference <= high)].sum())
                if difference < 0:
                    row["size"] = float(p[low > difference].sum())
                rows.append(row)
    return rows


def power() -> list[dict[str, float]]:
    """Exact, where nothing was lost: the chance of a pass and of a fail at the number that the certificate states, and of a pass
    at that of the rule of thumb.
    """
    rows = []
    for margin in MARGINS:
        for discordant in (0.005, *DISCORDANT):
            n, thumb = needed_by_score(discordant / 2, discordant / 2, margin), needed(discordant, margin)
            assert n is not None
            b, c, p = tables(n, discordant, 0.0)
            low, high = tango_limits(b, c, n)
            passed, failed = float(p[low > -margin].sum()), float(p[high < -margin].sum())
            b, c, p = tables(thumb, discordant, 0.0)
            by_thumb = float(p[tango_limits(b, c, thumb)[0] > -margin].sum())
            row = {"margin": margin, "discordant": discordant, "n": n, "power": passed, "stated": power_of(n, discordant, margin)}
            rows.append(row | {"fails": failed, "n by thumb": thumb, "power by thumb": by_thumb})
    return rows


def bootstrap_of_shares(seed: int) -> list[dict[str, float]]:
    """Coverage of the percentile bootstrap of a paired difference, as ``paired_difference`` draws it; each table once."""
    rng, rows = np.random.default_rng(seed), []
    for n in N:
        for discordant in (0.02, 0.05, 0.10):
            for difference in (0.0, -0.02):
                drawn = rng.multinomial(n, [(discordant - difference) / 2, (discordant + difference) / 2, 1 - discordant], SETS)
                pairs, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
                low, high = np.array([_resampled_limits(rng, n, b, c) for b, c in pairs]).T
                held = float(times[(low <= difference) & (difference <= high)].sum() / times.sum())
                passed = float(times[low > difference].sum() / times.sum())
                row = {"n": n, "discordant": discordant, "difference": difference, "coverage": held}
                rows.append(row | ({"size": passed} if difference < 0 else {}))
    return rows


def _resampled_limits(rng: np.random.Generator, n: int, b: int, c: int) -> Floats:
    # Drawing n cases anew and averaging +1, -1 and 0 is drawing their counts.
    counts = rng.multinomial(n, [b / n, c / n, (n - b - c) / n], RESAMPLES)
    return np.quantile((counts[:, 1] - counts[:, 0]) / n, [0.025, 0.975])


def _alike(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
    return rng.normal(mean, 0.4, shape)


def _mostly_the_same(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
    return np.where(rng.random(shape) < 0.3, rng.normal(mean / 0.3, 0.8, shape), 0.0)


def _ruined(points: float) -> Draw:
    """All that is lost is lost on few cases, so many points each; scores of the others differ by 0.2."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
        return rng.normal(0, 0.2, shape) - points * (rng.random(shape) < -mean / points)

    return draw


def _ruined_and_else_the_same(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
    return -2.0 * (rng.random(shape) < -mean / 2)


SCORES: dict[str, Draw] = {
    "normal, standard deviation 0.4": _alike,
    "seven in ten the same, the others normal with 0.8": _mostly_the_same,
    "one in twenty loses 2 points, the others differ by 0.2": _ruined(2.0),
    "one in thirty loses 3 points, the others differ by 0.2": _ruined(3.0),
    "one in twenty loses 2 points, the others nothing": _ruined_and_else_the_same,
}


def equivalence_of_scores(seed: int) -> list[dict[str, object]]:
    """Within ±0.10, by two one-sided t-tests and by the wider of Student's interval and Hall's, which a certificate judges by:
    coverage of 90 %, size of 5 % at the margin, power at no difference.
    """
    rng = np.random.default_rng(seed)
    return [_scores_row(rng, name, draw, n) for name, draw in SCORES.items() for n in N]


def _scores_row(rng: np.random.Generator, name: str, draw: Draw, n: int) -> dict[str, object]:
    row: dict[str, object] = {"scores": name, "n": n, "judged": n >= LEAST_SCORES}
    for mean in (0.0, -SCORE_MARGIN):
        blocks = [_score_limits(draw(rng, (DRAWN // 10, n), mean)) for _ in range(10)]
        for i, which in enumerate(("t", "wider")):
            low, high = (np.concatenate([b[i][end] for b in blocks]) for end in (0, 1))
            row[f"{which}, coverage at {mean:g}"] = float(((low <= mean) & (mean <= high)).mean())
            inside = (low > -SCORE_MARGIN) & (high < SCORE_MARGIN)
            row[f"{which}, {'size' if mean else 'power'}"] = float(inside.mean())
    return row


def _score_limits(x: Floats) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Of many sets at once, as ``tost`` and ``hall`` do it for one: Student's, and the wider of it and Hall's."""
    from scipy import stats

    n, middle, spread = x.shape[1], x.mean(1), x.std(1, ddof=1)
    t, spread = float(stats.t.ppf(0.95, n - 1)), np.maximum(spread, 1e-100)
    x = x - middle[:, None]
    skew = (x * x * x).mean(1) / spread**3
    safe = np.where(np.abs(skew) < 1e-9, 1.0, skew)

    def back(t: float) -> Floats:
        straight = t / np.sqrt(n) - skew / (6 * n)
        return np.where(safe == skew, 3 / safe * (np.cbrt(1 + skew * straight) - 1), straight)

    reach = t / np.sqrt(n)
    ends = middle - spread * np.maximum(back(t), reach), middle - spread * np.minimum(back(-t), -reach)
    return (middle - spread * reach, middle + spread * reach), ends


def bootstrap_of_lengths(seed: int, sets: int = 1000, resamples: int = 1000) -> list[dict[str, float]]:
    """The bootstrap of a ratio of sums: lengths that spread by a third, and one in a hundred that runs on to so many times its
    own that the ratio lies at the margin of 1.10.
    """
    rng, rows = np.random.default_rng(seed), []
    usual = float(np.exp(0.2**2 / 2))
    for often in (0.0, 0.01):
        truth = 1.10 if often else usual
        times = (truth - (1 - often) * usual) / often if often else 1.0
        for n in (60, 100, 200, 300, 600):
            held = passed = wide_held = wide_passed = 0
            for _ in range(sets):
                before = rng.lognormal(5.5, 0.33, n)
                after = before * np.where(rng.random(n) < often, times, rng.lognormal(0, 0.2, n))
                drawn = rng.integers(n, size=(resamples, n))
                low, high = np.quantile(after[drawn].sum(1) / before[drawn].sum(1), [0.025, 0.975])
                held += bool(low <= truth <= high)
                passed += bool(low > 0.9 and high < 1.1)
                ratio = after.sum() / before.sum()
                skewed = hall(ratio + (after - ratio * before) / before.mean(), alpha=0.025)
                low, high = min(low, skewed.low), max(high, skewed.high)
                wide_held += bool(low <= truth <= high)
                wide_passed += bool(low > 0.9 and high < 1.1)
            row = {
                "run on": often,
                "n": n,
                "judged": n >= LEAST_LENGTHS,
                "coverage": held / sets,
                "wider, coverage": wide_held / sets,
            }
            name = "size" if often else "power"
            rows.append(row | {name: passed / sets, f"wider, {name}": wide_passed / sets})
    return rows


def groups_that_fail_by_chance() -> list[dict[str, float]]:
    """Exact: the chance that one of three skin groups of a third each is called a fail where nothing was lost."""
    rows = []
    for n in (300, 600, 1200):
        for margin in MARGINS[:3]:
            for discordant in (0.02, 0.05, 0.10):
                b, c, p = tables(n // 3, discordant, 0.0)
                alone = float(p[tango_limits(b, c, n // 3)[1] < -margin].sum())
                rows.append({"n": n, "margin": margin, "discordant": discordant, "chance": 1 - (1 - alone) ** 3})
    return rows


def summary(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """What matters, in sentences."""

    def between(rows: str, key: str, **only: object) -> str:
        values = [float(r[key]) for r in found[rows] if key in r and all(r[k] == v for k, v in only.items())]  # type: ignore[arg-type]
        return f"{100 * min(values):.1f} to {100 * max(values):.1f} %"

    yield f"Wilson, 95 %: covers {between('wilson', 'coverage')}"
    yield f"Tango, 95 %: covers {between('tango', 'coverage')}; size at the margin (2.5 %) {between('tango', 'size')}"
    thumb = between("power", "power by thumb")
    yield f"power at the stated number (80 %): {between('power', 'power')}; at that of the rule of thumb {thumb}"
    for n in N:
        shares = between("bootstrap of shares", "coverage", n=n)
        yield f"bootstrap of shares, n {n}: covers {shares}, size (2.5 %) {between('bootstrap of shares', 'size', n=n)}"
    for n in N:
        sizes = f"t {between('scores', 't, size', n=n)}, the wider {between('scores', 'wider, size', n=n)}"
        yield f"scores, n {n}: size (5 %) by {sizes}"
    for row in found["lengths"]:
        name, nominal = ("size", " (2.5 %)") if "size" in row else ("power", "")
        values = [100 * float(row[key]) for key in (name, f"wider, {name}", "coverage", "wider, coverage")]  # type: ignore[arg-type]
        by = "bootstrap {:.1f} %, the wider {:.1f} %; covers {:.1f} and {:.1f} %".format(*values)
        yield f"lengths, {row['run on']} run on, n {row['n']}: {name}{nominal} by {by}"
    yield f"one of three skin groups fails by chance: {between('groups', 'chance')}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage, size and power of the statistics of a certificate.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "parity_simulation.json")
    parser.add_argument("--only", help="Make this part anew and keep the others.")
    args = parser.parse_args()
    parts: dict[str, Callable[[], object]] = {
        "wilson": wilson_coverage,
        "tango": tango_coverage,
        "power": power,
        "groups": groups_that_fail_by_chance,
        "bootstrap of shares": lambda: bootstrap_of_shares(1),
        "scores": lambda: equivalence_of_scores(2),
        "lengths": lambda: bootstrap_of_lengths(3),
    }
    found: dict[str, list[dict[str, object]]] = {}
    if args.only:
        earlier = json.loads(args.out.read_text(encoding="utf-8"))
        found = {name: earlier[name] for name in parts if name != args.only}
        parts = {args.only: parts[args.only]}
    for name, make in parts.items():
        began = time.perf_counter()
        found[name] = make()  # type: ignore[assignment]
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    lines = list(summary(found))
    print("\n".join(lines))
    document = {"seeds": [1, 2, 3], "drawn": DRAWN, "sets": SETS, "resamples": RESAMPLES, "summary": lines, **found}
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
