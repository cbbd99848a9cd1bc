"""Both arms of a comparison over many pictures: one ``skinedge.parity.record.Row`` each, on the disk before it is given out.

The bundle answers as it does for a user: its session, template, tokenizer and loop.  The logits that it chose from are kept
as they come, so while it says what the reference said its own run is the teacher-forced one; from where it says something
else, it is told the reference's tokens in a second pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from skinedge.artifacts import AdapterCheckpoint
from skinedge.console import counted
from skinedge.errors import CasesError, NotFiniteError, UsageError
from skinedge.evaluation.cases import Case
from skinedge.json_lines import append_line, read_lines
from skinedge.manifest import read_manifest
from skinedge.measure.machine import describe_here
from skinedge.parity.metrics import along, first_different
from skinedge.parity.narrating import ReferenceArm, Told, narrative_identity
from skinedge.parity.record import Forced, Narrative, Row, skin_group
from skinedge.runtime.generate import BiasPolicy, GenerateOptions, Transcript, generate
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.prompt import ask
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, Session, combined_bias
from skinedge.staging import staged_file
from skinedge.weights.checkpoint import digest_of, file_digest

ROWS_FILE = "rows.jsonl"
SETTINGS_FILE = "settings.json"
_ONLY_WATCH = ("nvidia-ml-py",)  # libraries that change no answer
_DIGITS = 7  # of each probability and distance that is written: more than they are reproducible to


def collect(
    bundle: Path,
    source: AdapterCheckpoint,
    cases: Sequence[Case],
    folder: Path,
    *,
    cache: Path | None = None,
    side: str | None = None,
    threads: int | None = None,
    limit_tokens: int = 512,
    quiet: bool = False,
) -> Iterator[Row]:
    """Ask ``bundle`` and the PyTorch model of ``source`` about every case, with the bundle's own question.

    Args:
        bundle: what ``skinedge export`` wrote.
        source: the checkpoint and adapters it was made from.
        cases: whose photographs are shown; their labels only go into the rows.
        folder: where the rows are written; rows that are there are not made again.
        cache: where the reference's narratives are kept for other bundles; by default ``reference`` beside ``folder``.
        side: open this side of the bundle instead of its own.
        threads: CPU threads for both.
        limit_tokens: a narrative is cut off there, in both arms.
        quiet: show no progress.

    Returns:
        The rows in the order of the cases, each made when it is asked for.

    Raises:
        UsageError: ``folder`` holds rows of another comparison, device or library, or two cases have one id; at once, before
            any model is opened.
        NotFiniteError: the bundle's numbers overflow.
        SkinedgeError: the bundle or the reference cannot be opened, or a photograph cannot be read.
    """
    manifest = read_manifest(bundle)
    question = manifest.prompt.question
    images = {case.id: file_digest(case.image) for case in cases}
    settings = {
        "bundle": manifest.digest, "side": side or manifest.target, "bias": manifest.decoding.bias,
        "reference": narrative_identity(source.digest, question, limit_tokens),
        "cases": digest_of([[c.id, images[c.id], c.diagnosis, c.fitzpatrick] for c in cases]),
        "machine": _here(), "threads": str(threads or "one per core"),
    }  # fmt: skip
    _check(folder, cases, settings)
    kept = {row.id: row for row in read_rows(folder)}

    def made() -> Iterator[Row]:
        missing = [case for case in cases if case.id not in kept]
        if missing:
            _begin(folder, settings)
            arm = ReferenceArm(source, question, limit_tokens, cache or folder.parent / "reference", threads=threads)
            with closing(arm), open_pipeline(bundle, side=side, threads=threads) as pipeline:
                told = arm.tell([case.image for case in missing], quiet=quiet)
                teller = _Teller(pipeline, question, limit_tokens)
                for case in counted("narratives of the bundle", missing, quiet):
                    row = _row(case, images[case.id], told[images[case.id]], arm, teller)
                    append_line(folder / ROWS_FILE, asdict(row))
                    yield row

    new = made()
    return (kept[case.id] if case.id in kept else next(new) for case in cases)


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows that ``collect`` has written to ``folder`` so far, in the order in which they were made.

    Raises:
        CasesError: a line is whole but no row.
    """
    return tuple(_from_json(line, folder) for line in read_lines(folder / ROWS_FILE))


def _check(folder: Path, cases: Sequence[Case], settings: Mapping[str, str]) -> None:
    """Check that what the folder was begun with, if it was, is what is asked for."""
    if len({case.id for case in cases}) < len(cases):
        raise UsageError("two cases have the same id.", hint="Give each case an id of its own.")
    path = folder / SETTINGS_FILE
    if not path.is_file():
        if (folder / ROWS_FILE).exists():
            raise UsageError(f"{folder} holds rows and does not say of what.", hint="Name another folder with --rows.")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    other = next((name for name in settings if found.get(name) != settings[name]), None)
    if other:
        what = {"bundle": "another bundle", "side": "another side of the bundle", "bias": "another bundle",
                "reference": "another reference, question or length", "cases": "other cases",
                "machine": "another device, driver or library", "threads": "another number of threads"}[other]  # fmt: skip
        raise UsageError(f"{folder} holds rows of {what}.", hint="Name another folder with --rows, or remove this one.")


