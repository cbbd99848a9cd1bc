"""Nothing that skinedge loads tells anybody of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

CODE = """
import skinedge, numpy, onnxruntime, onnx_ir, sys
from onnx import TensorProto, helper
x = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
model = helper.make_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", x[:1], x[1:]), ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {"x": numpy.ones(1, numpy.float32)})[0] == -1
"""


def test_onnx_runtime_reports_nothing(tmp_path: Path) -> None:
    """From 1.29 on it keeps an identifier of the machine and a database of reports, unless it is told not to."""
    pytest.importorskip("onnxruntime")
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")  # each of them would do
    environment = {k: v for k, v in os.environ.items() if k not in quiet} | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", CODE], env=environment, cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
