"""Are our GGUF files llama.cpp's own, byte for byte?

Writes small models with skinedge and with the real tools, and compares every tensor (name, type, shape,
bytes) and every key/value pair:

- F32, F16, BF16 text and F32, F16, BF16, Q8_0 vision: ``convert_hf_to_gguf.py``, run as it stands but for
  two functions (the pre-tokenizer is recognised by a digest of the real vocabulary, and ours is small; the
  look for a SentencePiece file, which a Qwen2 has not, needs the sentencepiece library);
- Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS: ``llama_model_quantize`` on the converter's F16 file, without and with
  importances (random ones, every matrix but the embedding), and a mix of single tensors' types.

Both come from the sdist of the installed xllamacpp (``pip download``, or ``--sdist``).  Its wheel leaves
``llama_model_quantize`` out, so ``src/llama-quant.cpp`` is compiled by itself (g++, ten seconds) and linked
with the wheel's own shared object; an installed llama-cpp-python has it ready.

    python benchmarks/peers/gguf_upstream.py [--sdist FILE_OR_FOLDER] [--json]

Writes ``benchmarks/results/gguf_upstream.json`` and ``tests/pins/gguf_digests.json``, which the tests compare with.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from skinedge.calibration.statistics import Calibration, CalibrationRecord, LinearInputs, write  # noqa: E402
from skinedge.errors import TargetError  # noqa: E402
from skinedge.model.names import EMBEDDING, HEAD, expected_shapes  # noqa: E402
from skinedge.model.tiny import Size, make_lora, make_model  # noqa: E402
from skinedge.quantize._ggml import TYPES, libraries, symbol  # noqa: E402
from skinedge.targets import gguf as target  # noqa: E402
from skinedge.targets._contract import ExportOptions  # noqa: E402
from skinedge.targets._gguf_tensors import text_tensors  # noqa: E402
from skinedge.weights import safetensors  # noqa: E402
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from skinedge.weights.source import F32, Float32, TensorSource, row_blocks  # noqa: E402
from skinedge.weights.stream import Quiet  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gguf_upstream.json"
PINS = ROOT / "tests" / "pins" / "gguf_digests.json"
CASTS = ("f32", "f16", "bf16")
WEIGHED = "+importances"  # the key of a pin with importances
MIXED = "+mix"
# Not of value and down projections: llama.cpp then counts their layers otherwise, and its rules hit other layers.
MIX = {
    "model.layers.0.self_attn.q_proj.weight": "q8_0",
    "model.layers.1.self_attn.o_proj.weight": "q5_k",
    "model.layers.2.mlp.up_proj.weight": "f16",
    "model.layers.3.mlp.gate_proj.weight": "iq4_xs",
}
Pins = dict[str, dict[str, str | dict[str, str]]]

# Widths that 256 divides; ones that only 32 does, with an MLP that not even 32 does; nine layers, so that
# every rule on layers has a case; a tied head; four query heads to a value head, which IQ4_XS minds.
MODELS = {
    "square": Size(),
    "narrow": Size(hidden=320, intermediate=680, layers=9, heads=5, kv_heads=1),
    "tied": Size(hidden=512, intermediate=768, layers=9, heads=8, kv_heads=2, tied=True),
}

# What the converter says of the folder's name and the model card; not in the model.
PROVENANCE = ("general.name", "general.basename", "general.finetune", "general.version", "general.size_label", "general.tags")

CONVERT = """
import runpy, sys
root = sys.argv[1]
sys.argv[:2] = [root + "/convert_hf_to_gguf.py"]
sys.path[:0] = [root, root + "/gguf-py"]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
def no_sentencepiece(self, add_to_gguf=True):
    raise FileNotFoundError("tokenizer.model")
