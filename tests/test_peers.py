"""What the scripts of ``benchmarks/peers`` rest on: peers get our weights, and theirs are read back as they meant them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("psutil")  # Linux only, like the figures

from benchmarks.peers.genai_weights import read_matrices
from benchmarks.peers.onnx_exporters import EXPORTERS, Exporter, compare
from benchmarks.peers.text_half import write_text_half
from skinedge.model.config import read_config

TOKENS = [[5, 900, 31, 7, 1200, 44]]


def test_the_language_half_says_what_the_whole_model_says(tiny_model: Path, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    half = write_text_half(tiny_model, tmp_path / "half")
    whole = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    plain, told = transformers.Qwen2ForCausalLM.from_pretrained(half, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told
    with torch.no_grad():
        wanted, found = (m(input_ids=torch.tensor(TOKENS)).logits for m in (whole, plain))
    assert torch.equal(wanted.argmax(-1), found.argmax(-1))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "zero_points"), [(4, False), (4, True), (8, False)])
def test_matrices_are_read_back_as_onnx_runtime_multiplies(
    tiny_model: Path, tmp_path: Path, bits: int, zero_points: bool
) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    text = read_config(tiny_model).text
    heads = text.num_heads + 2 * text.num_kv_heads
    outputs, inside, block = heads * text.head_dim, text.hidden_size, 32
    blocks = inside // block
    rng = np.random.default_rng(3)
    constants = {
        "B": rng.integers(0, 256, (outputs, blocks, block * bits // 8), np.uint8),
        "scales": rng.random((outputs, blocks), np.float32),
        "zeros": rng.integers(0, 256, (outputs, -(-blocks * bits // 8)), np.uint8),
    }
    names = list(constants)[: 3 if zero_points else 2]
    make = onnx.helper
    node = make.make_node(
        "MatMulNBits", ["A", *names], ["Y"], name="/model/layers.1/attn/qkv_proj/MatMul_Q4", domain="com.microsoft",
        K=inside, N=outputs, bits=bits, block_size=block, accuracy_level=1,
    )  # fmt: skip
    sides = [make.make_tensor_value_info(n, 1, ["n", size]) for n, size in (("A", inside), ("Y", outputs))]
    graph = make.make_graph([node], "g", sides[:1], sides[1:], [onnx.numpy_helper.from_array(constants[n], n) for n in names])
    opsets = [make.make_opsetid("", 21), make.make_opsetid("com.microsoft", 1)]
    file = tmp_path / "model.onnx"
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=10), file)

    found = read_matrices(file, read_config(tiny_model))
    assert list(found) == [f"model.layers.1.self_attn.{p}_proj.weight" for p in "qkv"]
    inputs = rng.standard_normal((5, inside), np.float32)
    (wanted,) = runtime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"A": inputs})
    ours = inputs @ np.concatenate([m.restore() for m in found.values()]).T
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())


def test_a_node_without_a_place_in_our_model_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node(
        "MatMulNBits", ["A", "B", "S"], ["Y"], name="/model/layers.0/experts/MatMul", K=32, N=1, block_size=32
    )
    given = {"B": np.zeros((1, 1, 16), np.uint8), "S": np.zeros((1, 1), np.float32)}
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in given.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], constants)), tmp_path / "model.onnx")
    with pytest.raises(SystemExit, match=r"no matrix of ours is called '/model/layers.0/experts/MatMul'"):
        read_matrices(tmp_path / "model.onnx", read_config(tiny_model))


@pytest.mark.skipif(sys.platform != "linux", reason="the figures are the Linux kernel's")
def test_an_exporter_is_measured_skipped_or_recorded_with_its_last_words(tmp_path: Path) -> None:
    writes = (
        "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir(); pathlib.Path(sys.argv[1], 'model.onnx').write_bytes(b'x' * 77)"
    )
    good = Exporter("good", "all", (), (sys.executable, "-c", writes, "{out}"), ("numpy",))
    bad = replace(good, name="bad", command=(sys.executable, "-c", "raise SystemExit('no such model: {model}')"))
    absent = next(e for e in EXPORTERS if e.name == "genai")
    rows = compare([good, bad, absent], tmp_path / "peers", tmp_path / "m", tmp_path / "t", tmp_path, rounds=2)
    found = json.loads(json.dumps(rows))
    assert (found["good"]["status"], found["good"]["bytes"], len(found["good"]["rounds"])) == ("measured", 77, 2)
    assert found["good"]["median"]["peak_resident"] > 0
    assert found["bad"]["status"].startswith("failed: ")
    assert f"no such model: {tmp_path / 'm'}" in found["bad"]["status"]
    assert found["genai"]["status"].startswith("skipped: ")
    assert (
        "build/peers/genai/bin/pip install torch==2.13.0; build/peers/genai/bin/pip install onnxruntime-genai"
        in found["genai"]["status"]
    )
