"""skinedge: from an adapter checkpoint to the machine in the consulting room, with proof.

Start with ``skinedge.artifacts``.  Importing this package imports nothing else of it.
"""

from __future__ import annotations

import os

# ONNX Runtime 1.29 and later report every session to Microsoft unless this is set before it is loaded; so nothing of skinedge,
# nor a process that it starts, loads it without.  It also keeps an identifier of the machine in ~/.cache/Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = ["__version__"]
