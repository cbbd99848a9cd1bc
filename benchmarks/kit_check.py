"""A kit of the embedded model where there is no network: on this machine, and on an emulated aarch64 one.

Usage: python benchmarks/kit_check.py --work build/kit-check [--emulate] [--out benchmarks/results/kit_check.json]

Here: the kit is made, copied, and installed and run in a network namespace that has no interface but a loopback that is down
(``unshare --net``); that nothing outside can be reached from it is tried first.  Emulated (Debian packages qemu-user-static,
proot, debootstrap): an arm64 Debian is unpacked, and the aarch64 kit is installed and run in it under ``qemu-aarch64-static``,
without a network too.  ``skinedge report`` must take what each of them brings back.  What was made before in ``--work`` is
used again.  Speed under emulation says nothing, so nothing is measured there; proot 5.1 also answers ``os.access`` with no,
whatever is asked of it, and the command line then takes the bundle for unreadable.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
ROOT_PYTHON = "3.13"  # of that Debian
# onnxruntime looks up the processor in /proc/cpuinfo and crashes on what an x86 kernel says there; qemu 7.2 leaves it so.
CPU = "cortex-a76"  # 8.2, as a Jetson Orin's A78AE: products of 8-bit integers, half floats
CPUINFO = """processor\t: {}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
REACH = "import socket; socket.create_connection(('1.1.1.1', 443), 5)"


def run(*command: str | Path, cwd: Path | None = None, ok: Sequence[int] = (0,)) -> tuple[str, float]:
    """Standard output and seconds of a command; its words are shown if it fails."""
    begin = time.perf_counter()
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode not in ok:
        sys.exit(
            f"{' '.join(map(str, command))[:200]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout, time.perf_counter() - begin


def skinedge(*arguments: str | Path) -> tuple[str, float]:
    return run(sys.executable, "-m", "skinedge", *arguments)


def make_kit(work: Path, bundle: Path, name: str, *options: str) -> tuple[Path, float | None]:
    """The kit, and the seconds it took unless it was there."""
    if (work / name / "SHA256SUMS").is_file():
        return work / name, None
    return work / name, skinedge("kit", bundle, "--out", work / name, "--json", *options)[1]


def carry(kit: Path, to: Path) -> Path:
    """A copy, as on another machine."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(kit, to)
    return to


def install_and_run(kit: Path, shell: Sequence[str], options: Sequence[str]) -> dict[str, object]:
    """Both scripts under ``shell``; what was brought back, and how long it took."""
    installed = run(*shell, "./install.sh", cwd=kit)[1]
    ran = run(*shell, "./run.sh", *options, cwd=kit)[1]
    record = json.loads((kit / "result.json").read_text())
    page = kit / "report.html"
    said = json.loads(skinedge("report", kit / "result.json", "--out", page, "--json")[0])
    if said["kits"] != 1 or not all(g["passed"] for g in record["golden"]):
        sys.exit(f"{kit}: {said}, golden cases {record['golden']}")
    golden = [{k: g[k] for k in ("name", "same_tokens", "tokens", "kl", "pixels_same")} for g in record["golden"]]
    return {
        "install_s": round(installed, 1), "run_s": round(ran, 1), "python": record["python"], "system": record["system"],
        "verified_files": record["verified_files"], "golden": golden, "report_bytes": said["nbytes"],
        "benched": record["result"] is not None and record["result"]["status"], "reason": record["reason"],
    }  # fmt: skip


def offline_here(kit: Path, work: Path, options: Sequence[str]) -> dict[str, object]:
    """In a namespace of its own, from which nothing can be reached."""
    cut = ["unshare", "--net"]
    reached = subprocess.run([*cut, sys.executable, "-c", REACH], capture_output=True, text=True, check=False)
    if "Network is unreachable" not in reached.stderr:
        sys.exit(f"there is a network inside of unshare --net: {reached.stderr}")
    return install_and_run(carry(kit, work / "carried"), cut, options)


def unpack_arm64(root: Path) -> None:
    """An arm64 Debian with Python: packages fetched by debootstrap, unpacked, none of their scripts run."""
    if (root / "unpacked").is_file():
        return
    command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3", SUITE, root, MIRROR]
    run(*command)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        run("dpkg-deb", "--extract", package, root)
    (root / "unpacked").touch()


def emulated(kit: Path, work: Path, options: Sequence[str]) -> dict[str, object]:
    """Under qemu's user mode; proot passes each new process to it, which needs no binfmt_misc in the kernel."""
    root = work / "arm64"
    unpack_arm64(root)
    inside = carry(kit, root / "kit")
    cpuinfo = work / "cpuinfo"
    cpuinfo.write_text("".join(CPUINFO.format(n) for n in range(os.cpu_count() or 1)))
    shell = ["env", f"QEMU_CPU={CPU}", "unshare", "--net", "proot", "-q", "qemu-aarch64-static", "-r", str(root.resolve())]
    shell += ["-b", "/proc", "-b", "/dev", "-b", "/sys", "-b", f"{cpuinfo}:/proc/cpuinfo", "-w", "/kit"]
    machine = run(*shell, "/usr/bin/python3", "-c", "import platform; print(platform.machine())")[0].strip()
    if machine != "aarch64":
        sys.exit(f"the emulated machine is {machine}")
    return {"machine": machine, **install_and_run(inside, [*shell, "/bin/sh"], options)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A kit where there is no network.")
    parser.add_argument("--work", type=Path, default=Path("build/kit-check"))
    parser.add_argument("--emulate", action="store_true", help="the aarch64 kit too, under qemu")
    parser.add_argument("--only-emulate", action="store_true", help="the aarch64 kit alone")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--out", type=Path, help="write the findings here as JSON")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bundle = work / f"{args.target}-{args.scheme}"
    if not bundle.exists():
        skinedge("export", "--target", args.target, "--scheme", args.scheme, "--out", bundle, "--unverified")
    found: dict[str, object] = {"host": f"{platform.machine()}, Python {platform.python_version()}", "bundle": bundle.name}
    bench = ["--suite", "quick"]
    if not args.only_emulate:
        kit, seconds = make_kit(work, bundle, "kit-here", "--device", "workstation-ddr4-3200")
        found["here"] = {"made_s": seconds and round(seconds, 1), **offline_here(kit, work, bench)}
        print(json.dumps(found["here"], indent=1), flush=True)
    if args.emulate or args.only_emulate:
        device = ("--device", "jetson-agx-orin-64gb", "--python", ROOT_PYTHON)
        kit, seconds = make_kit(work, bundle, "kit-aarch64", *device)
        found["emulated"] = {"made_s": seconds and round(seconds, 1), **emulated(kit, work, ["--no-bench"])}
        print(json.dumps(found["emulated"], indent=1), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
