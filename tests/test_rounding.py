"""Rounding to four bits: never worse than nearest, better where inputs are correlated, and the same on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinedge.calibration.statistics import LinearInputs
from skinedge.errors import CalibrationError, UsageError
from skinedge.graph.builder import GraphBuilder
from skinedge.graph.files import write_graphs
from skinedge.quantize import int4, int4_b64, int4_b128, int4a, int4a_b64, int4a_b128
from skinedge.quantize._rounding import METHODS, NEAREST, Grid, Rounding, choose, rounder
from skinedge.quantize._storage import StoredMatrix, StoredTensor
from skinedge.registry import load
from skinedge.weights.source import F16, F32, Float32, MemorySource
from skinedge.weights.stream import HashingFile, Quiet, write_payloads

SCHEMES = {"int4": int4, "int4_b64": int4_b64, "int4_b128": int4_b128}
SCHEMES |= {"int4a": int4a, "int4a_b64": int4a_b64, "int4a_b128": int4a_b128}


def given_inputs(width: int, *, block: int | None = None, seed: int = 0) -> LinearInputs:
    """Correlated inputs of very different size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((512, width)) @ (
        np.diag(np.exp(rng.standard_normal(width))) + 0.1 * rng.standard_normal((width, width))
    )
    x = x.astype(F32)
    b = block or width
    moment = np.stack([x[:, k : k + b].T @ x[:, k : k + b] / len(x) for k in range(0, width, b)])
    return LinearInputs(len(x), np.square(x).mean(0), np.abs(x).max(0), moment)


def read(stored: StoredTensor) -> bytes:
    return b"".join(part().tobytes() for part in stored.payload.parts)


def restore(matrix: StoredMatrix) -> Float32:
    """``[out, in]``, from the stored bytes alone."""
    return matrix.restore().T


def output_error(weights: Float32, found: Float32, moment: Float32) -> float:
    """Mean squared change of the outputs; ``[out, in]`` matrices."""
    difference = (weights - found).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", difference, moment, difference, optimize=True))


blocks = hnp.arrays(F32, (32, 3), elements=st.floats(-100, 100, width=32, allow_subnormal=False))
weighing = hnp.arrays(F32, 32, elements=st.floats(0, 1000, width=32, allow_subnormal=False))


@settings(max_examples=60, deadline=None)
@given(blocks, weighing, st.booleans(), st.sampled_from([F16, F32]))
def test_scale_search_is_never_worse_than_nearest(
    weights: Float32, importance: Float32, asymmetric: bool, dtype: np.dtype[np.generic]
) -> None:
    grid, inputs = Grid(32, asymmetric, dtype), LinearInputs(1, importance, importance)
    errors = []
    for rounding in (NEAREST, Rounding("scale", inputs)):
        found = rounder(grid, rounding, slice(0, 32), "w")(weights)
        assert (found.scales.astype(F32) > 0).all()
        assert found.values.min() >= grid.low
        assert found.values.max() <= grid.high
        errors.append((np.square(weights - found.restore()) * importance[:, None]).sum(0, dtype=np.float64))
    assert (errors[1] <= errors[0] * (1 + 1e-4) + 1e-20).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_each_rounding_beats_the_one_before_on_correlated_inputs(name: str) -> None:
    weights = np.random.default_rng(1).standard_normal((64, 256)).astype(F32)
    inputs = given_inputs(256)
    assert inputs.second_moment is not None
    source = MemorySource({"w": weights})
    found = [restore(SCHEMES[name].store(source, "w", "f32", Rounding(method, inputs))) for method in METHODS]
    nearest, scale, gptq = (output_error(weights, f, inputs.second_moment[0]) for f in found)
    assert scale < 0.9 * nearest
    assert gptq < 0.8 * scale


