"""The command line: it teaches, it answers in JSON when asked, and every mistake gets a sentence and a hint."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import environment, one_object, process, python, typed
from measured import forecast
from PIL import Image

from skinedge.cli import app
from skinedge.clinic.audit import AuditLog
from skinedge.manifest import MANIFEST_FILE
from skinedge.model.config import read_config
from skinedge.model.tiny import Size, make_lora, make_model, make_side_branch
from skinedge.parity.pictures import make_picture
from skinedge.synthderm.dataset import write_dataset

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")


def leaves(group: typer.core.TyperGroup, path: str = "") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command by what is typed for it: ``verify``, ``audit verify``."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


LEAVES = dict(leaves(typer.main.get_command(app)))  # type: ignore[arg-type]
COMMANDS = sorted(LEAVES)


@pytest.fixture(scope="module")
def bundle(tiny_model: Path, tiny_branch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("cli") / "bundle", tiny_model, tiny_branch)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    make_picture(84, 61, 0).save(folder / "lesion.png")
    return folder


def exported(out: Path, model: Path, *adapters: Path, target: str = "onnx", scheme: str = "f32") -> Path:
    given = [part for adapter in adapters for part in ("--adapter", str(adapter))]
    done = typed("export", "--model", model, *given, "--target", target, "--scheme", scheme, "--out", out, "--json")
    assert done.code == 0, done.out + done.err
    return out


def content(folder: Path) -> Mapping[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- it teaches ---------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_of_the_issues() -> None:
    path = {"calibrate", "overflow", "quantize", "imatrix", "merge", "export", "plan", "run", "parity", "verify", "bench"}
    assert set(COMMANDS) == path | {
        "evaluate",
        "judge",
        "compare",
        "kit",
        "report",
        "serve",
        "show",
        "targets",
        "devices",
        "doctor",
        "demo",
        "audit verify",
        "audit show",
        "people add",
        "people remove",
        "people list",
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_an_example_and_explains_every_option(command: str, flag: str) -> None:
    done = typed(*command.split(), flag)
    assert done.code == 0
    assert re.search(
        rf"skinedge ({command}|export) ", " ".join(done.out.split()).partition("Options:")[0].partition("  ")[0] + " "
    )
    assert re.search(r"(Example|goes after)", done.out)
    assert [p.name for p in LEAVES[command].params if not p.help] == []
    assert "--json" in done.out


def test_help_names_every_command_and_a_bare_call_is_help() -> None:
    done, bare = typed("--help"), typed()
    assert done.code == 0
    assert all(f"  {command.split()[0]} " in done.out for command in COMMANDS)
    assert "--install-completion" in done.out
    assert bare.code in (0, 2)
    assert "Usage: skinedge" in bare.out + bare.err


def test_version() -> None:
    from skinedge import __version__

    assert typed("--version").out == f"skinedge {__version__}\n"


def test_completion_can_be_installed_and_knows_the_names() -> None:
    script = process("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").out
    assert "_SKINEDGE_COMPLETE" in script
    for line, expected in (
        ("skinedge export --target ", {"gguf", "onnx", "safetensors", "trt"}),
        ("skinedge export --device rtx-4", {"rtx-4060-8gb", "rtx-4090"}),
        ("skinedge ver", {"verify"}),
    ):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_SKINEDGE_COMPLETE": "complete_bash"}
        assert set(process(**words).out.split()) == expected


# --- --json -------------------------------------------------------------------------------------------------------------


def test_json_is_one_object_for_every_command(
    bundle: Path, tiny_model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skinedge import demo
    from skinedge.parity import pictures

    monkeypatch.setattr(demo, "BUNDLES", (("onnx", "int4", None),))
    monkeypatch.setattr(pictures, "SIZES", {"small": (84, 61)})
    other = make_model(tmp_path / "other", seed=9)
    records = write_dataset(tmp_path / "records", 2, 5, quiet=True, workers=1)
    calls: dict[str, tuple[str | Path, ...]] = {
        "targets": (),
        "devices": (),
        "plan": ("--device", "rtx-4090"),
        "doctor": (),
        "verify": (bundle,),
        "show": (bundle,),
        "run": (bundle, photographs / "lesion.png", "--max-new-tokens", "3", "--threads", "1"),
        "parity": (bundle, "--reference", other, "--steps", "1", "--threads", "1", "--images", photographs),  # it fails
        "export": ("--scheme", "int4", "--out", tmp_path / "exported"),
        "merge": ("--out", tmp_path / "merged"),
        "demo": ("--out", tmp_path / "demo"),
        "calibrate": ("--data", records, "--out", tmp_path / "calibration", "--threads", "1"),
        "imatrix": (tmp_path / "calibration", "--out", tmp_path / "imatrix.gguf"),
        "overflow": (photographs / "lesion.png", "--threads", "1"),
        "quantize": ("--budget", "11MiB", "--calibration", tmp_path / "calibration", "--data", records, "--limit", "1",
                     "--kind", "q8_0", "--threads", "1", "--out", tmp_path / "plan.json"),
    }  # fmt: skip
    (tmp_path / "forecast.json").write_text(forecast().to_json(), encoding="utf-8")
    calls["report"] = (tmp_path / "forecast.json", "--out", tmp_path / "report.html")
    calls["bench"] = (bundle, "--suite", "quick", "--runs", "1", "--seconds", "0", "--threads", "1")  # too few runs: it fails
    calls["kit"] = (bundle, "--device", "jetson-agx-orin-64gb", "--dry-run", "--out", tmp_path / "kit")
    short = ("--max-new-tokens", "2", "--threads", "1", "--judge", "rubric")
    calls["evaluate"] = ("--data", records.parent, "--out", tmp_path / "evaluated.json", *short)
    calls["compare"] = (tmp_path / "evaluated.json",)
    (tmp_path / "told.jsonl").write_text('{"id": "1", "text": "a", "reference": "b"}', encoding="utf-8")
    calls["serve"] = (bundle, "--dry-run", "--port", "0", "--audit", tmp_path / "served")
    judge = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", tmp_path / "s.json", "--dry-run")
    calls["judge"] = (tmp_path / "told.jsonl", *judge)
    with AuditLog(tmp_path / "audit"):
        pass
    calls["audit verify"] = calls["audit show"] = (tmp_path / "audit",)
    listed = ("--file", tmp_path / "people.json")
    calls["people add"] = ("Dr Zhou", "--passphrase-stdin", *listed)
    calls["people list"], calls["people remove"] = listed, ("Dr Zhou", *listed)
    monkeypatch.setattr(sys, "stdin", io.StringIO("copper lantern seven rivers\n"))
    assert sorted(calls) == COMMANDS
    answers = {}
    for command, arguments in calls.items():
        done = typed(*command.split(), *arguments, "--json")
        assert done.code == (command in ("parity", "bench")), done.err
        assert done.err == "", command
        answers[command] = done.json
    assert answers["verify"]["verified"] is True
    assert answers["show"]["digest"] == answers["verify"]["digest"]
    assert answers["run"]["finish_reason"] in ("length", "eos")
    assert len(answers["run"]["images"][0]) == 64
    assert answers["parity"]["passed"] is False
    assert answers["bench"]["status"] == "invalid"
    assert answers["demo"]["passed"] is True
    assert answers["targets"]["onnx"]["default"] == "int4"
    assert typed("show", tiny_model, "--json").json["kind"] == "checkpoint"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("verify", "."), 1), (("export", "--target", "onx"), 2), (("export", "--adapter", "x"), 2), (("run", "nowhere", "x"), 2)],
)
def test_json_also_for_errors(arguments: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed(*arguments, "--json")
    assert done.code == code
    assert set(done.json) == {"error", "hint", "kind"}
    assert done.json["hint"]
    assert done.err == ""


def test_json_survives_a_pipe_of_any_encoding(bundle: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(bundle, tmp_path / "Läsion-皮膚"))
    done = process("run", there, "-q", "Größe?", "--max-new-tokens", "1", "--json", PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    one_object(done.out)
    done = process("verify", there, PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    assert "L?sion-??: " in done.out


# --- mistakes -----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, tuple[str, ...], int, str, str]] = [
    ("target", ("export", "--target", "onx"), 2, "unknown target 'onx'.", "Did you mean 'onnx'? Known: gguf, onnx, safetensors"),
    ("target by its long name", ("export", "--target", "tensorrt"), 2, "unknown target 'tensorrt'.", "Did you mean 'trt'?"),
    ("target in capitals", ("export", "--target", "ONNX"), 2, "unknown target 'ONNX'.", "Did you mean 'onnx'?"),
    ("no target", ("export", "--target", ""), 2, "unknown target ''.", "Known: gguf, onnx"),
    ("target that is a path", ("export", "--target", "../cli"), 2, "unknown target '../cli'.", "Known: gguf, onnx"),
    ("scheme", ("export", "-t", "gguf", "-s", "q4km"), 2, "unknown scheme for gguf 'q4km'.", "Did you mean 'q4_k_m'?"),
    ("scheme elsewhere", ("export", "-s", "q4_k_m"), 2, "onnx cannot store weights as 'q4_k_m'.", "Add --target gguf, or"),
    ("merge type", ("merge", "--dtype", "bfloat16"), 2, "unknown scheme for safetensors 'bfloat16'.", "Did you mean 'bf16'?"),
    ("activations", ("export", "--activations", "fp16"), 2, "unknown activation type 'fp16'.", "Did you mean 'f16'?"),
    ("vision", ("export", "--vision-scheme", "int5", "--dry-run"), 2, "unknown vision scheme for onnx 'int5'.", "mean 'int"),
    ("device", ("export", "--device", "4090"), 2, "unknown device '4090'.", "Did you mean 'rtx-4090'? Known: dgx"),
    ("model", ("export", "--model", "nowhere"), 2, "nowhere: no such file or folder.", "Check the spelling"),
    ("model on the hub", ("export", "--model", "Qwen/Qwen2.5"), 2, "fetches nothing from the network.", "hf download Qwen/Qwen2"),
    ("model that is a file", ("export", "--model", "note.txt"), 2, "note.txt is a file, and a checkpoint is a folder.", "mean ."),
    ("model without files", ("export", "--model", "empty"), 1, "empty/config.json is missing", "Point --model at"),
    ("adapter of nothing", ("export", "--adapter", "nowhere"), 2, "nowhere: no such file or folder.", "Check the spelling"),
    ("adapter", ("export", "--model", "empty", "-a", "lora"), 2, "lora: no such file or folder.", "Check the spelling"),
    ("full folder", ("export", "--out", "full"), 1, "full exists and is not empty.", "Choose another --out, or remove it"),
    ("full folder, asked", ("export", "--out", "full", "--dry-run"), 1, "full exists and is not empty.", "Choose another --out"),
    ("full folder, merge", ("merge", "--out", "full"), 1, "full exists and is not empty.", "Choose another --out"),
    ("full folder, demo", ("demo", "--out", "full"), 1, "full exists and is not empty.", "Choose another --out"),
    ("file in the way", ("export", "--out", "note.txt"), 1, "note.txt exists and is a file.", "Choose another --out"),
    ("file above", ("export", "--out", "note.txt/b"), 1, "note.txt/b could not be written: ", "Choose another --out"),
    ("no bundle", ("verify", "empty"), 1, "empty is not a bundle: it has no skinedge.json.", "skinedge export --out"),
    ("no bundle there", ("run", "nowhere", "-q", "x"), 2, "nowhere: no such file or folder.", "Check the spelling"),
    ("order", ("run", "note.jpg", "bundle"), 1, "note.jpg is not a bundle: it is a file", "the folder that skinedge export"),
    ("show nothing", ("show", "empty"), 1, "empty is not a bundle: it has no skinedge.json.", "skinedge export --out"),
    ("nothing asked", ("run", "bundle"), 2, "there is neither a photograph nor a question.", "Give a photograph, or ask"),
    ("empty question", ("run", "bundle", "-q", " "), 2, "the question is empty.", "Leave --question out"),
    ("no photograph", ("run", "bundle", "lesoin.jpg"), 2, "lesoin.jpg: no such file or folder.", "Check the spelling"),
    ("folder", ("run", "bundle", "full"), 1, "full is a folder.", "Give the photographs in it"),
    ("text", ("run", "bundle", "note.jpg"), 1, "note.jpg is not a photograph: it holds text.", "as JPEG or PNG"),
    ("zero bytes", ("run", "bundle", "zero.jpg"), 1, "zero.jpg is empty (0 bytes).", "Copy it again"),
    ("bomb", ("run", "bundle", "bomb.png"), 1, "bomb.png is 50000 x 50000 pixels", "megapixel"),
    ("animation", ("run", "bundle", "blink.gif"), 1, "blink.gif holds several pictures", "Export the one to be judged"),
    ("cold", ("run", "bundle", "-q", "x", "--temperature", "1e-9"), 2, "temperature is 1e-09 and must be 0, or", ""),
    ("no nucleus", ("run", "bundle", "-q", "x", "--top-p", "0"), 2, "top-p is 0.0 and must be above 0 and at most 1.", ""),
    ("penalty", ("run", "bundle", "-q", "x", "--repetition-penalty", "0"), 2, "repetition penalty is 0.0 and must be", ""),
    ("seed", ("run", "bundle", "-q", "x", "--seed", "-1"), 2, "seed is -1 and must be 0 or more.", ""),
    ("bias", ("run", "bundle", "-q", "x", "--bias", "on"), 2, "unknown bias policy 'on'.", "Known: every-step, off."),
    ("stop", ("run", "bundle", "-q", "x", "--stop", ""), 2, "a stop text is empty, so every answer would be.", "Leave it out"),
    ("side", ("run", "bundle", "-q", "x", "--target", "gguf"), 2, "bundle has no side 'gguf': it was exported", "as onnx"),
    ("context", ("run", "bundle", "-q", "x", "--context", "5"), 1, "tokens and the context holds 5.", "a longer --context"),
    ("token", ("run", "bundle", "-q", "<|im_end|>"), 1, "holds the special token <|im_end|>", "Leave it out"),
    ("reference", ("parity", "bundle", "--reference", "nowhere"), 2, "nowhere: no such file or folder.", "Check the spelling"),
    ("report", ("parity", "bundle", "--report", "note.txt"), 1, "note.txt exists already.", "Choose another name"),
    ("too long", ("export", "--out", "n" * 300), 1, "n: File name too long.", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is wrong in it."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(bundle, folder / "bundle")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    for name in ("full/thesis.txt", "note.txt", "note.jpg"):
        (folder / name).write_text("See the attached photograph.\n", encoding="utf-8")
    (folder / "zero.jpg").touch()
    (folder / "bomb.png").write_bytes(png_header(50_000, 50_000))
    frames = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    frames[0].save(folder / "blink.gif", save_all=True, append_images=frames[1:])
    return folder


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0" * 1000)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("arguments", "code", "error", "hint"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_mistake_gets_a_sentence_and_a_hint(
    arguments: tuple[str, ...], code: int, error: str, hint: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error.startswith("n: File") and sys.platform == "win32":
        pytest.skip("another limit")
    monkeypatch.chdir(desk)
    before = content(desk)
    done = typed(*arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: "), done.err
    first, _, rest = done.err.partition("\n")
    assert error in first.replace("\\", "/")
    assert hint in rest
    assert bool(rest.strip()) == bool(hint)
    assert content(desk) == before, "a refused command left something behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("exprt",), "No such command 'exprt'"),
        (("export", "--shceme", "int4"), "No such option: --shceme"),
        (("export", "--context", "10"), "--context"),
        (("export", "--workers", "0"), "--workers"),
        (("run",), "Missing argument"),
        (("run", "b", "--temperature", "hot"), "--temperature"),
        (("run", "b", "--temperature", "-1"), "--temperature"),
        (("run", "b", "--top-p", "1.5"), "--top-p"),
        (("run", "b", "--max-new-tokens", "0"), "--max-new-tokens"),
        # It asked the system for 100,000 threads, and every program on the machine failed to start its own.
        (("run", "b", "--threads", "100000"), "--threads"),
        (("parity", "b", "--steps", "0"), "--steps"),
    ],
)
def test_what_cannot_be_parsed_is_a_usage_error(arguments: tuple[str, ...], words: str) -> None:
    done = typed(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "--help' for help" in done.err or "-h' for help" in done.err


def test_a_tampered_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "b"))
    manifest = json.loads((copy / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest["files"][0]["path"] = "../evil"
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    for command in (("verify", copy), ("show", copy), ("run", copy, "-q", "x")):
        done = typed(*command)
        assert done.code == 1
        assert "'../evil' is not a plain path inside the bundle" in done.err
        assert "The file was changed or damaged; export again." in done.err


def test_weights_alone_do_not_run(tiny_model: Path, tmp_path: Path) -> None:
    out = exported(tmp_path / "merged", tiny_model, target="safetensors", scheme="as-stored")
    done = typed("run", out, "-q", "x")
    assert done.code == 1
    assert "holds weights for transformers" in done.err
    assert "skinedge export --target onnx" in done.err


def test_a_folder_without_permission_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skinedge.model.config

    (tmp_path / "config.json").write_text("{}", encoding="utf-8")

    def forbidden(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr(skinedge.model.config, "read_config", forbidden)
    done = typed("show", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {tmp_path / 'config.json'}: Permission denied.\n"


def test_a_models_words_cannot_command_the_terminal(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skinedge.runtime.text import TextStream

    monkeypatch.setattr(TextStream, "push", lambda self, token: "\x1b]0;owned\x07né\n")
    done = typed("run", bundle, "-q", "x", "--max-new-tokens", "1", "--threads", "1")
    assert "\ufffd]0;owned\ufffdné\n" in done.out
    assert "\x1b" not in done.out


# --- before anything is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "scheme"), [("onnx", "int4"), ("gguf", "q4_k_m"), ("safetensors", "f16")])
def test_dry_run_writes_nothing_and_tells_the_sizes(
    target: str, scheme: str, tiny_model: Path, tiny_branch: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    if target == "gguf":
        pytest.importorskip("gguf")
    out = tmp_path / "deep" / "out"
    ask = ("--model", tiny_model, "-a", tiny_branch, "-a", tiny_lora, "-t", target, "-s", scheme, "--out", out)
    done = typed("export", *ask, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []
    assert typed("export", *ask).code == 0
    written = {name: len(data) for name, data in content(out).items() if name != MANIFEST_FILE}
    assert done.json["files"] == written
    assert done.json["nbytes"] == sum(written.values())
    said = typed("export", *ask[:-1], tmp_path / "again", "--dry-run")
    assert "Nothing was written." in said.out
    assert all(name in said.out for name in written)


@pytest.mark.parametrize(
    "file", ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]
)
def test_a_missing_small_file_is_found_before_a_weight_is_read(
    file: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 7B would have been written for half an hour by then."""
    from skinedge.targets import onnx

    monkeypatch.setattr(onnx, "write", lambda *arguments: pytest.fail("weights were written"))
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / file).unlink()
    for asked in ((), ("--dry-run",)):
        done = typed("export", "--model", model, "--out", tmp_path / "b", *asked)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: {model}")
        assert file in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_device_chooses_target_and_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    done = typed("export", "--device", "workstation-ddr5-5600", "--dry-run", "--json")
    assert done.json["out"] == "skinedge-tiny-gguf-q4_k_m"
    done = typed("export", "--device", "workstation-ddr5-5600", "--target", "onnx", "--scheme", "int8", "--dry-run", "--json")
    assert done.json["out"] == "skinedge-tiny-onnx-int8"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_one_is_in_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for here in (".", "./", tmp_path, "new/.."):
        done = typed("export", "--out", here)
        assert done.code == 1
        assert "is the folder you are in, and a new folder cannot take its place." in done.err
        assert "Name one in it: --out " in done.err
        assert list(tmp_path.iterdir()) == []