base.TextModel._set_vocab_sentencepiece = no_sentencepiece
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    model: str
    file: str
    scheme: str
    tool: str
    tensors: int
    differing: list[str]
    keys_differing: list[str]
    digest: str


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Name -> (type, shape, sha256 of the bytes) of a GGUF file."""
    import gguf

    return {
        t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape), hashlib.sha256(t.data.tobytes()).hexdigest())
        for t in gguf.GGUFReader(path).tensors
    }


def digest_of_tensors(path: Path) -> str:
    """One sha256 over all tensors, in the order of their names."""
    return hashlib.sha256(json.dumps(sorted(tensors_of(path).items())).encode()).hexdigest()


def digest_of_weights(checkpoint: Checkpoint) -> str:
    """sha256 over the names, types, shapes and values that a checkpoint yields."""
    total = hashlib.sha256()
    for name in expected_shapes(checkpoint.config):
        spec = checkpoint.weights.spec(name)
        total.update(f"{name} {spec.dtype} {spec.shape}\n".encode())
        for rows in row_blocks(spec):
            total.update(checkpoint.weights.read(name, rows).tobytes())
    return total.hexdigest()


def keys_of(path: Path) -> dict[str, Any]:
    import gguf

    return {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith("GGUF.")}


def make_models(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, size in MODELS.items():
        yield name, make_model(folder / name, size)
    base = open_checkpoint(folder / "square")
    lora = make_lora(folder / "lora", base.config)
    yield "merged", write_merged(open_checkpoint(folder / "square", [lora]), folder / "merged")


def write_merged(checkpoint: Checkpoint, folder: Path) -> Path:
    """The merged stream as a plain checkpoint, for tools that know no adapters."""
    shutil.copytree(checkpoint.folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights: TensorSource = checkpoint.weights
    names = list(expected_shapes(checkpoint.config))
    with (folder / "model.safetensors").open("wb") as f:
        f.write(safetensors.header((weights.spec(n) for n in names), {"format": "pt"}))
        for name in names:
            f.write(weights.read(name).tobytes())
    return folder


def ours(
    model: Path,
    folder: Path,
    scheme: str,
    vision: str | None,
    calibration: Calibration | None = None,
    mix: Mapping[str, str] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    options = ExportOptions(scheme, vision=vision, workers=2, calibration=calibration, mix=mix)
    target.write(open_checkpoint(model), options, folder, Quiet())
    return folder


def random_calibration(model: Path, folder: Path) -> Calibration:
    """Importances of every matrix of the language model but the embedding, some of them a thousand times others."""
    config = open_checkpoint(model).config
    layers = {}
    for name, shape in expected_shapes(config).items():
        tied = name == HEAD and config.text.tie_word_embeddings
        if len(shape) == 2 and not name.startswith("visual.") and name != EMBEDDING and not tied:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            mean_square = (rng.standard_normal(shape[1]) ** 2 * np.exp(2 * rng.standard_normal(shape[1]))).astype(F32)
            layers[name] = LinearInputs(100, mean_square, np.sqrt(mean_square) * F32.type(3))
    write(folder, CalibrationRecord("0" * 64, "1" * 64, 1, 0, 100, dict.fromkeys(layers, 100)), layers.items())
    return Calibration.open(folder)


def imatrix(model: Path, calibration: Calibration) -> dict[str, Float32]:
    """The importances by llama.cpp's names."""
    tensors = text_tensors(open_checkpoint(model).config, target._mix("q4_k_m"))
    found = ((t.name, calibration.inputs(t.source)) for t in tensors)
    return {name: inputs.mean_square for name, inputs in found if inputs}


def convert(llama: Path, model: Path, out: Path, scheme: str, *, vision: bool) -> Path:
    command = [sys.executable, "-c", CONVERT, str(llama), str(model), "--outtype", scheme, "--outfile", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command + ["--mmproj"] * vision, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"convert_hf_to_gguf.py failed:\n{done.stderr[-3000:]}")
    return out


