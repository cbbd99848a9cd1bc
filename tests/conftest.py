"""Fixtures: a tiny model with random weights and real everything else, made once per test process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def no_quick_form() -> Iterator[None]:
    """Exports typed in the tests' own process are not followed by the comparison; ``tests/test_certify.py`` tests it."""
    from skinedge.parity import quick

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "quick_form", lambda *_, **__: "the tests leave it out")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-shard bf16 checkpoint without adapters."""
    from skinedge.model.tiny import make_model

    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_branch(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version 2 side branch (8 experts) for ``tiny_model``."""
    from skinedge.model.config import read_config
    from skinedge.model.tiny import make_side_branch

    return make_side_branch(tmp_path_factory.mktemp("branch") / "v2", read_config(tiny_model))


@pytest.fixture(scope="session")
def tiny_lora(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on the language model and the vision tower of ``tiny_model``."""
    from skinedge.model.config import read_config
    from skinedge.model.tiny import make_lora

    return make_lora(tmp_path_factory.mktemp("lora") / "lora", read_config(tiny_model))


@pytest.fixture(scope="session")
def source(tiny_model: Path, tiny_branch: Path) -> AdapterCheckpoint:
    """``tiny_model`` with ``tiny_branch``."""
    from skinedge.artifacts import AdapterCheckpoint

    return AdapterCheckpoint.find(tiny_model, [tiny_branch])


@pytest.fixture(scope="session")
def bundles(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX bundles of ``source`` by scheme; copied by whoever changes one."""
    from skinedge.bundle import export
    from skinedge.targets._contract import ExportOptions

    work = tmp_path_factory.mktemp("bundles")
    return {s: export(source, "onnx", ExportOptions(s, context=1024), work / s).path for s in ("f32", "int4")}


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Eight real photographs of skin; the test is skipped where the data set is absent."""
    folder = SHARED_DATA / "pad-ufes-20" / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: no real photographs on this machine")
    return sorted(folder.glob("*.jpg"))[:8]