def test_of_two_exports_to_one_place_the_first_wins(tmp_path: Path) -> None:
    from skinedge.errors import OutputError
    from skinedge.staging import staged

    out = tmp_path / "deep" / "b"
    with pytest.raises(OutputError, match="could not be written"), staged(out) as folder:  # noqa: PT012
        (folder / "ours").write_text("second", encoding="utf-8")
        out.mkdir()
        (out / "theirs").write_text("first", encoding="utf-8")
    assert content(tmp_path) == {"deep/b/theirs": b"first"}


# --- parity -------------------------------------------------------------------------------------------------------------


def compared(bundle: Path, photographs: Path, reference: Path, *adapters: Path) -> tuple[int, str | None, list[str]]:
    """Exit code, first bad stage, stages reached."""
    pytest.importorskip("torch")
    given = [part for adapter in adapters for part in ("--adapter", str(adapter))]
    ask = ("--reference", reference, *given, "--images", photographs, "--steps", "2", "--threads", "1")
    done = typed("parity", bundle, *ask, "--json")
    assert done.code in (0, 1), done.err
    assert done.json["passed"] is (done.code == 0)
    return done.code, done.json["first_bad_stage"], [stage["name"] for stage in done.json["stages"]]


ALL = ["pixels", "tokens", "weights", "features", "bias", "prefill", "steps", "narrative", "answer"]


