"""How far the files of an export are, so that after an interruption the same command goes on.

A file of weights is written from front to back: what there is of it is a beginning.  After each tensor a line goes into the
journal of its folder: the file, its length until there, and the sha256 of all those bytes.  Who goes on reads the
beginning once, which the digest of the whole file needs anyway, and keeps what the lines confirm.  So no
write has to be forced to the disk: after a power cut a line without its data is seen as such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

JOURNAL_FILE = ".journal"
_PIECE = 4 << 20


@dataclass(frozen=True)
class Journal:
    """The journal of ``folder``; its files may lie in folders of it."""

    folder: Path

    @classmethod
    def of(cls, path: Path) -> Journal | None:
        """The journal that ``path`` is entered in, in its folder or the one above."""
        return next((cls(p) for p in path.parents[:2] if (p / JOURNAL_FILE).is_file()), None)

    def begin(self, identity: str) -> None:
        """Start it, or go on with it if it is that of ``identity``."""
        if self.identity() != identity:
            (self.folder / JOURNAL_FILE).write_text(json.dumps(identity) + "\n", encoding="utf-8")

    def identity(self) -> str | None:
        """What is being made; ``None`` if there is no journal or its first line is damaged."""
        try:
            found = json.loads(self._lines()[0])
        except (ValueError, IndexError):
            return None
        return found if isinstance(found, str) else None

    def empty(self) -> bool:
        """Whether no tensor is in it yet."""
        return len(self._lines()) < 2

    def mark(self, path: Path, length: int, digest: str) -> None:
        """Enter that ``path`` is right up to ``length``; what was written must have been handed to the system."""
        with (self.folder / JOURNAL_FILE).open("a", encoding="utf-8") as f:
            f.write(json.dumps([path.relative_to(self.folder).as_posix(), length, digest]) + "\n")

    def confirmed(self, path: Path) -> tuple[int, _Hash]:
        """How many bytes of ``path`` are as they were entered, and their sha256 so far."""
        length, sha = 0, hashlib.sha256()
        if path.is_file():
            with path.open("rb") as f:
                read = sha.copy()
                name = path.relative_to(self.folder).as_posix()
                for mark, digest in sorted((n, digest) for file, n, digest in self._entries() if file == name):
                    while f.tell() < mark and (piece := f.read(min(_PIECE, mark - f.tell()))):
                        read.update(piece)
                    if f.tell() != mark or read.hexdigest() != digest:
                        break
                    length, sha = mark, read.copy()
        return length, sha

    def clear_others(self) -> None:
        """Remove the files that have no entry: they may be half written."""
        entered = {name for name, _, _ in self._entries()}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != JOURNAL_FILE and path.relative_to(self.folder).as_posix() not in entered:
                path.unlink()

    def end(self) -> None:
        """Remove it: the folder is complete."""
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[str, int, str]]:
        """File, length and digest, of the lines that are whole."""
        for line in self._lines()[1:]:
            try:
                file, length, digest = json.loads(line)
            except (ValueError, TypeError):  # cut short by a power cut
                continue
            if isinstance(file, str) and isinstance(length, int) and isinstance(digest, str) and length > 0:
                yield file, length, digest

    def _lines(self) -> list[str]:
        try:
            return (self.folder / JOURNAL_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
