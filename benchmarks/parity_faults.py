"""Does the comparison find what is wrong, and only that?  Twelve planted faults, and fifty comparisons with nothing planted.

Usage: python -m benchmarks.parity_faults faults [--json FILE]
       python -m benchmarks.parity_faults same [--draws 50] [--pictures 2] [--json FILE]

``faults`` plants each fault in a copy of a bundle of the embedded model, in its files where such a fault can live there, else
around its pipeline or session, and compares the copy with PyTorch on four drawn pictures of awkward sizes and on three of
SynthDerm.  A fault counts as caught if the stage named first is the one that was written down for it before.  ``same``
compares the f32 bundle with its own reference on disjoint draws of SynthDerm: every stage must be ok.  Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, file_records
from skinedge.embedded import embedded_checkpoint
from skinedge.manifest import MANIFEST_FILE, Manifest, read_manifest
from skinedge.model.reference import Reference
from skinedge.parity.compare import Comparison, compare_opened
from skinedge.parity.pictures import make_picture, write_pictures
from skinedge.runtime.image import load_photograph, to_pixels
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, Session
from skinedge.synthderm.dataset import write_dataset
from skinedge.targets._contract import ExportOptions

STEPS = 96  # the embedded model's narratives are a little shorter
LAYER = "model.layers.2.mlp.gate_up_proj.weight"


@dataclass(frozen=True)
class Fault:
    """One fault: what it is, where it lives, the stage that must name it, and how it is planted.

    ``plant`` changes the files of a copy of the bundle, ``wrap`` what was opened of it.
    """

    name: str
    place: str
    stage: str
    plant: Callable[[Path], None] = lambda _: None
    wrap: Callable[[Pipeline], Pipeline] = lambda pipeline: pipeline
    scheme: str = "f32"


class _Seeing(Pipeline):
    """A pipeline that makes other pixels of a photograph."""

    def __init__(self, pipeline: Pipeline, change: Callable[[Image.Image], Image.Image]) -> None:
        self.__dict__.update(pipeline.__dict__)
        self._change = change

    def pixels(self, photograph: Path) -> Pixels:
        return to_pixels(self._change(load_photograph(photograph)), self.processor)


def _seeing(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pipeline], Pipeline]:
    return lambda pipeline: _Seeing(pipeline, change)


class Around:
    """A session around another, to be wrong in one place."""

    def __init__(self, session: Session) -> None:
        self._inner = session
        self.vocab_size, self.context_length = session.vocab_size, session.context_length

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        return self._inner.encode_image(pixels)

    def prefill(
        self, prompt: Prompt, images: Sequence[ImageEncoding] = (), *, bias: Float32 | None = None, all_positions: bool = False
    ) -> Float32:
        return self._inner.prefill(prompt, images, bias=bias, all_positions=all_positions)

    def step(self, token: int) -> Float32:
        return self._inner.step(token)

    def close(self) -> None:
        self._inner.close()


class _BiasOnce(Around):
    """The bias is added to the logits of the prompt and not to those of any step."""

    _bias: Float32 | None = None

    def prefill(
        self, prompt: Prompt, images: Sequence[ImageEncoding] = (), *, bias: Float32 | None = None, all_positions: bool = False
    ) -> Float32:
        self._bias = bias
        return super().prefill(prompt, images, bias=bias, all_positions=all_positions)

    def step(self, token: int) -> Float32:
        logits = super().step(token)
        return logits if self._bias is None else logits - self._bias


class _CacheOff(Around):
    """The first step writes its keys and values over those of the prompt's last token."""

    def prefill(
        self, prompt: Prompt, images: Sequence[ImageEncoding] = (), *, bias: Float32 | None = None, all_positions: bool = False
    ) -> Float32:
        logits = super().prefill(prompt, images, bias=bias, all_positions=all_positions)
        self._inner._length -= 1  # type: ignore[attr-defined]
        return logits


def _session(around: Callable[[Session], Session]) -> Callable[[Pipeline], Pipeline]:
    def wrap(pipeline: Pipeline) -> Pipeline:
        pipeline.session = around(pipeline.session)
        return pipeline

    return wrap


def _letterboxed(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _bgr(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))


def _processor(**settings: object) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")

    return plant


def _template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    assert "<|vision_end|>" in text
    path.write_text(text.replace("<|vision_end|>", ""), encoding="utf-8")


