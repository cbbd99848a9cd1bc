"""A model whose values leave the range of f16 answers all the same, if the export is told by a survey where they do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from command_line import typed

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, known_targets, load_target, verify
from skinedge.calibration.overflow_report import LIMITS, OverflowReport, Reach
from skinedge.calibration.samples import SampleMaker
from skinedge.calibration.triggers import TRIGGERS, trigger
from skinedge.errors import CalibrationError, MissingDependencyError, UsageError
from skinedge.graph.precision import Precision, part_of, places, widest
from skinedge.manifest import Manifest
from skinedge.model.config import read_config
from skinedge.model.tiny import Size, make_model
from skinedge.runtime.embedding import EmbeddingTable
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.ort import OrtSession
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.session import ImageEncoding, Pixels, Session
from skinedge.runtime.windows import vision_feeds
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.safetensors import SafetensorsFile, save
from skinedge.weights.source import BF16, F32, Array

pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx").helper

SIZE = Size(
    vocab=512, hidden=256, intermediate=512, layers=2, vision_hidden=64, vision_intermediate=172, vision_depth=2,
    vision_heads=2, vision_full=(1,),
)  # fmt: skip
CONTEXT = 256
V, L = "visual.blocks", "model.layers"


@dataclass(frozen=True)
class Case:
    """Tensors to multiply, all of whose weights stay in the range of f16, and the places that then overflow."""

    factors: Mapping[str, float]
    places: frozenset[str]


STREAMS = {f"{L}.0", f"{L}.1"}
CASES = {
    # As in the field: one matrix of the vision tower, whose values the stream then carries to the merger.
    "vision stream": Case({f"{V}.0.mlp.down_proj.weight": 1e5}, frozenset({f"{V}.0.mlp", f"{V}.0", f"{V}.1"})),
    "inside a vision MLP": Case(
        {f"{V}.1.mlp.up_proj.weight": 1e5, f"{V}.1.mlp.down_proj.weight": 1e-5}, frozenset({f"{V}.1.mlp"})
    ),
    "vision values": Case(
        {f"{V}.0.attn.v": 1e5, f"{V}.0.attn.proj.weight": 1e-5}, frozenset({f"{V}.0.attn", f"{V}.0.attn.heads"})
    ),
    "patches": Case({"visual.patch_embed.proj.weight": 1e5}, frozenset({"visual.patch_embed", f"{V}.0", f"{V}.1"})),
    "features": Case({"visual.merger.mlp.2.weight": 1e5}, frozenset({"visual.merger", "model.embed_tokens", *STREAMS})),
    "decoder stream": Case({f"{L}.0.mlp.down_proj.weight": 1e5}, frozenset({f"{L}.0.mlp", *STREAMS})),
    "decoder values": Case(
        {f"{L}.1.self_attn.v_proj.weight": 1e5, f"{L}.1.self_attn.o_proj.weight": 1e-5},
        frozenset({f"{L}.1.self_attn", f"{L}.1.self_attn.heads"}),
    ),
    "logits": Case({"lm_head.weight": 6e4}, frozenset({"lm_head"})),
}


def make_overflowing(folder: Path, factors: Mapping[str, float]) -> AdapterCheckpoint:
    """A tiny model with some tensors multiplied; ``….attn.v`` is the third of a ``qkv`` that makes the values."""
    model = make_model(folder, SIZE, shards=1)
    (path,) = model.glob("*.safetensors")
    file = SafetensorsFile(path)
    arrays: dict[str, Array] = {n: np.array(file.read(n)).reshape(file.spec(n).shape) for n in file.names()}
    del file
    for name, factor in factors.items():
        whole = arrays[name.removesuffix(".v") + (".qkv.weight" if name.endswith(".v") else "")]
        part = whole[2 * len(whole) // 3 :] if name.endswith(".v") else whole
        part[:] = (part.astype(F32) * F32.type(factor)).astype(BF16)
        assert np.abs(part.astype(F32)).max() < LIMITS["f16"], "its weights would be refused already"
    save(path, arrays)
    return AdapterCheckpoint.find(model)


def checkerboard(model: Path) -> Pixels:
    """The picture of REFERENCE section 5, cut to a size that a test has time for."""
    return to_pixels(trigger("checkerboard-56", 224, 168), read_processor_config(model))


def surveyed(source: AdapterCheckpoint, margin: float = 1.0) -> OverflowReport:
    """The report on the checkerboard."""
    pytest.importorskip("transformers")
    from skinedge.calibration.overflow import survey

    checkpoint, pixels = open_checkpoint(source.path, source.adapters), checkerboard(source.path)
    sample = SampleMaker(source.path, checkpoint.config).sample(ask(), (pixels.grid,), (lambda: pixels,), answer=False)
    reaches = survey(checkpoint, {"checkerboard-56": sample})
    return OverflowReport(source.digest, margin, ("checkerboard-56",), reaches)


def answer(session: Session, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of every position on the checkerboard, and of three steps more."""
    pixels = checkerboard(model)
    image = session.encode_image(pixels)
    prompt = PromptBuilder.from_folder(model, read_config(model)).build(ask(), [pixels.grid])
    logits = session.prefill(prompt, [image], all_positions=True)
    logits = np.concatenate([logits, np.stack([session.step(token) for token in (7, 300, 11)])])
    session.close()
    return image.features, logits