def test_parity_passes_with_its_own_reference(bundle: Path, photographs: Path, tiny_model: Path, tiny_branch: Path) -> None:
    assert compared(bundle, photographs, tiny_model, tiny_branch) == (0, None, ALL)


@pytest.fixture(scope="module")
def edited(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Copies of the model, each with one fault."""
    folder = tmp_path_factory.mktemp("faults")
    for fault, file, old, new in (
        ("pixels", "preprocessor_config.json", "0.48145466", "0.5"),
        ("tokens", "chat_template.jinja", "a helpful assistant", "a dermatologist"),
    ):
        copy = Path(shutil.copytree(tiny_model, folder / fault))
        text = (copy / file).read_text(encoding="utf-8")
        assert old in text
        (copy / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    make_model(folder / "weights", seed=5)
    return {fault: folder / fault for fault in ("pixels", "tokens", "weights")}


@pytest.mark.parametrize("stage", ["pixels", "tokens", "weights"])
def test_parity_names_the_stage_of_a_fault_in_the_model(
    stage: str, edited: Mapping[str, Path], tiny_model: Path, tiny_branch: Path, photographs: Path, tmp_path: Path
) -> None:
    faulty = exported(tmp_path / "b", edited[stage], tiny_branch)
    assert compared(faulty, photographs, tiny_model, tiny_branch) == (1, stage, ALL[: ALL.index(stage) + 1])


def test_parity_names_the_stage_of_a_fault_in_the_adapters(
    tiny_model: Path, tiny_branch: Path, photographs: Path, tmp_path: Path
) -> None:
    config = read_config(tiny_model)
    lora = make_lora(tmp_path / "lora", config, vision=False)
    other = make_side_branch(tmp_path / "other", config, seed=7)
    with_lora = exported(tmp_path / "with-lora", tiny_model, lora, tiny_branch)
    assert compared(with_lora, photographs, tiny_model, tiny_branch)[:2] == (1, "weights")
    assert compared(with_lora, photographs, tiny_model, lora, other)[:2] == (1, "bias")
    assert compared(with_lora, photographs, tiny_model, lora)[:2] == (1, "bias"), "the reference has no side branch"


def test_a_side_branch_lost_from_a_quantized_bundle_is_found(
    tiny_model: Path, tiny_branch: Path, photographs: Path, tmp_path: Path
) -> None:
    """Quantized stages have no tolerance, but what is absent is never within it."""
    lost = exported(tmp_path / "b", tiny_model, scheme="int4")
    assert compared(lost, photographs, tiny_model, tiny_branch)[:2] == (1, "bias")


def test_parity_says_when_the_reference_is_another_checkpoint(
    edited: Mapping[str, Path], tiny_model: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    bundle = exported(tmp_path / "b", edited["weights"], scheme="int4")
    ask = ("--images", photographs, "--steps", "1", "--threads", "1")
    said = typed("parity", bundle, "--reference", tiny_model, *ask)
    assert "The bundle was made from another checkpoint, or other adapters, than this reference." in said.out
    assert "another checkpoint" not in typed("parity", bundle, "--reference", edited["weights"], *ask).out


def test_parity_refuses_a_model_of_another_size(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    small = make_model(tmp_path / "small", Size(hidden=128, heads=2, kv_heads=1, layers=1))
    done = typed("parity", bundle, "--reference", small, "--images", photographs)
    assert done.code == 2
    assert "are models of different sizes." in done.err


def test_parity_refuses_folders_without_photographs(desk: Path, bundle: Path, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = typed("parity", bundle, "--reference", tiny_model, "--images", desk / "empty")
    assert (done.code, done.out) == (2, "")
    assert "holds no photograph." in done.err
    assert "Looked for .bmp, .jpeg" in done.err
    done = typed("parity", bundle, "--reference", tiny_model, "--images", tmp_path / "none")
    assert done.code == 2
    assert "none: no such folder." in done.err
    (tmp_path / "sticks").mkdir()
    (tmp_path / "sticks" / "._IMG_1.jpg").write_bytes(b"what a Mac leaves on a USB stick")
    done = typed("parity", bundle, "--reference", tiny_model, "--images", tmp_path / "sticks")
    assert "holds no photograph." in done.err


@pytest.mark.parametrize("order", [(1e-6, np.nan), (np.nan, 1e-6), (np.inf, 0.0)])
@pytest.mark.parametrize("scheme", ["f32", "int4"])
def test_one_photograph_that_overflows_fails_its_stage(order: tuple[float, float], scheme: str) -> None:
    """``max(1e-6, nan)`` is 1e-6: a NaN in any but the first photograph once passed."""
    from skinedge.parity.stages import Stage, worst_of
    from skinedge.parity.tolerances import limits_for

    stage = Stage("features", worst_of([{"max_abs": x} for x in order]), limits_for("onnx", scheme).get("features"), 2)
    assert not stage.passed
    assert "FAIL" in stage.line()
    assert stage.to_json()["measured"] == {"max_abs": None}  # type: ignore[index,call-overload]


def test_the_report_is_written_once(bundle: Path, photographs: Path, tiny_model: Path, tiny_branch: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    report = tmp_path / "report.json"
    ask = ("parity", bundle, "--reference", tiny_model, "-a", tiny_branch, "--images", photographs, "--steps", "1")
    done = typed(*ask, "--threads", "1", "--report", report)
    assert done.code == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines()[: len(ALL)]] == [
        [stage, "reported" if stage == "answer" else "ok"]
        for stage in ALL  # random weights answer nothing, and that proves nothing
    ]
    assert "\n1 picture: every gated stage is within tolerance.\n" in done.out
    recorded = json.loads(report.read_text(encoding="utf-8"))
    assert recorded["passed"] is True
    assert "lesion" not in report.read_text(encoding="utf-8"), "a photograph's name is patient data"
    assert typed(*ask, "--report", report).code == 1


# --- stopping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("show", "--json"), ("run", "-q", "x", "--max-new-tokens", "200")])
def test_a_reader_that_leaves_early_gets_no_traceback(command: tuple[str, ...], bundle: Path) -> None:
    words = [sys.executable, "-m", "skinedge", command[0], str(bundle), *command[1:]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        err = running.stderr.read().decode()
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert running.returncode in (0, 1)


# A job in the background (CI) is started with SIGINT ignored, and so are its children: a terminal does not do that.
SLOW_EXPORT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import skinedge.bundle
def preflight(*arguments):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
skinedge.bundle.preflight = preflight
from skinedge.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_is_quiet_and_leaves_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLOW_EXPORT, "export", "--out", str(tmp_path / "b")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == b"ready\n"
        running.send_signal(signal.SIGINT)
        err = running.stderr.read().decode()
    assert (running.returncode, err) == (130, "stopped; no half-written bundle was left behind.\n")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_middle_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skinedge.bundle

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(skinedge.bundle, "prove_side_branch", stop)
    done = typed("export", "--scheme", "int4", "--out", tmp_path / "b")
    assert done.code == 130
    assert "stopped; no half-written bundle was left behind." in done.err
    assert list(tmp_path.iterdir()) == []


def test_errors_of_python_itself_are_not_hidden() -> None:
    """A fault of skinedge's own shows its traceback: it is to be reported, not explained away."""
    script = "import skinedge.doctor\nskinedge.doctor.examine = lambda: 1 / 0\nfrom skinedge.cli import main\nmain()"
    done = python(script, "doctor")
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
