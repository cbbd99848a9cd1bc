"""skinedge: from an adapter checkpoint to the machine in the consulting room, with proof.

Start with ``skinedge.artifacts``.  Importing this package imports nothing else.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
