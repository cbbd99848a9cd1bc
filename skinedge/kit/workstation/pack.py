"""Write ``workstation.pyz``: this package and what it imports of skinedge, in one file that Python runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import skinedge

_ROOT = Path(skinedge.__file__).parent
_ENTRY = "import sys\nsys.dont_write_bytecode = True\nfrom skinedge.kit.workstation import __main__\n"
_PARTS = (
    "__init__.py", "kit/__init__.py", "kit/install.py", "clinic/__init__.py", "clinic/locks.py", "clinic/places.py",
    "clinic/page/icon.svg",
)  # fmt: skip


def pack(path: Path) -> None:
    """The same source gives the same bytes."""
    own = sorted(p.relative_to(_ROOT).as_posix() for p in (_ROOT / "kit" / "workstation").glob("*.py") if p.name != "pack.py")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), _ENTRY)
        for name in (*_PARTS, *own):
            archive.writestr(zipfile.ZipInfo(f"skinedge/{name}"), (_ROOT / name).read_bytes())
