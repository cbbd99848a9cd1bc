"""Text that arrives in pieces: tokens to characters, and where an answer ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class TextStream:
    """Turns tokens into text as they come, never half a character.

    What ``push`` and ``finish`` return, joined, is what ``decode`` gives for all tokens at once: text is given
    out once no later token can change it, and only an unfinished character at the end can still change.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []  # tokens since the last point between two characters
        self._given = 0  # characters of theirs that were given out

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes; often empty."""
        self._pending.append(token_id)
        text = self._decode(self._pending)
        if text.endswith("\ufffd"):  # stands for the bytes of an unfinished character, or for a wrong byte
            new = text[self._given : -1]
            self._given = len(text) - 1
            return new
        return self._release(text)

    def finish(self) -> str:
        """What is left when no more tokens come."""
        return self._release(self._decode(self._pending))

    def _release(self, text: str) -> str:
        new = text[self._given :]
        self._pending.clear()
        self._given = 0
        return new


class StopTexts:
    """Lets text through up to the first stop text, also when that arrives in pieces.

    What might be the beginning of a stop text is held back until it is clear.  The stop text that is complete
    first counts, so the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain to belong to the answer, and was not returned before."""
        if self.found:
            return ""
        text = self._held + text
        ends = [(begin + len(stop), begin) for stop in self._stops if (begin := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        keep = next((n for n in range(min(len(text), self._longest), 0, -1) if self._begins(text[-n:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What is still held back when no more text comes."""
        held, self._held = self._held, ""
        return held

    @property
    def _longest(self) -> int:
        return max(map(len, self._stops), default=1) - 1

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)
