"""Does a text go in circles?  Two measures that need no model and no tokenizer."""

from __future__ import annotations

import re

import numpy as np

LEAST_TIMES, LEAST_WORDS = 3, 12


def words_of(text: str) -> list[str]:
    """Its words, letter case and punctuation apart."""
    return re.findall(r"\w+", text.casefold())


def is_loop(text: str) -> bool:
    """Whether some block of words stands at least three times in immediate succession, twelve words or more in all.

    Greedy decoding that degenerates ends so (Holtzman et al., arXiv 1904.09751).  A list whose items begin alike is no loop,
    nor is a word said thrice.

    >>> is_loop("the border is jagged and " * 3), is_loop("no, no, no")
    (True, False)
    """
    words = words_of(text)
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    ids = np.array([numbers[word] for word in words], np.int64)
    for period in range(1, len(ids) // LEAST_TIMES + 1):
        # A run of r words, each equal to the one a period earlier, is a block that stands r / period + 1 times.
        run = max(period * (LEAST_TIMES - 1), LEAST_WORDS - period)
        if _longest_run(ids[period:] == ids[:-period]) >= run:
            return True
    return False


def repeated_share(text: str, n: int = 4) -> float:
    """The share of runs of ``n`` words that stood before in the text: seq-rep-4 of Welleck et al. (arXiv 1908.04319)."""
    words = words_of(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _longest_run(same: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
