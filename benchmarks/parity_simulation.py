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

from skinedge.parity.equivalence import LEAST_CASES, needed, needed_if_equal, power_of
from skinedge.parity.tango import tango_limits

Floats = npt.NDArray[np.float64]
N = (60, 100, 200, 300, 600, 1000)
SHARES = (0.50, 0.80, 0.90, 0.95, 0.98, 0.995)
DISCORDANT = (0.01, 0.02, 0.05, 0.10, 0.20)
MARGINS = (0.01, 0.02, 0.03, 0.05)
SCORE_MARGIN, DRAWN, RESAMPLES = 0.10, 20_000, 10_000
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
    """Exact: the chance of a pass and of a fail at the needed number of cases, where nothing was lost."""
    rows = []
    for margin in MARGINS:
        for discordant in (0.005, *DISCORDANT):
            n = max(needed(discordant, margin), needed_if_equal(margin))
            b, c, p = tables(n, discordant, 0.0)
            low, high = tango_limits(b, c, n)
            passed, failed = float(p[low > -margin].sum()), float(p[high < -margin].sum())
            stated = power_of(n, discordant, margin)
            rows.append({"margin": margin, "discordant": discordant, "n": n, "power": passed, "stated": stated, "fails": failed})
    return rows


def bootstrap_of_shares(seed: int) -> list[dict[str, float]]:
    """Coverage of the percentile bootstrap of a paired difference, as ``paired_difference`` draws it; each table once."""
    rng, rows = np.random.default_rng(seed), []
    for n in N:
        for discordant in (0.02, 0.05, 0.10):
            for difference in (0.0, -0.02):
                drawn = rng.multinomial(n, [(discordant - difference) / 2, (discordant + difference) / 2, 1 - discordant], 4000)
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


def _rarely_ruined(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
    """All that is lost is lost on few cases, two points each."""
    return -2.0 * (rng.random(shape) < -mean / 2)


SCORES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], Floats]] = {
    "normal, standard deviation 0.4": _alike,
    "seven in ten the same, the others normal with 0.8": _mostly_the_same,
    "one in twenty loses 2 points, the others nothing": _rarely_ruined,
}


def equivalence_of_scores(seed: int) -> list[dict[str, object]]:
    """Two one-sided t-tests within ±0.10: coverage of the interval of 90 %, size at the margin, power at no difference."""
    rng = np.random.default_rng(seed)
    return [_scores_row(rng, name, draw, n) for name, draw in SCORES.items() for n in N]


def _scores_row(
    rng: np.random.Generator, name: str, draw: Callable[[np.random.Generator, tuple[int, int], float], Floats], n: int
) -> dict[str, object]:
    from scipy import stats

    half = float(stats.t.ppf(0.95, n - 1)) / np.sqrt(n)
    row: dict[str, object] = {"scores": name, "n": n, "judged": n >= LEAST_CASES}
    for mean in (0.0, -SCORE_MARGIN):
        if not mean and draw is _rarely_ruined:
            continue  # then nothing differs
        blocks = [draw(rng, (DRAWN // 10, n), mean) for _ in range(10)]
        middle = np.concatenate([x.mean(1) for x in blocks])
        reach = half * np.concatenate([x.std(1, ddof=1) for x in blocks])
        inside = (middle - reach > -SCORE_MARGIN) & (middle + reach < SCORE_MARGIN)
        row |= {
            f"coverage at {mean:g}": float((np.abs(middle - mean) <= reach).mean()),
            ("size" if mean else "power"): float(inside.mean()),
        }
    return row


def bootstrap_of_lengths(seed: int, sets: int = 1000, resamples: int = 2000) -> list[dict[str, float]]:
    """Coverage of the bootstrap of a ratio of sums: lengths that spread by a third, and now and then one that runs on."""
    rng, rows = np.random.default_rng(seed), []
    truth = 0.99 * float(np.exp(0.2**2 / 2)) + 0.01 * 8
    for n in (60, 100, 200, 600):
        held = 0
        for _ in range(sets):
            before = rng.lognormal(5.5, 0.33, n)
            factor = np.where(rng.random(n) < 0.01, 8.0, rng.lognormal(0, 0.2, n))
            drawn = rng.integers(n, size=(resamples, n))
            ratios = (before * factor)[drawn].sum(1) / before[drawn].sum(1)
            low, high = np.quantile(ratios, [0.025, 0.975])
            held += bool(low <= truth <= high)
        rows.append({"n": n, "coverage": held / sets, "judged": n >= LEAST_CASES})
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
        values = [r[key] for r in found[rows] if key in r and all(r[k] == v for k, v in only.items())]
        return f"{100 * min(values):.1f} to {100 * max(values):.1f} %"  # type: ignore[type-var, operator]

    yield f"Wilson, 95 %: covers {between('wilson', 'coverage')}"
    yield f"Tango, 95 %: covers {between('tango', 'coverage')}; size at the margin (2.5 %) {between('tango', 'size')}"
    yield f"power at the needed number (80 %): {between('power', 'power')}"
    for n in N:
        yield f"bootstrap of shares, n {n}: covers {between('bootstrap of shares', 'coverage', n=n)}"
    for name in SCORES:
        for n in N:
            yield f"scores, {name}, n {n}: size (5 %) {between('scores', 'size', scores=name, n=n)}"
    for n in (60, 100, 200, 600):
        yield f"bootstrap of lengths, n {n}: covers {between('bootstrap of lengths', 'coverage', n=n)}"
    yield f"a skin group fails by chance: {between('groups', 'chance')}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage, size and power of the statistics of a certificate.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "parity_simulation.json")
    args = parser.parse_args()
    parts: dict[str, Callable[[], object]] = {
        "wilson": wilson_coverage,
        "tango": tango_coverage,
        "power": power,
        "groups": groups_that_fail_by_chance,
        "bootstrap of shares": lambda: bootstrap_of_shares(1),
        "scores": lambda: equivalence_of_scores(2),
        "bootstrap of lengths": lambda: bootstrap_of_lengths(3),
    }
    found: dict[str, list[dict[str, object]]] = {}
    for name, make in parts.items():
        began = time.perf_counter()
        found[name] = make()  # type: ignore[assignment]
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    lines = list(summary(found))
    print("\n".join(lines))
    document = {"seeds": [1, 2, 3], "drawn": DRAWN, "resamples": RESAMPLES, "summary": lines, **found}
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
