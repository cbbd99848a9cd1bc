"""A report in a real browser: screenshots and print to look at, accessibility, and every request it makes.

Usage: python benchmarks/report_check.py report.html --out build/report-check

Needs Chromium (apt-get install chromium) and node; playwright-core and axe-core are installed by npm under build/node.
Exits 1 if the page asks the network for anything, breaks a rule of axe, logs an error or is wider than the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NODE = HERE.parent / "build" / "node"


def check(page: Path, out: Path, browser: str) -> dict[str, object]:
    """Open ``page`` as a desktop and a phone do; pictures and a PDF go to ``out``."""
    if not (NODE / "node_modules" / "axe-core").is_dir():
        subprocess.run(["npm", "install", "--silent", "--prefix", str(NODE), "playwright-core", "axe-core"], check=True)
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NODE_PATH": str(NODE / "node_modules")}
    command = ["node", str(HERE / "report_browser.mjs"), str(page), str(out), browser]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def faults(found: dict[str, object]) -> list[str]:
    """What the page must not do, in words."""
    axe, widths = found["axe"], found["widths"]
    assert isinstance(axe, dict)
    assert isinstance(widths, dict)
    return [
        *(f"requested {url}" for url in found["requests"]),  # type: ignore[attr-defined]
        *(f"console: {text}" for text in found["console"]),  # type: ignore[attr-defined]
        *(f"{name}: axe {rule['id']}" for name, report in axe.items() for rule in report["violations"]),
        *(f"{name}: {width} px wide on {screen}" for name, (width, screen) in widths.items() if width > screen),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="A report in a real browser.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/report-check"))
    args = parser.parse_args()
    browser = shutil.which("chromium")
    if not browser:
        print("there is no chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    found = check(args.page, args.out, browser)
    bad = faults(found)
    for name, report in found["axe"].items():  # type: ignore[attr-defined]
        unsure = ", ".join(f"{r['id']} ({len(r['nodes'])})" for r in report["incomplete"]) or "none"
        print(f"{name}: {report['passes']} rules of axe kept, {len(report['violations'])} broken, left to a person: {unsure}")
    print("\n".join(bad) or f"no request, no message, nothing wider than the screen; look at the pictures in {args.out}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