class QuantizeParams(ctypes.Structure):
    """``struct llama_model_quantize_params`` of build 11549."""

    _fields_ = (
        *((n, ctypes.c_int32) for n in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *(
            (n, ctypes.c_bool)
            for n in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run")
        ),
        *((n, ctypes.c_void_p) for n in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")),
        ("max_buf_size", ctypes.c_size_t),
    )


class ImatrixData(ctypes.Structure):
    """``struct llama_model_imatrix_data``; one without a name ends a list of them."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class TensorOverride(ctypes.Structure):
    """``struct llama_model_tensor_override``: a regular expression and a type; one without a pattern ends a list."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class Quantizer:
    """The real ``llama_model_quantize``."""

    def __init__(self, llama: Path, folder: Path) -> None:
        try:
            self._defaults = symbol("llama_model_quantize_default_params", QuantizeParams)
            self._quantize = symbol("llama_model_quantize", ctypes.c_uint32, *self._arguments)
            self.built = "exported by the installed library"
        except TargetError:
            library = self._compile(llama, folder)
            self._defaults, self._quantize = library.llama_model_quantize_default_params, library.llama_model_quantize
            self._defaults.restype = QuantizeParams
            self._quantize.restype, self._quantize.argtypes = ctypes.c_uint32, self._arguments
            self.built = "src/llama-quant.cpp compiled and linked with the wheel"
        symbol("llama_backend_init", None)()

    _arguments = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(QuantizeParams))

    def __call__(
        self,
        source: Path,
        out: Path,
        file_type: int,
        importances: Mapping[str, Float32] | None = None,
        types: Mapping[str, int] | None = None,
    ) -> Path:
        params = self._defaults()
        params.nthread, params.ftype = 2, file_type
        arrays = {name: np.ascontiguousarray(a, F32) for name, a in (importances or {}).items()}
        entries = [ImatrixData(name.encode(), a.ctypes.data, a.size) for name, a in arrays.items()]
        data = (ImatrixData * (len(entries) + 1))(*entries)
        overrides = [TensorOverride(name.replace(".", "[.]").encode(), code) for name, code in (types or {}).items()]
        patterns = (TensorOverride * (len(overrides) + 1))(*overrides)
        if entries:
            params.imatrix = ctypes.addressof(data)
        if overrides:
            params.tt_overrides = ctypes.addressof(patterns)
        if self._quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
            raise SystemExit(f"llama_model_quantize failed on {source}")
        return out

    @staticmethod
    def _compile(llama: Path, folder: Path) -> ctypes.CDLL:
        wheel = libraries()[0]._name
        ctypes.CDLL(wheel, ctypes.RTLD_GLOBAL)
        out = folder / "libllama_quant.so"
        # The wheel is built with the older C++ library interface (manylinux2014).
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-DNDEBUG", "-D_GLIBCXX_USE_CXX11_ABI=0"]
        places = [f"-I{llama / d}" for d in ("include", "src", "ggml/include")]
        if not out.exists():
            subprocess.run(["g++", *flags, *places, str(llama / "src" / "llama-quant.cpp"), "-o", str(out)], check=True)
        return ctypes.CDLL(str(out))


def unpack(sdist: Path | None, folder: Path) -> Path:
    """The llama.cpp inside xllamacpp's sdist."""
    version = importlib.metadata.version("xllamacpp")
    if sdist is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "xllamacpp", f"xllamacpp=={version}"]
        subprocess.run([*command, "-d", str(folder)], check=True)
        sdist = next(folder.glob("xllamacpp-*.tar.gz"))
    if sdist.is_file():
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        sdist = next(p for p in folder.glob("xllamacpp-*") if p.is_dir())
    if not sdist.name.endswith(version):
        raise SystemExit(f"{sdist} is not the source of the installed xllamacpp {version}")
    return sdist / "thirdparty" / "llama.cpp"


def compare(model: str, scheme: str, tool: str, mine: Path, theirs: Path) -> Row:
    a, b = tensors_of(mine), tensors_of(theirs)
    x, y = keys_of(mine), keys_of(theirs)
    keys = sorted(k for k in x.keys() | y.keys() if k not in PROVENANCE and x.get(k) != y.get(k))
    differing = sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))
    return Row(model, mine.name, scheme, tool, len(b), differing, keys, digest_of_tensors(theirs))


