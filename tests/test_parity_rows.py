"""Rows of both arms: what they hold, that a stopped run goes on, and that two comparisons are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skinedge.artifacts import AdapterCheckpoint
from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.cases import Case
from skinedge.json_lines import append_line, read_lines
from skinedge.parity import rows as rows_module
from skinedge.parity.choosing import cases_in, cases_of
from skinedge.parity.metrics import along, kl_divergence
from skinedge.parity.pictures import make_picture
from skinedge.parity.record import Row
from skinedge.parity.rows import ROWS_FILE, collect, read_rows
from skinedge.runtime.pipeline import open_pipeline
from skinedge.runtime.prompt import ask
from skinedge.runtime.session import combined_bias
from skinedge.synthderm.dataset import write_dataset

TOKENS = 12


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number, (fitzpatrick, size) in enumerate([(1, (90, 70)), (6, (90, 70)), (None, (60, 100))]):
        path = folder / f"{number}.png"
        make_picture(*size, seed=number).save(path)
        made.append(Case(f"case {number}", path, "eczema" if fitzpatrick else "", "", fitzpatrick=fitzpatrick))
    return tuple(made)


@pytest.fixture(scope="module")
def collected(
    source: AdapterCheckpoint, bundles: dict[str, Path], cases: tuple[Case, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple[Row, ...]]]:
    work = tmp_path_factory.mktemp("rows")
    made = {
        scheme: tuple(collect(bundle, source, cases, work / scheme, threads=1, limit_tokens=TOKENS, quiet=True))
        for scheme, bundle in bundles.items()
    }
    return work, made


def test_a_sound_bundle_says_what_the_reference_says(collected: tuple[Path, dict[str, tuple[Row, ...]]]) -> None:
    _, made = collected
    for row in made["f32"]:
        assert row.first_different is None
        assert row.bundle == row.reference
        assert row.reference.tokens == TOKENS
        assert row.reference.finish == "length"
        assert row.forced is not None
        assert max(row.forced.kl) < 1e-8
        assert all(row.forced.same_top)
        assert row.forced.bundle_p == pytest.approx(row.forced.reference_p, rel=1e-4)
        assert all(0 < p <= 1 for p in row.forced.reference_p)
    assert [row.skin for row in made["f32"]] == ["I-II", "V-VI", "unknown"]
    assert [row.truth for row in made["f32"]] == ["eczema", "eczema", None]


def test_after_the_first_other_token_the_bundle_is_told_the_references(
    collected: tuple[Path, dict[str, tuple[Row, ...]]],
    source: AdapterCheckpoint,
    bundles: dict[str, Path],
    cases: tuple[Case, ...],
) -> None:
    work, made = collected
    told = {line["image"]: line["token_ids"] for line in read_lines(next((work / "reference").glob("*.jsonl")))}
    row, case = next((r, c) for r, c in zip(made["int4"], cases, strict=True) if r.first_different is not None)
    tokens = told[row.image_sha256]
    from skinedge.model.reference import Reference
    from skinedge.parity.reference_inputs import ReferenceInputs
    from skinedge.runtime.image import load_photograph
    from skinedge.runtime.prompt import DEFAULT_QUESTION

    with open_pipeline(bundles["int4"], threads=1) as pipeline:  # step by step, the plain way
        image = pipeline.session.encode_image(pipeline.pixels(case.image))
        prompt = pipeline.prompts.build(ask(), [image.grid])
        logits = [pipeline.session.prefill(prompt, [image], bias=combined_bias([image]))]
        logits += [pipeline.session.step(token) for token in tokens[:-1]]
    reference = Reference.from_checkpoint(source.path, source.adapters, threads=1)
    inputs = ReferenceInputs(source.path, reference)
    pixels = inputs.pixels(load_photograph(case.image))
    seen = reference.encode_image(pixels)
    exact = [reference.prefill(inputs.prompt(DEFAULT_QUESTION, [pixels.grid]), [seen], bias=seen.bias)]
    exact += [reference.step(token) for token in tokens[:-1]]
    assert [int(r.argmax()) for r in exact] == tokens
    assert row.forced is not None
    np.testing.assert_allclose(row.forced.kl, kl_divergence(np.stack(exact), np.stack(logits)), rtol=2e-2, atol=1e-6)
    assert row.forced.same_top[row.first_different] is False


def test_along_gives_the_probability_of_the_chosen_token_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 11)).astype(np.float32)
    whole = along(a, b, range(7))
    monkeypatch.setattr("skinedge.parity.metrics._BLOCK", 30)  # two positions at a time
    for one, other in zip(whole, along(a, b, range(7)), strict=True):
        np.testing.assert_array_equal(one, other)
    p = np.exp(a[3].astype(np.float64)) / np.exp(a[3].astype(np.float64)).sum()
    assert whole[2][3] == pytest.approx(p[3])
    np.testing.assert_allclose(whole[0], kl_divergence(a, b))


def test_a_stopped_run_goes_on(
    source: AdapterCheckpoint, bundles: dict[str, Path], cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> tuple[Row, ...]:
        return tuple(collect(bundles["f32"], source, cases, tmp_path / "rows", threads=1, limit_tokens=4, quiet=True))

    first = next(iter(collect(bundles["f32"], source, cases, tmp_path / "rows", threads=1, limit_tokens=4, quiet=True)))
    assert read_rows(tmp_path / "rows") == (first,)
    with (tmp_path / "rows" / ROWS_FILE).open("a", encoding="utf-8") as f:
        f.write('{"id": "case 1", "image_')  # the power went
    asked = []
    real = rows_module._row
    monkeypatch.setattr(rows_module, "_row", lambda case, *rest: asked.append(case.id) or real(case, *rest))  # type: ignore[func-returns-value]
    assert go()[0] == first
    assert asked == ["case 1", "case 2"]
    assert [row.id for row in read_rows(tmp_path / "rows")] == ["case 0", "case 1", "case 2"]
    monkeypatch.setattr(rows_module, "ReferenceArm", None)  # all is there: no model is opened
    assert go() == read_rows(tmp_path / "rows")


@pytest.mark.parametrize(
    ("change", "what"),
    [("bundle", "another bundle"), ("cases", "other cases"), ("length", "another reference, question or length")],
)
def test_rows_of_two_comparisons_are_not_mixed(
    change: str,
    what: str,
    source: AdapterCheckpoint,
    bundles: dict[str, Path],
    cases: tuple[Case, ...],
    collected: tuple[Path, dict[str, tuple[Row, ...]]],
) -> None:
    bundle = bundles["int4" if change == "bundle" else "f32"]
    length = TOKENS + (change == "length")
    with pytest.raises(UsageError, match=f"holds rows of {what}") as e:
        next(iter(collect(
            bundle, source, cases[change == "cases":], collected[0] / "f32", limit_tokens=length, quiet=True
        )))  # fmt: skip
    assert "--rows" in e.value.hint


@pytest.mark.parametrize("change", ["library", "threads"])
def test_rows_of_another_device_are_not_gone_on_with(
    change: str,
    source: AdapterCheckpoint,
    bundles: dict[str, Path],
    cases: tuple[Case, ...],
    collected: tuple[Path, dict[str, tuple[Row, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The certificate states the device and the versions at hand, which would vouch for rows that others made."""
    here = rows_module.describe_here()
    newer = here.model_copy(update={"versions": {**here.versions, "onnxruntime": "99.0"}})
    if change == "library":
        monkeypatch.setattr(rows_module, "describe_here", lambda: newer)
    what = {"library": "another device, driver or library", "threads": "another number of threads"}[change]
    with pytest.raises(UsageError, match=f"holds rows of {what}"):
        collect(
            bundles["f32"],
            source,
            cases,
            collected[0] / "f32",
            threads=1 + (change == "threads"),
            limit_tokens=TOKENS,
            quiet=True,
        )


