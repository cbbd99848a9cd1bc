"""Full accounting: every adapter tensor is used, and shown to have changed something.

The tools this project replaces drop adapters without a word.  Here each adapter tensor is entered
in a ledger when it is opened and struck out when a block of weights, or a probe of the adapter
graph, comes out different because of it.  A step that ends with an open entry has failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skinedge.errors import AdapterError


@dataclass
class Ledger:
    """Adapter tensors and what became of them."""

    entered: dict[str, str] = field(default_factory=dict)  # tensor -> the output it belongs to
    proved: set[str] = field(default_factory=set)

    def enter(self, tensor: str, output: str) -> None:
        """Record that ``tensor`` must change ``output``.

        Raises:
            AdapterError: it was entered before, so it would be applied twice.
        """
        if tensor in self.entered:
            raise AdapterError(f"adapter tensor '{tensor}' is given twice.", hint="Pass each --adapter once.")
        self.entered[tensor] = output

    def prove(self, *tensors: str) -> None:
        """Record that each of ``tensors`` made a difference."""
        self.proved.update(tensors)

    def open_entries(self) -> tuple[str, ...]:
        """Tensors that have changed nothing so far."""
        return tuple(t for t in self.entered if t not in self.proved)

    def settle(self) -> None:
        """End the accounting.

        Raises:
            AdapterError: some tensor changed nothing; the first few are named.
        """
        left = self.open_entries()
        if left:
            more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
            raise AdapterError(
                f"{len(left)} of {len(self.entered)} adapter tensors changed nothing: "
                f"{', '.join(repr(t) for t in left[:3])}{more}.",
                hint="An adapter that was never trained does this (its B matrices are zero); "
                "pass --allow-inert to export it all the same.",
            )
