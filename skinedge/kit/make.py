"""``skinedge kit``: put a bundle, its wheels, its golden cases and two scripts into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import skinedge
from skinedge import __version__
from skinedge.bundle import load_target, verify
from skinedge.devices import Device
from skinedge.errors import UsageError
from skinedge.kit.contents import BUNDLE, GOLDEN, KIT_FILE, WHEELS, KitSettings, nbytes, write_sums
from skinedge.kit.install import digest
from skinedge.kit.platforms import JETSON_PYTHON, Platform, has_nvidia_gpu, is_jetson
from skinedge.kit.wheels import Wanted, Wheel, build_own_wheel, download, requirements, resolve
from skinedge.kit.workstation.pack import pack
from skinedge.kit.workstation.places import PROGRAM
from skinedge.manifest import Manifest, read_manifest
from skinedge.parity.golden import GOLDEN_FILE, make_cases
from skinedge.runtime.pipeline import open_pipeline
from skinedge.staging import refuse_taken, staged

_FILES = Path(__file__).parent / "files"
_WORKSTATION_FILES = Path(__file__).parent / "workstation_files"
_INSTALL = Path(__file__).with_name("install.py")
_CONSTRAINTS = Path(skinedge.__file__).parents[1] / "constraints.txt"


@dataclass(frozen=True)
class KitPlan:
    """What a kit will be: for whom, of what, and which extras of skinedge it brings."""

    bundle: Path
    manifest: Manifest
    device: Device
    platform: Platform
    python: str
    extras: tuple[str, ...]
    rebuild: bool
    side: str | None  # what the bundle is opened as here, where its plans cannot run
    workstation: bool = False

    @property
    def settings(self) -> KitSettings:
        """Its page on itself."""
        return KitSettings(
            skinedge=__version__,
            device=self.device.name,
            platform=self.platform.name,
            system=self.platform.system,
            machine=self.platform.machine,
            python=self.python,
            system_site_packages=self.rebuild,
            extras=self.extras,
            target=self.manifest.target,
            bundle=self.manifest.digest,
            rebuild=self.rebuild,
            workstation=self.workstation,
        )

    @property
    def warning(self) -> str | None:
        """What whoever is about to carry it there should know: the index has llama.cpp without CUDA only."""
        if self.manifest.target != "gguf" or not has_nvidia_gpu(self.device):
            return None
        return (
            f"the llama.cpp in this kit computes on the CPU alone: for the GPU of {self.device.title} build llama-cpp-python "
            "there once it is installed, with CMAKE_ARGS=-DGGML_CUDA=on and pip --python venv install 'llama-cpp-python<0.4'"
        )

    @property
    def bundle_bytes(self) -> int:
        """Size of the bundle, the part of a kit that is known before wheels are looked up."""
        return sum(f.nbytes for f in self.manifest.files)


@dataclass(frozen=True)
class Kit:
    """A kit that was made."""

    path: Path
    digest: str
    nbytes: int
    wheels: tuple[Wheel, ...]
    files: int


def plan_kit(
    bundle: Path, device: Device, platform: Platform, python: str | None, here: str, *, workstation: bool = False
) -> KitPlan:
    """Decide what goes in; nothing is written and no network asked.

    Args:
        bundle: what ``skinedge export`` wrote.
        device: whom it is for.
        platform: of the device.
        python: version there, ``None`` for a Jetson's own or this one's.
        here: this Python's version, major and minor.
        workstation: bring what installs the workstation there, too.

    Raises:
        UsageError: the bundle cannot run there.
        BundleError: it is none.
    """
    manifest = read_manifest(bundle)
    if not load_target(manifest.target).RUNS:
        raise UsageError(
            f"{bundle} is a bundle for {manifest.target}, which skinedge does not run on a device.",
            hint="Export one that runs: skinedge export --target onnx, gguf or trt.",
        )
    jetson, trt = is_jetson(device), manifest.target == "trt"
    if trt and "trt" not in device.targets:
        raise UsageError(f"{device.title} runs no TensorRT plan.", hint="Export --target onnx or --target gguf for it.")
    return KitPlan(
        bundle=bundle,
        manifest=manifest,
        device=device,
        platform=platform,
        python=python or (JETSON_PYTHON if jetson else here),
        extras=(*_extras(manifest.target, device), *(("serve",) if workstation else ())),
        rebuild=trt and jetson,
        side="onnx" if trt else None,
        workstation=workstation,
    )


def _extras(target: str, device: Device) -> tuple[str, ...]:
    """What skinedge needs there; of a Jetson's TensorRT only what its system does not bring."""
    if is_jetson(device):
        return ("trt-device", "onnx") if target == "trt" else (target,)
    cuda = target == "onnx" and device.kind == "gpu"
    return ("onnx-gpu" if cuda else target, *(("gpu-telemetry",) if has_nvidia_gpu(device) else ()))


