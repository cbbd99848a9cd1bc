"""What is run from ``export/``: the release matrix and the on-device build."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from export import build_on_device, release
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, load_target, verify
from skinedge.errors import UsageError
from skinedge.kit.rebuild import rebuild
from skinedge.targets._contract import ExportOptions


@pytest.mark.parametrize("name", release.known_recipes())
def test_every_recipe_can_be_planned(name: str, tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = release.read_recipe(name)
    assert recipe.options.scheme in load_target(recipe.target).SCHEMES
    assert release.main(["--out", str(tmp_path), "--model", str(tiny_model), "--recipe", name, "--dry-run"]) == 0
    assert recipe.description in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_release_writes_verifies_and_goes_on(tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    arguments = [
        "--out",
        str(tmp_path / "r"),
        "--model",
        str(tiny_model),
        "--adapter",
        str(tiny_lora),
        "--recipe",
        "portable-onnx",
    ]
    assert release.main(arguments) == 0
    first = (tmp_path / "r" / "portable-onnx" / "skinedge.json").stat().st_mtime_ns
    assert release.main(arguments) == 0
    assert (tmp_path / "r" / "portable-onnx" / "skinedge.json").stat().st_mtime_ns == first, "a finished bundle was made again"


def test_release_will_not_mix_checkpoints(
    tiny_model: Path, tiny_lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx_ir")
    arguments = ["--out", str(tmp_path / "r"), "--model", str(tiny_model), "--recipe", "portable-onnx"]
    assert release.main(arguments) == 0
    assert release.main([*arguments, "--adapter", str(tiny_lora)]) == 2
    assert "was made from another checkpoint" in capsys.readouterr().err


def test_unknown_recipe_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'jetsn'") as e:
        release.read_recipe("jetsn")
    assert "Did you mean 'jetson'?" in e.value.hint
    (tmp_path / "odd.toml").write_text('description = "x"\ntarget = "onnx"\nscheem = "int4"\n')
    monkeypatch.setattr(release, "RECIPES", tmp_path)
    with pytest.raises(UsageError, match="unknown key in recipe odd 'scheem'") as e:
        release.read_recipe("odd")
    assert "Did you mean 'scheme'?" in e.value.hint


def test_plans_are_rebuilt_from_the_onnx_side(tiny_model: Path, tiny_branch: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    source = AdapterCheckpoint.find(tiny_model, [tiny_branch])
    bundle = export(source, "trt", ExportOptions("int8", context=256), tmp_path / "b").path
    before = verify(bundle)
    rebuild(bundle, tmp_path / "new", "tensorrt_rtx", quiet=True)
    after = verify(tmp_path / "new")
    assert after.lineage[-1].digest == before.digest
    assert after.lineage[-1].note.startswith("plans rebuilt with tensorrt_rtx")
    for record in before.files:
        if not record.path.endswith(".plan"):
            assert after.file(record.path) == record
    assert after.details["plans"].keys() == before.details["plans"].keys()
    for name, plan in before.details["plans"].items():
        assert after.details["plans"][name]["profiles"] == plan["profiles"]


def test_only_a_trt_bundle_has_plans(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx_ir")
    bundle = export(AdapterCheckpoint.find(tiny_model), "onnx", ExportOptions("int4"), tmp_path / "b").path
    assert build_on_device.main([str(bundle), "--out", str(tmp_path / "new")]) == 2
    assert "is a bundle for onnx and has no plans" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
