"""``skinedge kit``: what goes in, what a device is told when something is wrong, and that golden cases find it."""

from __future__ import annotations

import ensurepip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import typed
from measured import OFFICE, bundle, case, measured_case, result

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.devices import read_device
from skinedge.errors import KitError, UsageError
from skinedge.kit import device, make, wheels
from skinedge.kit.contents import GOLDEN, KitSettings, kit_digest, write_sums
from skinedge.kit.install import InstallError, check_files, check_interpreter
from skinedge.kit.make import make_kit, plan_kit
from skinedge.kit.platforms import PLATFORMS, platform_of
from skinedge.kit.record import read_kit_record
from skinedge.kit.wheels import Wanted, Wheel, download, requirements, resolve
from skinedge.parity.golden import GOLDEN_FILE, GoldenCases, divergence, read_cases, repeat, tolerance_of
from skinedge.runtime.pipeline import open_pipeline
from skinedge.targets._contract import ExportOptions

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def onnx_bundle(tiny_model: Path, tiny_branch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("onnxruntime")
    source = AdapterCheckpoint.find(tiny_model, [tiny_branch])
    return export(source, "onnx", ExportOptions("f32", context=512), tmp_path_factory.mktemp("kit") / "bundle").path


@pytest.fixture(scope="module")
def made(onnx_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit without wheels: everything that a device needs once they are installed."""
    kit = tmp_path_factory.mktemp("made") / "kit"
    plan = plan_kit(onnx_bundle, read_device("workstation-ddr4-3200"), PLATFORMS["linux-x86-64"], None, HERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "_add_wheels", lambda plan, kit, *rest: ())
        make_kit(plan, kit, None, 1, told=lambda what: None)
    return kit


@pytest.fixture
def kit(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "kit"))


def wheel(folder: Path, name: str, requires: tuple[str, ...] = (), *, version: str = "1.0", tag: str = "py3-none-any") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    extras = sorted({r.split("extra == ")[1].strip("'\" ") for r in requires if "extra == " in r})
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Provides-Extra: {e}" for e in extras)]
    lines += [f"Requires-Dist: {r}" for r in requires]
    files = {
        f"{name}.py": f"NAME = '{name}'\n",
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{f},,\n" for f in (*files, f"{info}/RECORD")))
    return path


def test_who_gets_what(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(target: str, name: str, python: str | None = None) -> make.KitPlan:
        manifest = make.read_manifest(onnx_bundle).model_copy(update={"target": target})
        monkeypatch.setattr(make, "read_manifest", lambda folder, m=manifest: m)
        return plan_kit(onnx_bundle, read_device(name), platform_of(name, None), python, "3.11")

    orin = plan("trt", "jetson-agx-orin-64gb")
    assert (orin.settings.machine, orin.python, orin.rebuild, orin.side) == ("aarch64", "3.12", True, "onnx")
    assert orin.extras == ("trt-device", "onnx")
    assert orin.settings.system_site_packages, "JetPack's own TensorRT is outside of the virtual environment"
    desktop = plan("trt", "rtx-4090")
    assert (desktop.settings.machine, desktop.python, desktop.rebuild) == ("x86_64", "3.11", False)
    assert desktop.extras == ("trt", "gpu-telemetry")
    assert plan("onnx", "rtx-4090").extras == ("onnx-gpu", "gpu-telemetry")
    assert plan("gguf", "jetson-orin-nx-16gb", "3.11").python == "3.11"
    assert plan("gguf", "workstation-ddr5-5600").extras == ("gguf",)
    for name, target, warned in (
        ("rtx-4090", "gguf", True), ("jetson-agx-thor", "gguf", True), ("rtx-4090", "onnx", False),
        ("workstation-ddr5-5600", "gguf", False),
    ):  # fmt: skip
        said = plan(target, name).warning
        assert (said is not None) == warned
        assert said is None or f"on the CPU alone: for the GPU of {read_device(name).title} build llama-cpp-python" in said
    assert plan("onnx", "h100-sxm-80gb").extras == ("onnx-gpu", "gpu-telemetry")
    for name in ("workstation-ddr5-5600", "h100-sxm-80gb"):
        with pytest.raises(UsageError, match=f"{read_device(name).title} runs no TensorRT plan"):
            plan("trt", name)
    with pytest.raises(UsageError, match="which skinedge does not run on a device"):
        plan("safetensors", "workstation-ddr5-5600")


def test_platforms() -> None:
    assert platform_of("jetson-agx-thor", None).name == "linux-aarch64"
    assert platform_of("rtx-4090", "windows-x86-64").tags == ("win_amd64",)
    assert platform_of("this-machine", None).machine in ("x86_64", "aarch64")
    with pytest.raises(UsageError, match="unknown platform 'linux-arm64'") as e:
        platform_of("rtx-4090", "linux-arm64")
    assert "linux-aarch64" in e.value.hint
    assert PLATFORMS["linux-aarch64"].tags[0] == "manylinux_2_35_aarch64"


def test_a_dry_run_says_what_would_be_made(onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("kit", onnx_bundle, "--device", "jetson-agx-orin-64gb", "--out", tmp_path / "k", "--dry-run")
    said = typed(*command, "--json")
    assert said.code == 0, said.err
    assert said.json["settings"]["machine"] == "aarch64"
    assert said.json["bundle_nbytes"] > 1e5
    assert said.json["warning"] is None
    words = typed(*command).out
    assert "linux-aarch64, Python 3.12" in words
    assert "no network was asked" in words
    monkeypatch.setattr(make.KitPlan, "warning", "mind the step")
    assert typed(*command, "--json").json["warning"] == "mind the step"
    assert "mind the step." in typed(*command).err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (("--device", "orin"), 2, "unknown device 'orin'"),
        (("--device", "rtx-4090", "--python", "3.9"), 2, "skinedge needs 3.11 or newer"),
        (("--device", "rtx-4090", "--wheels", "nowhere"), 2, "nowhere: no such file or folder"),
        (("--device", "rtx-4090", "--out", "."), 1, "exists and is not empty"),
    ],
)
def test_what_cannot_be_made_is_refused(
    onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    said = typed("kit", onnx_bundle, *changes)
    assert said.code == code
    assert message in said.err


def test_the_kit_lists_and_fixes_every_file(made: Path) -> None:
    names = {line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert names == {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert {"install.sh", "run.sh", "install.cmd", "run.cmd", "install.py", "README.txt", "kit.json"} <= names
    assert os.access(made / "run.sh", os.X_OK)
    assert b"\r\n" in (made / "run.cmd").read_bytes()
    assert check_files(made) == len(names)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, check=True)


def test_a_kit_that_failed_leaves_nothing_but_what_it_fetched(
    onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(plan: object, kit: Path, fetched: Path, *rest: object) -> None:
        wheel(fetched, "numpy")
        raise KitError("the package index cannot be reached.")

    monkeypatch.setattr(make, "_add_wheels", fails)
    plan = plan_kit(onnx_bundle, read_device("workstation-ddr4-3200"), PLATFORMS["linux-x86-64"], None, HERE)
    with pytest.raises(KitError):
        make_kit(plan, tmp_path / "kit", None, 1, told=lambda what: None)
    assert [p.name for p in tmp_path.iterdir()] == [f".kit.linux-x86-64-python{HERE}.wheels"]


# Golden cases


def test_golden_cases_repeat_exactly_here(made: Path) -> None:
    cases = read_cases(made / GOLDEN)
    assert [c.name for c in cases.cases] == ["wide", "tall", "words"]
    assert all(len(c.tokens) == len(c.likeliest) == 16 for c in cases.cases)
    with open_pipeline(made / "bundle", threads=1) as pipeline:
        outcomes = list(repeat(pipeline, made / GOLDEN, cases))
    assert all(o.passed and abs(o.kl) < 1e-6 and o.same_tokens == 16 for o in outcomes)
    assert [o.pixels_same for o in outcomes] == [True, True, None]


def changed(cases: GoldenCases, **update: object) -> GoldenCases:
    first, *rest = cases.cases
    return cases.model_copy(update={"cases": (first.model_copy(update=update), *rest)})


def test_what_differs_on_a_device_is_found(made: Path) -> None:
    cases = read_cases(made / GOLDEN)
    first = cases.cases[0]
    rows = [[*row] for row in first.likeliest]
    rows[3][0], rows[3][1] = (rows[3][1][0], rows[3][0][1]), (rows[3][0][0], rows[3][1][1])  # two tokens have changed places
    lies: dict[str, GoldenCases] = {
        r"its probabilities diverge by .* nats and 0\.0001 is the limit": changed(cases, likeliest=tuple(map(tuple, rows))),
        "the prompt has other tokens": changed(cases, prompt="0" * 64),
        "the picture was resized to other pixels": changed(cases, pixels="0" * 64),
    }
    with open_pipeline(made / "bundle", threads=1) as pipeline:
        for reason, lie in lies.items():
            found, *others = repeat(pipeline, made / GOLDEN, lie)
            assert not found.passed
            assert re.fullmatch(reason, str(found.reason))
            assert all(o.passed for o in others)
        other = changed(cases, tokens=(*first.tokens[:5], (first.tokens[5] + 1) % 100, *first.tokens[6:]))
        found, *_ = repeat(pipeline, made / GOLDEN, other)
        assert found.same_tokens == 5
        assert not found.passed, "another token told, other log-probabilities after it"


def test_a_model_that_gives_no_numbers_fails(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_pipeline(made / "bundle", threads=1) as pipeline:
        vocabulary = pipeline.session.vocab_size
        monkeypatch.setattr(pipeline.session, "step", lambda token: np.full(vocabulary, np.nan, np.float32))
        found, *_ = repeat(pipeline, made / GOLDEN, read_cases(made / GOLDEN))
    assert not found.passed
    assert found.kl is None


def test_divergence() -> None:
    there, here = np.log([0.7, 0.2, 0.06, 0.04]), np.log([0.6, 0.3, 0.05, 0.05]).astype(np.float32)
    kept = [(0, float(there[0])), (1, float(there[1]))]
    expected = 0.7 * np.log(0.7 / 0.6) + 0.2 * np.log(0.2 / 0.3) + 0.1 * np.log(0.1 / 0.1)
    assert divergence(here, kept) == pytest.approx(expected, abs=1e-6)
    assert divergence(there.astype(np.float32), kept) == pytest.approx(0, abs=1e-6)


def test_tolerances() -> None:
    assert tolerance_of("f32", None) == tolerance_of("f32", "f32") == 1e-4
    assert tolerance_of("int4", None) == tolerance_of("f32", "f16") == 0.02


# On the device


def test_a_run_writes_one_file_that_the_report_takes(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.main([str(kit), "--no-bench", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert "3 of 3 golden cases as expected" in said.out
    assert "not measured: it was not asked for" in said.err
    record = read_kit_record(kit / "result.json")
    assert record.passed
    assert record.kit == kit_digest(kit)
    assert device.main([str(kit), "--no-bench", "--threads", "1"]) == 0, "its own result is no change of the kit"
    assert (kit / "result-2.json").is_file()
    done = typed("report", kit / "result.json", "--out", kit.parent / "r.html", "--json")
    assert done.code == 0, done.err
    assert done.json["kits"] == 1
    assert "golden case" in (kit.parent / "r.html").read_text()


def test_a_wrong_golden_case_fails_the_run_and_is_written(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = changed(read_cases(kit / GOLDEN), prompt="0" * 64)
    (kit / GOLDEN / GOLDEN_FILE).write_text(cases.to_json())
    write_sums(kit, {})
    assert device.main([str(kit), "--no-bench", "--threads", "1"]) == 1
    assert "FAILED: the prompt has other tokens" in capsys.readouterr().err
    assert not read_kit_record(kit / "result.json").passed


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda kit: (kit / "golden" / "wide.png").write_bytes(b"x"), "golden/wide.png is not as it was written"),
        (lambda kit: (kit / "README.txt").unlink(), "README.txt is missing"),
        (lambda kit: (kit / "kit.json").unlink(), "is not a kit: it has no kit.json"),
        (lambda kit: (kit / "kit.json").write_text("{}"), "cannot be read as a kit's settings"),
    ],
)
def test_a_damaged_kit_does_not_run(
    kit: Path, harm: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(kit)
    assert device.main([str(kit), "--no-bench"]) == 1
    assert message in capsys.readouterr().err
    assert not (kit / "result.json").exists()


def test_what_bench_measures_is_carried_back(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = result(OFFICE, bundle("onnx", "f32", 32, 10**8), (measured_case(case(), 100, 30),))
    asked: list[list[str]] = []

    def bench(command: list[str], **_: object) -> SimpleNamespace:
        asked.append(command)
        Path(command[command.index("--out") + 1]).write_text(run.to_json())
        return SimpleNamespace(returncode=0)

    def command() -> None: ...

    command.__name__ = "bench"
    monkeypatch.setattr("skinedge.cli.app.registered_commands", [SimpleNamespace(callback=command)])
    monkeypatch.setattr(device, "subprocess", SimpleNamespace(run=bench, DEVNULL=None))
    path, record = device.run_kit(kit, device.RunOptions(suite="quick", threads=1))
    assert record.result == run == read_kit_record(path).result
    assert record.reason is None
    assert asked[0][3:5] == ["bench", str(kit / "bundle")]
    assert asked[0][-4:] == ["--suite", "quick", "--threads", "1"]


def test_a_bench_that_fails_is_said(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None: ...

    command.__name__ = "bench"
    monkeypatch.setattr("skinedge.cli.app.registered_commands", [SimpleNamespace(callback=command)])
    monkeypatch.setattr(device, "subprocess", SimpleNamespace(run=lambda *a, **k: SimpleNamespace(returncode=1), DEVNULL=None))
    _, record = device.run_kit(kit, device.RunOptions(threads=1))
    assert record.result is None
    assert record.reason == "skinedge bench ended with 1 and wrote no result"


# Wheels


def settings(**changes: object) -> KitSettings:
    values = {
        "skinedge": "0.1.0", "device": "this-machine", "platform": "linux-x86-64", "system": platform.system(),
        "machine": platform.machine(), "python": HERE, "system_site_packages": False, "extras": (), "target": "onnx",
        "bundle": "0" * 64, "rebuild": False,
    }  # fmt: skip
    return KitSettings(**{**values, **changes})


def test_another_machine_or_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(**changes: object) -> None:
        check_interpreter(json.loads(settings(**changes).to_json()), tmp_path)

    check()
    with pytest.raises(InstallError, match="this kit is for Linux riscv64 and this machine is"):
        check(machine="riscv64")
    with pytest.raises(InstallError, match=r"this kit is for Python 3\.99 and this is"):
        check(python="3.99")


def test_installs_without_an_index(tmp_path: Path) -> None:
    """The real installer, the pip that Python brings, one wheel; no index is ever asked (``--no-index``)."""
    pip = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"), None)
    if pip is None:
        pytest.skip("this Python brings no pip")
    kit = tmp_path / "kit"
    kit.mkdir()
    one = wheel(kit / "wheels", "hello")
    shutil.copyfile(pip, kit / "wheels" / pip.name)
    shutil.copyfile(Path(make.__file__).with_name("install.py"), kit / "install.py")
    (kit / "kit.json").write_text(settings().to_json())
    (kit / "requirements.txt").write_text(make._requirements(kit / "wheels"))
    write_sums(kit, {})
    environment = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PYTHONWARNINGS": ""}
    command = [sys.executable, str(kit / "install.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 files are as they were written" in done.stdout
    python = next((kit / "venv").glob("[bS]*/python*"))
    assert subprocess.run([python, "-c", "import hello; print(hello.NAME)"], capture_output=True, check=True).stdout == b"hello\n"
    one.write_bytes(b"changed")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "wheels/hello-1.0-py3-none-any.whl is not as it was written" in again.stderr


def test_markers_are_answered_as_the_device_would(tmp_path: Path) -> None:
    index = tmp_path / "index"
    own = wheel(tmp_path, "skinedge", ("alpha", "gamma[fast]; extra == 'onnx'", "absent; extra == 'train'"))
    wheel(index, "alpha", ("winonly; sys_platform == 'win32'", "armonly; platform_machine == 'aarch64'"))
    wheel(index, "gamma", ("delta; extra == 'fast'", "absent; extra == 'slow'"), tag="cp312-cp312-manylinux_2_28_aarch64")
    wheel(index, "gamma", ("delta; extra == 'fast'",), tag="cp312-cp312-win_amd64")
    for name in ("winonly", "armonly", "delta"):
        wheel(index, name)

    def found(platform: str, python: str) -> list[str]:
        wanted = Wanted(PLATFORMS[platform], python, index)
        return [w.name for w in resolve(wanted, requirements(own, ("onnx", "unknown")))]

    assert found("linux-aarch64", "3.12") == ["alpha", "armonly", "delta", "gamma"]
    assert found("windows-x86-64", "3.12") == ["alpha", "delta", "gamma", "winonly"]
    with pytest.raises(KitError, match=r"for linux-aarch64, Python 3.13 cannot be found: No matching distribution .*gamma") as e:
        found("linux-aarch64", "3.13")
    assert "--wheels" in e.value.hint


def test_a_jetsons_tensorrt_comes_with_its_system(tmp_path: Path) -> None:
    needs = (
        "base",
        "tensorrt>=10; extra == 'trt-device'",
        "cuda-bindings<14,>=12.6; extra == 'trt-device'",
        "torch; extra == 'train'",
    )
    own = wheel(tmp_path, "skinedge", needs)
    found = requirements(own, ("trt-device",), without=("tensorrt",))
    assert found == (str(own), "cuda-bindings<14,>=12.6")


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        wheel(tmp_path / "index", name)
    wheel(tmp_path / "have", "alpha")
    told: list[str] = []
    wanted = Wanted(PLATFORMS["linux-x86-64"], "3.12", tmp_path / "index")
    both = [Wheel(name, "1.0", None, ()) for name in ("alpha", "beta")]
    wheel(tmp_path / "have", "alpha", version="0.9")
    files = download(wanted, both, tmp_path / "have", lambda number, count, name: told.append(f"{number}/{count} {name}"))
    assert told == ["2/2 beta 1.0"]
    assert [f.name for f in files] == ["alpha-1.0-py3-none-any.whl", "beta-1.0-py3-none-any.whl"], "what was resolved, once"


def test_a_kit_for_another_machine_takes_nothing_that_was_fetched_for_the_first(
    onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt fails after its wheels; the second is for another platform, with wheels of the same versions."""
    index = tmp_path / "index"
    for tag in ("cp312-cp312-manylinux_2_28_aarch64", "cp312-cp312-manylinux_2_28_x86_64"):
        wheel(index, "alpha", tag=tag)
    wheel(index, "pip")
    monkeypatch.setattr(make, "build_own_wheel", lambda folder: wheel(folder, "skinedge", ("alpha",)))
    monkeypatch.setattr(make, "_CONSTRAINTS", tmp_path / "none")
    plans = [
        plan_kit(onnx_bundle, read_device("jetson-agx-thor"), PLATFORMS[p], "3.12", HERE)
        for p in ("linux-aarch64", "linux-x86-64")
    ]

    def fails(*_: object) -> None:
        raise KitError("the power went off.")

    with monkeypatch.context() as patch:
        patch.setattr(make, "_add_scripts", fails)
        with pytest.raises(KitError):
            make_kit(plans[0], tmp_path / "kit", index, 1, told=lambda what: None)
    assert list(tmp_path.glob(".kit.*/alpha-*aarch64.whl"))
    made = make_kit(plans[1], tmp_path / "kit", index, 1, told=lambda what: None)
    assert [p.name for p in (made.path / "wheels").glob("alpha-*")] == ["alpha-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"]


def test_no_network_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip names the reason when it tries again
    with pytest.raises(KitError, match="the package index cannot be reached") as e:
        resolve(Wanted(PLATFORMS["linux-x86-64"], "3.12"), ("numpy",))
    assert "--wheels FOLDER" in e.value.hint


@pytest.mark.slow
def test_skinedges_own_wheel_holds_what_a_device_needs(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    path = wheels.build_own_wheel(tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    for name in (
        "kit/files/run.sh",
        "kit/install.py",
        "report/page.html.jinja",
        "devices/rtx-4090.toml",
        "embedded/tiny/config.json",
    ):
        assert f"skinedge/{name}" in names
    assert not any(n.startswith(("train/", "tests/", "build/")) for n in names)


def test_engines_are_built_on_the_device_once(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build(bundle: Path, out: Path, library: str | None) -> None:
        assert library is None, "whatever the device has"
        built.append(Path(shutil.copytree(bundle, out)))

    monkeypatch.setattr("skinedge.kit.rebuild.rebuild", build)
    (kit / "kit.json").write_text(device.read_settings(kit).model_copy(update={"rebuild": True}).to_json())
    write_sums(kit, {})
    for _ in range(2):
        _, record = device.run_kit(kit, device.RunOptions(bench=False, threads=1))
        assert record.rebuilt
    assert built == [kit / "engines"]
