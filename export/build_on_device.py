"""Build a bundle's TensorRT engines on the device that will run them.

Usage: python -m export.build_on_device BUNDLE --out NEW [--library tensorrt]

An engine of classic TensorRT belongs to the GPU it was built on.  This reads a ``trt`` bundle made anywhere,
verifies it, builds new plans from its ONNX side with the device's own library, and writes a new bundle whose
lineage names the old one.  A kit (``skinedge kit``) does the same when it is run (``skinedge.kit.rebuild``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from skinedge.console import report_error, say
from skinedge.errors import SkinedgeError
from skinedge.kit.rebuild import rebuild


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.build_on_device", description="Build a bundle's engines here.")
    parser.add_argument("bundle", type=Path, help="a trt bundle, made anywhere")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--library", help="tensorrt (JetPack, CUDA) or tensorrt_rtx; by default what fits this machine")
    args = parser.parse_args(arguments)
    try:
        rebuilt = rebuild(args.bundle, args.out, args.library)
    except SkinedgeError as error:
        report_error(error, as_json=False)
        return error.exit_code
    say(f"{args.out}: {rebuilt.lineage[-1].note}. Next: skinedge run {args.out} PHOTOGRAPH")
    return 0


if __name__ == "__main__":
    sys.exit(main())