def make_kit(plan: KitPlan, out: Path, wheels: Path | None, threads: int | None, told: Callable[[str], None]) -> Kit:
    """Make the kit at ``out``.

    What was fetched stays in a hidden folder beside it if something fails, and the next attempt goes on with it.

    Args:
        plan: of ``plan_kit``.
        out: new folder.
        wheels: a folder of wheels instead of the package index.
        threads: for the golden cases.
        told: is called with what is being done.

    Raises:
        KitError: a wheel cannot be found, fetched or built.
        OutputError: ``out`` is taken, or the disk ran full.
        SkinedgeError: the bundle does not verify or does not run here.
    """
    refuse_taken(out)
    fetched = out.absolute().parent / f".{out.name}.{plan.platform.name}-python{plan.python}.wheels"
    with staged(out) as kit:
        told("bundle")
        known = _copy_bundle(plan, kit)
        told("golden cases")
        with open_pipeline(kit / BUNDLE, side=plan.side, threads=threads) as pipeline:
            cases = make_cases(pipeline, kit / GOLDEN, plan.side or plan.manifest.target)
        (kit / GOLDEN / GOLDEN_FILE).write_text(cases.to_json(), encoding="utf-8", newline="\n")
        found = _add_wheels(plan, kit, fetched, wheels, told)
        _add_scripts(plan, kit)
        (kit / KIT_FILE).write_text(plan.settings.to_json(), encoding="utf-8", newline="\n")
        name = write_sums(kit, known)
        total, files = nbytes(kit), sum(p.is_file() for p in kit.rglob("*"))
    shutil.rmtree(fetched, ignore_errors=True)
    return Kit(out, name, total, found, files)


def _copy_bundle(plan: KitPlan, kit: Path) -> dict[str, str]:
    """Sums of the copied files, which verifying the copy has just proved."""
    shutil.copytree(plan.bundle, kit / BUNDLE)
    manifest = verify(kit / BUNDLE)
    return {f"{BUNDLE}/{f.path}": f.sha256 for f in manifest.files}


def _add_wheels(plan: KitPlan, kit: Path, fetched: Path, folder: Path | None, told: Callable[[str], None]) -> tuple[Wheel, ...]:
    told("skinedge's own wheel")
    (kit / WHEELS).mkdir()
    own = build_own_wheel(kit / WHEELS)
    told(f"looking up wheels for {plan.platform.name}, Python {plan.python}")
    wanted = Wanted(plan.platform, plan.python, folder, _CONSTRAINTS if _CONSTRAINTS.is_file() else None)
    without = ("tensorrt",) if plan.rebuild else ()
    found = resolve(wanted, [*requirements(own, plan.extras, without=without), "pip"])
    for wheel in download(wanted, found, fetched, lambda number, count, name: told(f"wheel {number} of {count}: {name}")):
        shutil.copyfile(wheel, kit / WHEELS / wheel.name)
    (kit / "requirements.txt").write_text(_requirements(kit / WHEELS), encoding="utf-8", newline="\n")
    return found


def _add_scripts(plan: KitPlan, kit: Path) -> None:
    for file in (*_FILES.iterdir(), _INSTALL, *(_WORKSTATION_FILES.iterdir() if plan.workstation else ())):
        if file.is_file():
            with (kit / file.name).open("ab") as script:  # the page on the workstation goes on where README.txt ends
                script.write(file.read_bytes())
            (kit / file.name).chmod(0o755 if file.suffix == ".sh" else 0o644)
    if plan.workstation:
        pack(kit / PROGRAM)


def _requirements(wheels: Path) -> str:
    """Every wheel by version and hash, so that nothing else can be installed."""
    rows = []
    for path in sorted(wheels.glob("*.whl")):
        name, version, *_ = path.name.split("-")
        rows.append(f"{name}=={version} --hash=sha256:{digest(path)}\n")
    return "".join(row for row in rows if not row.startswith("pip=="))
