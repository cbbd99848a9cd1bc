"""What two narratives state of the same skin: how much of the reference's findings a bundle keeps, and what it adds or turns.

No truth is needed, so any photographs will do.  Reported and never judged: that both say the same does not make it right, and
what a reading of free text overlooks, it overlooks on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from skinedge.evaluation.agreement import Agreement, compare_findings
from skinedge.parity.endpoint import Endpoint, ratio
from skinedge.parity.record import Row

_compared = lru_cache(maxsize=4096)(compare_findings)  # every row is in a skin group, too


def stated_endpoints(rows: Sequence[Row], group: str) -> Iterator[Endpoint]:
    """Shares of findings, with a bootstrap of cases: those of one case depend on one another.  Of what nobody states, none."""
    found = [_compared(r.reference.text, r.bundle.text) for r in rows]
    for name, some, of, what in (
        ("findings kept", _agreed, _of_reference, "findings that the reference states, present or absent"),
        ("findings invented", _invented, _of_bundle, "findings that the bundle states"),
        ("findings turned", _turned, _of_both, "findings that both state: present in one, absent in the other"),
        ("sides turned", _swapped, _sided, "sites that both put on one side: left in one, right in the other"),
    ):
        counts = np.array([(some(f), of(f)) for f in found if of(f)], np.float64).reshape(-1, 2)
        if not len(counts):
            continue
        hits, total = counts.sum(0)
        note = f"{hits:.0f} of {total:.0f} {what}; in {(counts[:, 0] > 0).sum()} of {len(rows)} cases"
        yield ratio(name, "findings", group, "share", counts[:, 0], counts[:, 1], note=note)


def _agreed(found: Agreement) -> int:
    return len(found.agreed)


def _invented(found: Agreement) -> int:
    return len(found.invented)


def _turned(found: Agreement) -> int:
    return len(found.contradicted)


def _swapped(found: Agreement) -> int:
    return len(found.swapped)


def _sided(found: Agreement) -> int:
    return len(found.sided)


def _of_both(found: Agreement) -> int:
    return len(found.agreed) + len(found.contradicted) + len(found.swapped)


def _of_reference(found: Agreement) -> int:
    return _of_both(found) + len(found.dropped)


def _of_bundle(found: Agreement) -> int:
    return _of_both(found) + len(found.invented)