@pytest.mark.parametrize("name", ["f32", "int8", "fp8", "nvfp4", *SCHEMES])
def test_what_is_left_of_a_matrix_is_what_a_graph_multiplies_with(name: str, tmp_path: Path) -> None:
    """Production's own reading of its bytes against the reference implementation of ONNX."""
    reference = pytest.importorskip("onnx.reference")
    weights = np.random.default_rng(2).standard_normal((48, 256)).astype(F32)
    weights[5] = 0
    stored = load("quantize", "scheme", name).store(MemorySource({"w": weights}), "w", "f32", NEAREST)
    g = GraphBuilder("product")
    g.output(g.matmul(g.input("x", "FLOAT", [1, "N", 256]), stored), "y", "FLOAT", [1, "N", 48])
    write_graphs(tmp_path, [g.finish()], Quiet())
    evaluator = reference.ReferenceEvaluator(str(tmp_path / "product.onnx"))
    (found,) = evaluator.run(None, {"x": np.eye(256, dtype=F32)[None]})
    np.testing.assert_array_equal(found[0], stored.restore())
    parts = (stored.values, stored.scales, stored.zero_points, stored.outer)
    assert stored.nbytes == sum(len(read(part)) for part in parts if part)


@pytest.mark.parametrize("moment_block", [32, 64, 96, 192])
def test_second_moments_in_blocks_of_any_width(moment_block: int) -> None:
    """Blocks of 64 channels may straddle those of the moments: both are then solved together."""
    weights = np.random.default_rng(2).standard_normal((32, 192)).astype(F32)
    inputs = given_inputs(192, block=moment_block)
    matrix = int4_b64.store(MemorySource({"w": weights}), "w", "f32", Rounding("gptq", inputs))
    plain = int4_b64.store(MemorySource({"w": weights}), "w", "f32")
    moment = given_inputs(192).second_moment
    assert moment is not None
    assert output_error(weights, restore(matrix), moment[0]) < output_error(weights, restore(plain), moment[0])


@pytest.mark.parametrize("method", METHODS)
def test_one_sided_blocks_use_the_whole_asymmetric_range(method: str) -> None:
    weights = np.random.default_rng(3).uniform(0.5, 1.5, (8, 64)).astype(F32)
    inputs = given_inputs(64)
    one, two = (s.store(MemorySource({"w": weights}), "w", "f32", Rounding(method, inputs)) for s in (int4, int4a))
    errors = [float(np.square(weights - restore(m)).mean()) for m in (one, two)]
    assert errors[1] < 0.6 * errors[0]
    assert two.values.onnx_type == "UINT4"
    assert two.zero_points is not None
    assert two.zero_points.onnx_type == "UINT4"
    assert (two.zero_points.values() == 0).all() or method == "gptq"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCHEMES)
def test_zero_and_constant_rows(name: str, method: str) -> None:
    weights = np.zeros((6, 256), F32)
    weights[2], weights[3], weights[4, 7] = 0.25, -3.0, 1.0
    found = restore(SCHEMES[name].store(MemorySource({"w": weights}), "w", "f32", Rounding(method, given_inputs(256))))
    assert (found[[0, 1, 5]] == 0).all()
    assert np.abs(found - weights).max() < 0.2
    assert np.isfinite(found).all()


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_were_never_anything(method: str) -> None:
    weights = np.random.default_rng(4).standard_normal((4, 64)).astype(F32)
    zero = np.zeros(64, F32)
    nothing = LinearInputs(9, zero, zero, np.zeros((1, 64, 64), F32))
    found = restore(int4.store(MemorySource({"w": weights}), "w", "f32", Rounding(method, nothing)))
    assert np.abs(found - weights).max() < 0.5


@pytest.mark.parametrize(
    ("width", "outputs", "asked", "got"),
    [(256, 4, "int4_b128", "int4_b128"), (192, 4, "int4_b128", "int4_b64"), (96, 4, "int4a_b128", "int4a"),
     (40, 4, "int4", "f32"), (128, 3, "int4a_b64", "f32")],
)  # fmt: skip
def test_what_is_stored_where_a_block_does_not_fit(width: int, outputs: int, asked: str, got: str) -> None:
    matrix = SCHEMES[asked].store(MemorySource({"w": np.ones((outputs, width), F32)}), "w", "f32")
    assert matrix.scheme == got
    assert matrix.values.shape == (width, outputs)


