"""What the documents tell people to type works."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from command_line import ROOT, environment, process

from skinedge.cli import app

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TESTED = re.compile(r"<!-- tested -->\n```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "console")


def shell_lines(text: str) -> Iterator[list[str]]:
    """Each command of a shell block as words, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def commands() -> Iterator[tuple[str, list[str]]]:
    for document in DOCUMENTS:
        for kind, text in FENCE.findall(document.read_text(encoding="utf-8")):
            if kind in SHELLS:
                yield from ((document.relative_to(ROOT).as_posix(), words) for words in shell_lines(text))


def parse_module(name: str, words: list[str]) -> None:
    """Check that ``python -m name words`` names a module, and options that its command has."""
    found = importlib.util.find_spec(name)
    assert found is not None, name
    module = importlib.import_module(f"{name}.__main__" if found.submodule_search_locations else name)
    command = typer.main.get_command(module.app)
    if isinstance(command, typer.core.TyperGroup):
        command = command.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


COMMANDS = list(commands())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_the_documents_hold_commands() -> None:
    assert len([words for _, words in COMMANDS if words[0] == "skinedge"]) >= 15
    assert len(TESTED.findall((ROOT / "README.md").read_text(encoding="utf-8"))) >= 1


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=[f"{d}: {' '.join(w)[:60]}" for d, w in COMMANDS])
def test_a_command_in_a_document_could_be_typed(document: str, words: list[str]) -> None:
    if words[0] == "skinedge":
        parse(words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["python", "-m"]:
        parse_module(words[2], words[3:])
    elif words[0] in ("python", "python3") and not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file(), words[1]
    for extras in re.findall(r"skinedge\[([\w,-]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(EXTRAS)


def parse(arguments: list[str]) -> None:
    """Check names and values of a command line without running it."""
    command, name = typer.main.get_command(app), ""
    while isinstance(command, typer.core.TyperGroup):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


@pytest.mark.parametrize("line", ["exprt --out b", "export --shceme int4", "run", "run b --top-p 7"])
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"exprt|shceme|bundle|less than or equal to 1"):
        parse(line.split())


@pytest.mark.slow
def test_the_readmes_commands_run_in_order(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    blocks = TESTED.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    for words in (words for block in blocks for words in shell_lines(block)):
        assert words[0] == "skinedge", words
        done = process(*words[1:], cwd=tmp_path)
        assert done.code == 0, f"{' '.join(words)}\n{done.out}\n{done.err}"
        assert done.out, f"{' '.join(words)} said nothing"
    assert (tmp_path / "bundle" / "skinedge.json").is_file()


def test_the_command_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "commands.py")], env=environment(), capture_output=True, check=True, timeout=60
    )
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert done.stdout.decode().replace("\r\n", "\n") == written, "run: make docs"


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_names_of_files_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:skinedge|benchmarks|docs|tests)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_table_of_schemes_is_what_the_targets_say() -> None:
    from skinedge.bundle import load_target

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if "| ONNX |" in line)
    row = next(line for line in text.splitlines() if line.startswith("| weight schemes |"))
    titles = {"ONNX": "onnx", "GGUF": "gguf", "TensorRT": "trt", "safetensors": "safetensors"}
    for title, cell in zip(header.split("|")[2:-1], row.split("|")[2:-1], strict=True):
        assert cell.split() == list(load_target(titles[title.strip()]).SCHEMES), title