def _bias_off(folder: Path) -> None:
    manifest = read_manifest(folder)
    _seal(folder, manifest.model_copy(update={"decoding": manifest.decoding.model_copy(update={"bias": "off"})}))


def expert_zeroed(layer: int, expert: int) -> Callable[[Path], None]:
    """Plants an expert whose second matrix and its bias are zero."""

    def plant(folder: Path) -> None:
        width = read_manifest(folder).architecture.side_branch
        assert width is not None
        stem, rows = f"adapter.distill_head.adapters.{layer}.", slice(expert * width.bottleneck, (expert + 1) * width.bottleneck)

        def down(values: Float32) -> Float32:
            values[rows] = 0
            return values

        def bias(values: Float32) -> Float32:
            values[expert] = 0
            return values

        change_weight(folder / "adapter.onnx", f"{stem}down.weight", down)
        change_weight(folder / "adapter.onnx", f"{stem}down_bias.weight", bias)

    return plant


def _sections_swapped(folder: Path) -> None:
    """Height rules where width should, and the other way round."""
    import onnx
    from onnx import numpy_helper

    path = folder / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    turn = next(node for node in model.graph.node if node.op_type == "MatMul")  # positions times frequencies
    table = next(t for t in model.graph.initializer if t.name == turn.input[1])
    values = numpy_helper.to_array(table)
    assert len(values) == 3
    table.CopyFrom(numpy_helper.from_array(values[[0, 2, 1]], table.name))
    path.write_bytes(model.SerializeToString())


def _scales_transposed(folder: Path) -> None:
    """The scales of one layer lie output by output where the graph reads them block by block."""
    change_weight(folder / "decoder.onnx", f"{LAYER}.scale", lambda scales: np.ascontiguousarray(scales.T))


def _added_tokens(folder: Path) -> None:
    """The added tokens are words of the vocabulary like all others, so that text is not cut at them (and all still opens)."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["added_tokens"] = []
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def change_weight(graph: Path, name: str, change: Callable[[Float32], Float32]) -> None:
    """Replace a float32 weight beside a graph by what ``change`` makes of it, of as many values."""
    import onnx

    tensor = next(t for t in onnx.load(graph, load_external_data=False).graph.initializer if t.name == name)
    assert tensor.data_type == onnx.TensorProto.FLOAT
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(graph.with_name(place["location"]), np.uint8, "r+")
    at = slice(int(place.get("offset", 0)), int(place.get("offset", 0)) + int(place["length"]))
    data[at] = change(data[at].view(np.float32).reshape(tensor.dims).copy()).reshape(-1).view(np.uint8)
    data.flush()


FAULTS = (
    Fault("letterboxed image", "around the pipeline", "pixels", wrap=_seeing(_letterboxed)),
    Fault("BGR", "around the pipeline", "pixels", wrap=_seeing(_bgr)),
    Fault("missing normalisation", "preprocessor_config.json", "pixels",
          _processor(image_mean=[1e-9] * 3, image_std=[1.0] * 3)),
    Fault("min/max pixels ignored", "preprocessor_config.json", "pixels", _processor(min_pixels=1, max_pixels=1 << 40)),
    Fault("one token dropped from the template", "chat_template.jinja", "tokens", _template),
    Fault("adapter bias off", "skinedge.json", "bias", _bias_off),
    Fault("bias at the first token only", "around the session", "steps", wrap=_session(_BiasOnce)),
    Fault("one expert zeroed", "adapter.onnx.data", "bias", expert_zeroed(1, 0)),
    Fault("mRoPE sections swapped", "decoder.onnx", "prefill", _sections_swapped),
    Fault("KV cache off by one", "in the session", "steps", wrap=_session(_CacheOff)),
    Fault("one layer's int4 scales transposed", "decoder.onnx.data", "weights", _scales_transposed, scheme="int4"),
    Fault("tokenizer without added tokens", "tokenizer.json", "tokens", _added_tokens),
)  # fmt: skip


BY_NAME = {fault.name: fault for fault in FAULTS}


def plant(fault: Fault, bundle: Path, folder: Path) -> Path:
    """A copy of ``bundle`` in ``folder`` with ``fault`` in its files."""
    shutil.copytree(bundle, folder)
    fault.plant(folder)
    _seal(folder, read_manifest(folder))
    return folder


def compare_planted(
    fault: Fault,
    bundle: Path,
    source: AdapterCheckpoint,
    reference: Reference,
    photographs: Sequence[Path],
    *,
    steps: int = STEPS,
    bisect: bool = False,
) -> Comparison:
    """Plant ``fault`` in a copy of ``bundle`` and compare that."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        copy = plant(fault, bundle, Path(scratch) / "planted")
        pipeline = fault.wrap(stack.enter_context(open_pipeline(copy, threads=1)))
        return compare_opened(pipeline, source, reference, photographs, folder=copy, steps=steps, bisect=bisect)