def test_two_cases_of_one_id_are_refused(
    source: AdapterCheckpoint, bundles: dict[str, Path], cases: tuple[Case, ...], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="two cases have the same id"):
        next(iter(collect(bundles["f32"], source, (cases[0], cases[0]), tmp_path, quiet=True)))
    assert not any(tmp_path.iterdir())


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    append_line(tmp_path / ROWS_FILE, {"id": "x"})
    with pytest.raises(CasesError, match=r"rows\.jsonl: a line is no row"):
        read_rows(tmp_path)


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    with path.open("a", encoding="utf-8") as f:
        f.write('{"n": 2')
    append_line(path, {"n": 3})
    assert [line["n"] for line in read_lines(path)] == [1, 3]


def test_cases_from_a_folder_a_table_and_training_records(tmp_path: Path) -> None:
    records = write_dataset(tmp_path / "synthderm", 3, 11, workers=1)
    found = cases_of(records, limit=2)
    first = json.loads(records.read_text(encoding="utf-8").split("\n")[0])
    assert (found[0].id, found[0].diagnosis, found[0].fitzpatrick) == (first["id"], first["diagnosis"], first["fitzpatrick"])
    assert len(found) == 2
    assert found[0].image.is_file()
    assert [case.id for case in cases_in(records.parent / "images")] == ["0000000.png", "0000001.png", "0000002.png"]
    table = tmp_path / "cases.csv"
    table.write_text("image,label,skin\n0000001.png,eczema,IV\n", encoding="utf-8")
    assert cases_of(table, records.parent / "images")[0].fitzpatrick == 4
    table.write_text("image,label\nlost.png,eczema\n", encoding="utf-8")
    with pytest.raises(CasesError, match="photograph of case 'lost', is not there") as e:
        cases_of(table)
    assert "--images" in e.value.hint
    two = tmp_path / "two.jsonl"
    two.write_text(json.dumps({**first, "images": ["a.png", "b.png"]}) + "\n", encoding="utf-8")
    with pytest.raises(CasesError, match="line 1: a comparison needs exactly one picture"):
        cases_of(two)