def run(llama: Path, folder: Path) -> tuple[list[Row], Pins, str]:
    quantizer = Quantizer(llama, folder)
    rows: list[Row] = []
    pins: Pins = {}
    for name, model in make_models(folder / "models"):
        work = folder / name
        work.mkdir()
        found = [row for scheme in target.SCHEMES for row in compare_scheme(llama, quantizer, name, model, work, scheme)]
        rows += found
        pins[digest_of_weights(open_checkpoint(model))] = {
            "model": name,
            target.TEXT_FILE: {r.scheme: r.digest for r in found if r.file == target.TEXT_FILE},
            target.VISION_FILE: {r.scheme: r.digest for r in found if r.file == target.VISION_FILE},
        }
    return rows, pins, quantizer.built


def compare_scheme(llama: Path, quantizer: Quantizer, name: str, model: Path, work: Path, scheme: str) -> Iterator[Row]:
    vision = scheme if scheme in target.VISION_SCHEMES else None
    mine = ours(model, work / f"ours-{scheme}", scheme, vision)
    if scheme in CASTS:
        theirs = convert(llama, model, work / f"text-{scheme}.gguf", scheme, vision=False)
        yield compare(name, scheme, "convert_hf_to_gguf.py", mine / target.TEXT_FILE, theirs)
    else:
        mix = target._mix(scheme)
        plain = work / "text-f16.gguf"
        theirs = quantizer(plain, work / f"text-{scheme}.gguf", mix.file_type)
        yield compare(name, scheme, "llama_model_quantize", mine / target.TEXT_FILE, theirs)
        calibration = random_calibration(model, work / f"calibration-{scheme}")
        other = ours(model, work / f"ours-{scheme}{WEIGHED}", scheme, None, calibration)
        weights = imatrix(model, calibration)
        theirs = quantizer(plain, work / f"text-{scheme}{WEIGHED}.gguf", mix.file_type, weights)
        yield compare(name, scheme + WEIGHED, "llama_model_quantize", other / target.TEXT_FILE, theirs)
        other = ours(model, work / f"ours-{scheme}{MIXED}", scheme, None, calibration, MIX)
        codes = {t.name: TYPES[MIX[t.source]].code for t in text_tensors(open_checkpoint(model).config, mix) if t.source in MIX}
        theirs = quantizer(plain, work / f"text-{scheme}{MIXED}.gguf", mix.file_type, weights, codes)
        yield compare(name, scheme + MIXED, "llama_model_quantize", other / target.TEXT_FILE, theirs)
    if vision:
        theirs = convert(llama, model, work / f"vision-{scheme}.gguf", scheme, vision=True)
        yield compare(name, scheme, "convert_hf_to_gguf.py --mmproj", mine / target.VISION_FILE, theirs)


def report(rows: list[Row]) -> Iterator[str]:
    for r in rows:
        verdict = "identical" if not r.differing else f"{len(r.differing)} differ: {', '.join(r.differing[:3])}"
        keys = f"keys {', '.join(r.keys_differing) or 'identical'}"
        yield f"{r.model:7} {r.file:12} {r.scheme:18} {r.tool:31} {r.tensors:4} tensors {verdict}; {keys}"


def save(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="xllamacpp's sdist, packed or unpacked (default: pip download)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows, pins, built = run(unpack(arguments.sdist, folder), folder)
    same = not any(r.differing or r.keys_differing for r in rows)
    result = {
        "status": "measured",
        "versions": {p: importlib.metadata.version(p) for p in ("xllamacpp", "gguf", "transformers", "torch")},
        "machine": platform.machine(),
        "llama_model_quantize": built,
        "same": same,
        "rows": [vars(r) for r in rows],
    }
    save(RESULTS, result)
    if same:
        save(PINS, pins)
    print(json.dumps(result, indent=1, sort_keys=True) if arguments.json else "\n".join(report(rows)))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