def test_bits_are_the_bytes_written() -> None:
    weights = np.random.default_rng(5).standard_normal((10, 256)).astype(F32)
    for name, scheme in SCHEMES.items():
        matrix = scheme.store(MemorySource({"w": weights}), "w", "f16")
        assert matrix.scheme == name
        payloads = [t.payload for t in (matrix.values, matrix.scales, matrix.zero_points) if t]
        assert sum(len(part().tobytes()) for p in payloads for part in p.parts) == sum(p.nbytes for p in payloads)
        assert sum(p.nbytes for p in payloads) * 8 == matrix.bits * weights.size


@pytest.mark.parametrize("method", METHODS)
def test_bytes_do_not_depend_on_workers_or_on_where_an_export_went_on(method: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(6).standard_normal((64, 512)).astype(F32)
    rounding, source = Rounding(method, given_inputs(512, block=128)), MemorySource({"w": weights})
    for workers in (1, 3):
        matrix = int4a.store(source, "w", "f32", rounding)
        assert matrix.zero_points is not None
        with (tmp_path / str(workers)).open("wb") as f:
            placed = [(0, matrix.values.payload)]
            for tensor in (matrix.scales, matrix.zero_points):
                assert tensor is not None
                placed.append((placed[-1][0] + placed[-1][1].nbytes, tensor.payload))
            write_payloads(HashingFile(f), placed, Quiet(), workers)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
    again = int4a.store(source, "w", "f32", rounding)
    assert again.zero_points is not None
    assert (tmp_path / "1").read_bytes().endswith(read(again.zero_points)), "without its values having been asked for"


SOLVE = """
import hashlib, sys, numpy as np
from io import BytesIO
from test_rounding import MemorySource
from skinedge.calibration.statistics import LinearInputs
from skinedge.quantize import int4a
from skinedge.quantize._rounding import Rounding
from skinedge.weights.stream import HashingFile, Quiet, write_payloads
weights, moment = (np.load(path) for path in sys.argv[1:])
inputs = LinearInputs(1, np.diag(moment[0]).copy(), np.diag(moment[0]).copy(), moment)
out = HashingFile(BytesIO())
stored = int4a.store(MemorySource({"w": weights}), "w", "f16", Rounding("gptq", inputs))
write_payloads(out, [(0, stored.values.payload)], Quiet())
print(out.hexdigest())
"""


def test_bytes_do_not_depend_on_the_threads_of_the_linear_algebra(tmp_path: Path) -> None:
    moment = given_inputs(384).second_moment
    assert moment is not None
    np.save(tmp_path / "moment.npy", moment)
    np.save(tmp_path / "weights.npy", np.random.default_rng(7).standard_normal((256, 384)).astype(F32))
    found = []
    for threads in ("1", "2"):
        counts = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        path = os.pathsep.join((str(Path(__file__).parents[1]), str(Path(__file__).parent)))
        command = [sys.executable, "-c", SOLVE, str(tmp_path / "weights.npy"), str(tmp_path / "moment.npy")]
        environment = {**os.environ, **counts, "PYTHONPATH": path}
        found.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert found[0] == found[1]


def test_the_best_that_the_statistics_allow() -> None:
    full = given_inputs(64)
    plain = LinearInputs(full.rows, full.mean_square, full.peak)
    assert [choose(None, inputs, "w", 64).method for inputs in (None, plain, full)] == ["nearest", "scale", "gptq"]
    assert choose("nearest", full, "w", 64).method == "nearest"
    with pytest.raises(UsageError, match="rounding by gptq needs the second moments of the inputs of 'w'") as refused:
        choose("gptq", plain, "w", 64)
    assert "skinedge calibrate --second-moments" in refused.value.hint
    with pytest.raises(UsageError, match="rounding by scale needs the mean squares") as refused:
        choose("scale", None, "w", 64)
    assert "skinedge calibrate --model" in refused.value.hint
    with pytest.raises(UsageError, match="unknown rounding 'gptp'"):
        choose("gptp", full, "w", 64)
    with pytest.raises(CalibrationError, match="64 inputs of 'w' and the weight has 96"):
        choose(None, full, "w", 96)
