"""``skinedge kit``: a folder that a device without a network installs, runs, and brings one file back from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import AsJson, BundleDir, DryRun, Threads, among, existing
from skinedge.console import emit, note, say, size

if TYPE_CHECKING:
    from skinedge.kit.make import KitPlan


def kit(
    bundle: BundleDir,
    device: Annotated[
        str,
        typer.Option("--device", "-d", autocompletion=among("devices", ".toml"), help="Whom it is for: see skinedge devices."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the kit.")] = Path("kit"),
    platform: Annotated[
        str | None, typer.Option(help="linux-aarch64, linux-x86-64 or windows-x86-64; by default the device's.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="3.N", help="Python on the device; by default a Jetson's own (3.12), else this one's.")
    ] = None,
    workstation: Annotated[
        bool, typer.Option("--workstation", help="Bring what installs skinedge serve there, too: service, launcher, updates.")
    ] = False,
    wheels: Annotated[Path | None, typer.Option(help="A folder of wheels to take instead of the package index.")] = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Pack a bundle with wheels, golden cases and scripts: copy the folder to a device without a network and run it there.

    Example: skinedge kit bundle/ --device jetson-agx-orin-64gb --out kit/
    """
    import re
    import sys

    from skinedge.devices import read_device
    from skinedge.errors import UsageError
    from skinedge.kit.make import make_kit, plan_kit
    from skinedge.kit.platforms import platform_of
    from skinedge.staging import refuse_taken

    existing(bundle, *filter(None, (wheels,)))
    if python is not None and (not re.fullmatch(r"3\.\d+", python) or int(python[2:]) < 11):
        raise UsageError(f"--python {python}: skinedge needs 3.11 or newer, written like 3.12.")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    plan = plan_kit(bundle, read_device(device), platform_of(device, platform), python, here, workstation=workstation)
    refuse_taken(out)
    if plan.warning and not as_json:
        note(f"{plan.warning}.")
    if dry_run:
        _describe(plan, as_json)
        return
    made = make_kit(plan, out, wheels, threads, told=(lambda _: None) if as_json else lambda what: note(f"{what} ..."))
    if as_json:
        names = [f"{w.name} {w.version}" for w in made.wheels]
        emit({"kit": str(out), "digest": made.digest, "nbytes": made.nbytes, "files": made.files, "wheels": names,
              "warning": plan.warning})  # fmt: skip
        return
    say(f"{out}: {size(made.nbytes)}, {made.files} files, {len(made.wheels) + 1} wheels, digest {made.digest[:16]}.")
    scripts = "install.cmd, then run.cmd" if plan.platform.system == "Windows" else "./install.sh, then ./run.sh"
    say(f"Copy it to the device and type there: {scripts}")
    if workstation:
        say(f"For the clinician there: {'workstation.cmd' if plan.platform.system == 'Windows' else './workstation.sh'} install")


def _describe(plan: KitPlan, as_json: bool) -> None:
    settings, nbytes = plan.settings, plan.bundle_bytes
    if as_json:
        emit({"settings": settings.model_dump(mode="json"), "bundle_nbytes": nbytes, "warning": plan.warning})
        return
    say(f"A kit for {settings.device}: {settings.platform}, Python {settings.python}.")
    say(f"  bundle  {settings.target}, {size(nbytes)}" + ("; engines are built on the device" if settings.rebuild else ""))
    say(f"  wheels  skinedge and what {', '.join(settings.extras)} needs; looked up when the kit is made")
    say("  golden  2 pictures and a question, asked here and repeated there")
    say("Nothing was written, and no network was asked.")