def _seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest as if the bundle had been made with what is in it now: nobody could tell by a digest."""
    (folder / MANIFEST_FILE).unlink()
    sealed = manifest.model_copy(update={"files": tuple(file_records(folder, {}))})
    (folder / MANIFEST_FILE).write_text(sealed.to_json(), encoding="utf-8")


def pictures_of(folder: Path) -> list[Path]:
    """Pictures on which each fault makes a difference: awkward sizes, and one below the smallest size a processor lets pass."""
    paths = write_pictures(folder)
    small = folder / "small.png"
    make_picture(45, 31, 7).save(small)
    return [*paths, small]


def faults(work: Path, source: AdapterCheckpoint, reference: Reference) -> tuple[list[dict[str, object]], bool]:
    """Every fault in a bundle of the embedded model."""
    bundles = {s: export(source, "onnx", ExportOptions(s, context=2048), work / s).path for s in ("f32", "int4")}
    drawn = write_dataset(work / "synthderm", 3, 7_400_000, workers=1).parent / "images"
    photographs = [*pictures_of(work / "pictures"), *sorted(drawn.iterdir())]
    rows: list[dict[str, object]] = []
    for scheme, bundle in bundles.items():  # first of all, what is compared has no fault of its own
        with open_pipeline(bundle, threads=1) as pipeline:
            sound = compare_opened(pipeline, source, reference, photographs, folder=bundle, steps=STEPS)
        print(f"{scheme}, nothing planted: {sound.first_bad or 'every stage within tolerance'}", flush=True)
        rows.append({"fault": None, "scheme": scheme, "expected": None, "named": sound.first_bad, "caught": sound.passed})
    for fault in FAULTS:
        result = compare_planted(fault, bundles[fault.scheme], source, reference, photographs)
        worst = result.stages[-1]
        caught = result.first_bad == fault.stage
        print(f"{'caught' if caught else 'MISSED':7} {fault.name}: {worst.line()}", flush=True)
        rows.append({
            "fault": fault.name, "planted": fault.place, "scheme": fault.scheme, "expected": fault.stage,
            "named": result.first_bad, "where": worst.where, "measured": worst.to_json()["measured"], "caught": caught,
        })  # fmt: skip
    return rows, all(bool(row["caught"]) for row in rows)


def same(
    work: Path, source: AdapterCheckpoint, reference: Reference, draws: int, pictures: int
) -> tuple[list[dict[str, object]], bool]:
    """The f32 bundle against its own reference, on ``draws`` disjoint draws."""
    bundle = export(source, "onnx", ExportOptions("f32", context=2048), work / "f32").path
    folder = write_dataset(work / "synthderm", draws * pictures, 7_500_000, workers=1).parent / "images"
    files, rows = sorted(folder.iterdir()), []
    with open_pipeline(bundle, threads=1) as pipeline:
        for draw in range(draws):
            photographs = files[draw * pictures : (draw + 1) * pictures]
            result = compare_opened(pipeline, source, reference, photographs, folder=bundle, steps=STEPS)
            worst = {stage.name: stage.to_json()["measured"] for stage in result.stages}
            rows.append({"draw": draw, "passed": result.passed, "named": result.first_bad, "measured": worst})
            print(f"draw {draw}: {result.first_bad or 'every stage within tolerance'}", flush=True)
    return rows, all(bool(row["passed"]) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("faults", "same"))
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    source = embedded_checkpoint()
    reference = Reference.from_checkpoint(source.path, source.adapters, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        if args.what == "faults":
            rows, passed = faults(Path(scratch), source, reference)
        else:
            rows, passed = same(Path(scratch), source, reference, args.draws, args.pictures)
    if args.json:
        known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
        report = {
            **known,
            "machine": platform.machine(),
            "model": "skinedge-tiny with side-branch",
            "steps": STEPS,
            args.what: rows,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
