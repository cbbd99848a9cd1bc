"""``python -m skinedge``."""

from skinedge.cli import main

main()