def _here() -> str:
    """What the bundle runs on: rows of another device, driver or library say nothing of this one."""
    machine = describe_here()
    computing = (f"{name} {version}" for name, version in sorted(machine.versions.items()) if name not in _ONLY_WATCH)
    return "; ".join([machine.model, machine.processor, machine.gpu or "no GPU", *computing])


def _begin(folder: Path, settings: Mapping[str, str]) -> None:
    if not (folder / SETTINGS_FILE).exists():
        with staged_file(folder / SETTINGS_FILE) as file:
            file.write((json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())


def _row(case: Case, sha: str, told: Told, arm: ReferenceArm, teller: _Teller) -> Row:
    spoken = teller.tell(case.image)
    chosen = told.chosen
    exact = arm.along(arm.see(case.image), chosen)
    kl, same, ours, theirs = along(exact, teller.along(spoken, chosen), chosen)
    if not np.isfinite(kl).all():
        raise NotFiniteError(
            f"along the reference's narrative of case '{case.id}' the bundle's logits are no numbers: its floats overflowed.",
            hint="Find where it begins: skinedge parity BUNDLE --reference MODEL --bisect",
        )
    forced = Forced(_rounded(kl), tuple(map(bool, same)), _rounded(ours), _rounded(theirs))
    return Row(
        id=case.id,
        image_sha256=sha,
        truth=case.diagnosis or None,
        skin=skin_group(case.fitzpatrick),
        reference=Narrative(told.text, len(told.token_ids), told.finish),
        bundle=spoken.narrative,
        first_different=first_different(chosen, spoken.chosen),
        forced=forced,
    )


@dataclass(frozen=True)
class _Spoken:
    """What the bundle said, and the logits before each of its tokens."""

    prompt: Prompt
    images: tuple[ImageEncoding, ...]
    bias: Float32 | None
    chosen: tuple[int, ...]
    narrative: Narrative
    logits: Sequence[Float32]


class _Teller:
    """A bundle that answers, and can be told what to have said."""

    def __init__(self, pipeline: Pipeline, question: str, most: int) -> None:
        self._pipeline, self._question = pipeline, question
        self._session = _Listening(pipeline.session)
        self._options = GenerateOptions(max_new_tokens=most, bias=cast(BiasPolicy, pipeline.manifest.decoding.bias))

    def tell(self, photograph: Path) -> _Spoken:
        pixels = self._pipeline.pixels(photograph)
        image = self._session.encode_image(pixels)
        prompt = self._pipeline.prompts.build(ask(self._question), [image.grid])
        generation = generate(self._session, self._pipeline.prompts, prompt, [image], self._options)
        for _ in generation:
            pass
        t = generation.transcript
        bias = combined_bias([image]) if t.biased else None
        return _Spoken(prompt, (image,), bias, t.token_ids, self._narrative(t), self._session.heard)

    def along(self, spoken: _Spoken, tokens: Sequence[int]) -> Float32:
        """``[len(tokens), vocabulary]``: the bundle's logits before each of ``tokens``."""
        different = first_different(tokens, spoken.chosen)
        rows = list(spoken.logits[: len(tokens) if different is None else different + 1])
        if len(rows) < len(tokens):
            said = np.array(tokens[: len(rows)], np.int64)
            rows.append(self._session.prefill(_continued(spoken.prompt, said), spoken.images, bias=spoken.bias))
            rows += [self._session.step(token) for token in tokens[len(rows) - 1 : -1]]
        return np.stack(rows)

    def _narrative(self, t: Transcript) -> Narrative:
        ended = t.finish_reason in ("eos", "stop")
        room = self._pipeline.session.context_length - t.prompt_tokens + 1
        finish = "stop" if ended else "context" if len(t.token_ids) == room else "length"
        return Narrative(t.text, len(t.token_ids) - ended, finish)


class _Listening:
    """A session that keeps the logits it gave since the last prefill.  Implements ``Session``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.vocab_size, self.context_length, self.on_gpu = session.vocab_size, session.context_length, session.on_gpu
        self.heard: list[Float32] = []

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        return self._session.encode_image(pixels)

    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        logits = self._session.prefill(prompt, images, bias=bias, all_positions=all_positions, keep=keep)
        self.heard = [logits]
        return logits

    def step(self, token: int) -> Float32:
        logits = self._session.step(token)
        self.heard.append(logits)
        return logits

    def close(self) -> None:
        self._session.close()


def _continued(prompt: Prompt, said: np.ndarray[Any, np.dtype[np.int64]]) -> Prompt:
    """``prompt`` with the beginning of an answer."""
    places = prompt.next_position + np.arange(len(said))
    positions = np.concatenate([prompt.positions, np.tile(places, (3, 1))], 1)
    return Prompt(
        prompt.text, np.concatenate([prompt.token_ids, said]), positions, prompt.next_position + len(said), prompt.grids
    )


def _rounded(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _from_json(line: Mapping[str, Any], folder: Path) -> Row:
    try:
        forced = line["forced"]
        return Row(**{
            **line,
            "reference": Narrative(**line["reference"]),
            "bundle": Narrative(**line["bundle"]),
            "forced": None if forced is None else Forced(**{name: tuple(values) for name, values in forced.items()}),
        })  # fmt: skip
    except (TypeError, KeyError) as e:
        raise CasesError(f"{folder / ROWS_FILE}: a line is no row.", hint="It was written by another version.") from e
