"""``python workstation.pyz``."""

import sys

if sys.version_info < (3, 8):  # noqa: UP036 (a kit says itself which Python it wants; this is older than any that could read that)
    sys.exit(
        "error: this Python is too old. Install the one that kit.json names, and type: PYTHON=python3.N ./workstation.sh install"
    )

from skinedge.kit.workstation.main import main

sys.exit(main())