def answer_strictly(bundle: Path, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of every position, each node in its own type.

    ONNX Runtime has few f16 kernels for a CPU: it computes the others in f32 and rounds only where two kinds meet.
    """
    from onnx.reference import ReferenceEvaluator

    def run(name: str, feeds: Mapping[str, Array], output: str) -> np.ndarray:
        evaluator = ReferenceEvaluator(str(bundle / f"{name}.onnx"))
        types = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in evaluator.proto_.graph.input}
        with np.errstate(all="ignore"):
            return evaluator.run([output], {n: v.astype(types[n]) for n, v in feeds.items()})[0]

    config, pixels = read_config(model), checkerboard(model)
    features = run("vision", vision_feeds(pixels, config.vision), "image_features")
    prompt = PromptBuilder.from_folder(model, config).build(ask(), [pixels.grid])
    embeds = EmbeddingTable(bundle, config).mix(prompt.token_ids, [ImageEncoding(pixels.grid, features, None, None)])
    text, count = config.text, len(embeds)
    cache = np.zeros((1, text.num_kv_heads, count, text.head_dim), F32)
    feeds = {f"past.{i}.{kind}": cache for i in range(text.num_layers) for kind in ("key", "value")}
    feeds |= {
        "inputs_embeds": embeds[None],
        "position_ids": prompt.positions,
        "start": np.zeros(1),
        "hidden_index": np.arange(count),
    }
    hidden = run("decoder", feeds, "hidden")
    return features, run("head", {"hidden": hidden, "logit_bias": np.zeros((1, text.vocab_size))}, "logits")[0]


def opened(bundle: Path) -> OrtSession:
    return OrtSession(bundle, read_config(bundle), threads=1, device="cpu")


def apart(truth: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference, in standard deviations of the truth."""
    return float(np.abs(truth - ours).max() / truth.std())


@pytest.mark.parametrize("name", CASES)
def test_what_overflows_is_computed_in_float32_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = make_overflowing(tmp_path / "model", case.factors)
    report = surveyed(source)
    assert set(places(report.offending("f16"))) == case.places
    exact = answer(opened(export(source, "onnx", ExportOptions("f32"), tmp_path / "f32").path), source.path)
    narrow = answer_strictly(export(source, "onnx", ExportOptions("f16"), tmp_path / "f16").path, source.path)
    assert not all(np.isfinite(values).all() for values in narrow), "f16 holds this model without help"
    bundle = export(source, "onnx", ExportOptions("f16", overflow=report), tmp_path / "wide").path
    for wide in (answer(opened(bundle), source.path), answer_strictly(bundle, source.path)):
        for truth, ours in zip(exact, wide, strict=True):
            assert apart(truth[: len(ours)], ours) < 0.03
    manifest = verify(bundle)
    assert set(manifest.details["wide"]) == case.places
    kept = {n for n, a in manifest.applied.items() if a.scheme == "f32"}
    assert {part_of(n) for n in kept if "norm" not in n and "ln_q" not in n} == {
        p for p in case.places if p.split(".")[-1] in ("attn", "self_attn", "mlp", "patch_embed", "merger", "lm_head")
    }


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantized_weights_multiply_wide_activations(scheme: str, tmp_path: Path) -> None:
    """A model with f16 between quantized weights; against the same weights with f32 between them."""
    source = make_overflowing(tmp_path / "model", CASES["vision stream"].factors | CASES["decoder stream"].factors)
    options = ExportOptions(scheme, activations="f16")
    exact = answer(opened(export(source, "onnx", ExportOptions(scheme), tmp_path / "f32").path), source.path)
    narrow = answer_strictly(export(source, "onnx", options, tmp_path / "f16").path, source.path)
    assert not np.isfinite(narrow[0]).all()
    bundle = export(source, "onnx", replace(options, overflow=surveyed(source)), tmp_path / "wide").path
    for truth, ours in zip(exact, answer(opened(bundle), source.path), strict=True):
        assert apart(truth, ours) < 0.2  # the scales of the narrow parts are f16, which moves integers by a step
    assert {a.scheme for n, a in verify(bundle).applied.items() if "down_proj.weight" in n} <= {scheme, "int8"}


def test_without_anything_to_widen_the_graphs_are_the_same(tmp_path: Path) -> None:
    """A report that finds nothing, or activations that hold everything, change no byte of a graph."""
    source = make_overflowing(tmp_path / "model", {})
    report = surveyed(source)
    assert report.offending("f16") == ()
    loud = replace(report, reaches=tuple(replace(r, peak=1e6) for r in report.reaches))
    for scheme, asked in (("f16", report), ("f32", loud), ("bf16", loud)):
        plain = export(source, "onnx", ExportOptions(scheme), tmp_path / f"{scheme}-plain").path
        told = export(source, "onnx", ExportOptions(scheme, overflow=asked), tmp_path / f"{scheme}-told").path
        assert "wide" not in verify(told).details
        for path in plain.glob("*.onnx*"):
            assert path.read_bytes() == (told / path.name).read_bytes(), path.name


# --- every target -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> AdapterCheckpoint:
    """A model that overflows in every kind of place."""
    factors = {
        f"{V}.0.mlp.down_proj.weight": 1e5, f"{V}.0.attn.v": 1e5, f"{V}.0.attn.proj.weight": 1e-5,
        f"{L}.0.mlp.down_proj.weight": 1e5, f"{L}.1.self_attn.v_proj.weight": 1e5, f"{L}.1.self_attn.o_proj.weight": 1e-5,
    }  # fmt: skip
    return make_overflowing(tmp_path_factory.mktemp("overflowing") / "model", factors)


@pytest.fixture(scope="module")
def report(overflowing: AdapterCheckpoint) -> OverflowReport:
    return surveyed(overflowing)


def check_onnx(manifest: Manifest, folder: Path) -> None:
    wide = manifest.details["wide"]
    assert {w["kind"] for w in wide.values()} == {"f32"}
    assert {f"{V}.0", f"{V}.0.mlp", f"{V}.0.attn.heads", f"{L}.0", f"{L}.1.self_attn.heads"} <= set(wide)
    assert manifest.applied[f"{V}.0.mlp.down_proj.weight"].scheme == "f32"
    assert manifest.applied[f"{V}.1.mlp.down_proj.weight"].scheme == "f16"


def check_trt(manifest: Manifest, folder: Path) -> None:
    """TensorRT has no attention in f32: its heads have the range of bf16, and the plan holds a wide and narrow caches."""
    wide = manifest.details["wide"]
    assert {place: w["kind"] for place, w in wide.items() if place.endswith(".heads")} == {
        f"{V}.0.attn.heads": "bf16", f"{L}.1.self_attn.heads": "bf16",
    }  # fmt: skip
    assert {w["kind"] for place, w in wide.items() if not place.endswith(".heads")} == {"f32"}
    inputs = {t["name"]: t["dtype"] for t in manifest.details["plans"]["decoder.plan"]["inputs"]}
    assert (inputs["past.0.key"], inputs["past.1.key"], inputs["inputs_embeds"]) == ("HALF", "BF16", "HALF")


def check_gguf(manifest: Manifest, folder: Path) -> None:
    wide = manifest.details["wide"]
    assert {f"{V}.0.mlp.down_proj.weight", f"{V}.0.attn.heads", f"{L}.1.self_attn.heads"} <= set(wide)
    assert manifest.applied["v.blk.0.ffn_down.weight"].scheme == "f32"
    assert manifest.applied["v.blk.1.ffn_up.weight"].scheme == "f16"


CHECKS: dict[str, Callable[[Manifest, Path], None]] = {"onnx": check_onnx, "trt": check_trt, "gguf": check_gguf}


@pytest.mark.parametrize("target", known_targets())
def test_every_target_keeps_it_wide_and_says_so_or_refuses(
    target: str, overflowing: AdapterCheckpoint, report: OverflowReport, tmp_path: Path
) -> None:
    scheme = "f16" if "f16" in load_target(target).SCHEMES else load_target(target).DEFAULT_SCHEME
    options = ExportOptions(scheme, context=CONTEXT, overflow=report)
    if target not in CHECKS:
        with pytest.raises(UsageError, match=r"has no activations that could overflow") as e:
            export(overflowing, target, options, tmp_path / "b")
        assert e.value.hint == "Leave --overflow out."
        return
    try:
        bundle = export(overflowing, target, options, tmp_path / "b").path
    except MissingDependencyError as e:
        pytest.skip(str(e))
    manifest = verify(bundle)
    CHECKS[target](manifest, bundle)
    shown = typed("show", bundle).out.splitlines()
    for name, why in manifest.details["wide"].items():
        assert f"  wide     {name} in {why['kind']}: {why['why']}" in shown
        assert "on checkerboard-56" in why["why"]


def test_llama_cpp_sees_what_it_could_not(overflowing: AdapterCheckpoint, report: OverflowReport, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from skinedge.errors import TargetError
    from skinedge.targets import gguf
    from skinedge.targets._contract import OpenOptions

    def asked(options: ExportOptions, name: str) -> tuple[np.ndarray, np.ndarray]:
        bundle = export(overflowing, "gguf", options, tmp_path / name).path
        session = gguf.open_session(bundle, verify(bundle), OpenOptions(threads=1, context=512, device="cpu"))
        return answer(session, overflowing.path)

    with pytest.raises(TargetError, match="are not finite numbers: 16-bit floats overflowed"):
        asked(ExportOptions("f16"), "narrow")
    exact = answer(opened(export(overflowing, "onnx", ExportOptions("f32"), tmp_path / "f32").path), overflowing.path)
    for truth, ours in zip(exact, asked(ExportOptions("f16", overflow=report), "wide"), strict=True):
        assert apart(truth, ours) < 0.03


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "nvfp4"])
def test_tensorrt_builds_plans_of_mixed_types(
    scheme: str, overflowing: AdapterCheckpoint, report: OverflowReport, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    bundle = export(overflowing, "trt", ExportOptions(scheme, context=CONTEXT, overflow=report), tmp_path / "b").path
    check_trt(verify(bundle), bundle)


# --- the report ---------------------------------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_written(report: OverflowReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert OverflowReport.read(path) == report


def test_a_report_of_another_model_is_refused(report: OverflowReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    done = typed("export", "-t", "onnx", "-s", "f16", "--overflow", path, "--out", tmp_path / "b")
    assert done.code == 1
    assert f"the overflow report was made of another checkpoint (digest {report.model[:16]})" in done.err
    assert "Give skinedge overflow the same --model and --adapter as skinedge export." in done.err
    assert not (tmp_path / "b").exists()


def test_values_that_no_float_type_holds_are_refused(report: OverflowReport) -> None:
    mad = replace(report, reaches=(*report.reaches, Reach(f"{V}.0.mlp.up_proj.weight", "output", float("inf"), "noise")))
    json.loads(mad.to_json())
    with pytest.raises(CalibrationError, match=rf"no float type is wide enough for this model: the output of {V}\.0\.mlp\.up_"):
        mad.check(report.model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not an overflow report of skinedge"),
        ("[]", "is not an overflow report of skinedge"),
        ('{"schema_version": 2}', "its schema is of another version"),
        ('{"schema_version": 1, "model": "m", "margin": 1, "pictures": [], "reaches": [{}]}', "is not an overflow report"),
        (
            '{"schema_version": 1, "model": "m", "margin": 1, "pictures": [],'
            ' "reaches": [{"layer": "a", "place": "above", "peak": 1, "picture": "x"}]}',
            "'above' is no place of a layer",
        ),
        (
            '{"schema_version": 1, "model": "m", "margin": 1, "pictures": [],'
            ' "reaches": [{"layer": "a", "place": "input", "peak": "much", "picture": "x"}]}',
            "'much' is no size of a value",
        ),
        ('{"schema_version": 1, "model": "m", "margin": NaN, "pictures": [], "reaches": []}', "'nan' is no size of a value"),
    ],
)
def test_a_file_that_is_no_report_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as e:
        OverflowReport.read(tmp_path / "r.json")
    assert e.value.hint == "Make one: skinedge overflow --out report.json"
    with pytest.raises(UsageError, match=r"none\.json cannot be read: No such file"):
        OverflowReport.read(tmp_path / "none.json")


def test_a_photographs_name_stays_out_of_a_bundle() -> None:
    assert "Mrs Jones" not in Reach("visual.merger", "residual", 1e6, "Mrs Jones.jpg").reason()
    assert Reach("visual.merger", "residual", 1e6, TRIGGERS[0]).reason() == (
        f"the residual stream of visual.merger reaches 1e+06 on {TRIGGERS[0]}"
    )


def test_places_around_a_reach() -> None:
    def around(layer: str, place: str) -> set[str]:
        return set(places([Reach(layer, place, 1e6, "noise")]))

    assert around(f"{V}.3", "residual") == {f"{V}.3"}
    assert around("model.norm", "residual") == {"lm_head"}
    assert around("visual.merger", "residual") == {"visual.merger", "model.embed_tokens"}
    assert around(f"{L}.3.self_attn.k_proj.weight", "output") == {f"{L}.3.self_attn", f"{L}.3.self_attn.heads"}
    assert around(f"{L}.3.self_attn.k_proj.weight", "input") == {f"{L}.3.self_attn"}
    assert around(f"{L}.3.self_attn.o_proj.weight", "output") == {f"{L}.3.self_attn", f"{L}.3"}
    assert around(f"{L}.3.self_attn.o_proj.weight", "input") == {f"{L}.3.self_attn", f"{L}.3.self_attn.heads"}
    assert around(f"{V}.3.mlp.down_proj.weight", "input") == {f"{V}.3.mlp"}
    with pytest.raises(UsageError, match=r"'garbage\.weight' is no layer of a Qwen2\.5-VL"):
        around("garbage.weight", "input")


def test_the_type_of_a_place() -> None:
    wide = {p: Reach(p, "residual", 1e6, "noise") for p in (f"{L}.0.self_attn", f"{L}.0.self_attn.heads")}
    precision = Precision("f16", wide, heads_kind="bf16")
    assert precision.of(f"{L}.0.self_attn.heads") == "bf16"
    assert precision.part(f"{L}.0.self_attn.qkv_proj.weight") == "f32"
    assert precision.part(f"{L}.0.mlp.down_proj.weight") == precision.of(f"{L}.0") == "f16"
    assert widest("f16", "bf16") == widest("bf16", "f16") == "bf16"
    assert widest("f32", "f16") == "f32"
