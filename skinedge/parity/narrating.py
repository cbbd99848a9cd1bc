"""The reference's arm of a comparison: its greedy narrative of each picture, told once for all bundles.

Narratives are kept one a line in a file named after everything that they depend on but the picture (checkpoint, adapters,
question, length, versions), and found again by the sha256 of the picture.  Pictures of one size are answered together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinedge.console import counted
from skinedge.json_lines import append_line, read_lines
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.runtime.image import load_photograph
from skinedge.runtime.session import Float32, ImageEncoding, Prompt
from skinedge.weights.checkpoint import digest_of, file_digest

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint

BATCH = 32


@dataclass(frozen=True)
class Told:
    """A narrative of the reference: ``token_ids`` without the end token, which is ``end`` where there was one.

    ``finish`` is that of ``skinedge.parity.record.Narrative``.
    """

    token_ids: tuple[int, ...]
    end: int | None
    text: str
    finish: str

    @property
    def chosen(self) -> tuple[int, ...]:
        """Every token that the reference chose, the end token too."""
        return self.token_ids if self.end is None else (*self.token_ids, self.end)


@dataclass(frozen=True)
class Seen:
    """A picture as the reference has read it, and the question about it."""

    prompt: Prompt
    image: ImageEncoding


class ReferenceArm:
    """A checkpoint in PyTorch with its question: sees pictures, tells narratives, gives its logits along them.

    Args:
        source: checkpoint and adapters.
        question: about every picture.
        most: a narrative is cut off after so many tokens.
        cache: folder where narratives are kept.
        threads: CPU threads, for the whole process.

    Raises:
        SkinedgeError: the checkpoint cannot be read.
    """

    def __init__(self, source: AdapterCheckpoint, question: str, most: int, cache: Path, *, threads: int | None = None) -> None:
        from skinedge.model.reference import Reference

        self._reference = Reference.from_checkpoint(source.path, source.adapters, threads=threads)
        self._inputs = ReferenceInputs(source.path, self._reference)
        self._question, self._most = question, most
        self._file = cache / f"reference-{narrative_identity(source.digest, question, most)[:16]}.jsonl"

    def tell(self, photographs: Sequence[Path], *, quiet: bool = False) -> dict[str, Told]:
        """The narrative of each photograph by the sha256 of its bytes; what is kept already is not told again.

        Raises:
            ImageError: a photograph cannot be read.
            PromptError: a prompt does not fit the context.
            OutputError: the cache cannot be written.
        """
        kept = {str(line["image"]): _told(line) for line in read_lines(self._file)}
        digests = [file_digest(p) for p in photographs]
        missing = {sha: path for sha, path in zip(digests, photographs, strict=True) if sha not in kept}
        batches = self._batches(missing, quiet)
        for shas, seen in batches:
            for sha, told in zip(shas, self._tell(seen), strict=True):
                append_line(self._file, {"image": sha, **asdict(told)})
                kept[sha] = told
        return {sha: kept[sha] for sha in digests}

    def see(self, photograph: Path) -> Seen:
        """Pixels, prompt, features and bias of one photograph.

        Raises:
            ImageError: it cannot be read.
        """
        pixels = self._inputs.pixels(load_photograph(photograph))
        return Seen(self._inputs.prompt(self._question, [pixels.grid]), self._reference.encode_image(pixels))

    def along(self, seen: Seen, tokens: Sequence[int]) -> Float32:
        """Logits ``[len(tokens), vocabulary]`` before each of ``tokens``, bias included, in one pass."""
        return self._reference.along(seen.prompt, seen.image, tokens)

    def close(self) -> None:
        """Free the model."""
        self._reference.close()

    def _batches(self, missing: dict[str, Path], quiet: bool) -> Iterator[tuple[list[str], list[Seen]]]:
        """Pictures whose prompts are equally long, so that nothing is padded."""
        waiting: dict[int, dict[str, Seen]] = defaultdict(dict)
        for sha, path in counted("narratives of the reference", list(missing.items()), quiet or not missing):
            seen = self.see(path)
            group = waiting[len(seen.prompt.token_ids)]
            group[sha] = seen
            if len(group) == BATCH:
                yield list(group), list(group.values())
                group.clear()
        yield from ((list(group), list(group.values())) for group in waiting.values() if group)

    def _tell(self, seen: Sequence[Seen]) -> Iterator[Told]:
        ends = self._inputs.eos_token_ids
        length = len(seen[0].prompt.token_ids)
        room = self._reference.context_length - length + 1
        most = min(self._most, room)
        for ids in self._reference.greedy([s.prompt for s in seen], [s.image for s in seen], ends, most):
            end = ids[-1] if ids[-1] in ends else None
            words = ids if end is None else ids[:-1]
            finish = "stop" if end is not None else "context" if most == room else "length"
            yield Told(tuple(words), end, self._inputs.decode(words), finish)


def narrative_identity(reference: str, question: str, most: int) -> str:
    """The digest of everything that the reference's narratives depend on but the pictures."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    return digest_of({"step": "narrate", "parent": reference, "question": question, "most": most, **versions})


def _told(line: dict[str, Any]) -> Told:
    return Told(tuple(line["token_ids"]), line["end"], line["text"], line["finish"])
