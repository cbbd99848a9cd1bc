"""Which tensors a GGUF holds, under llama.cpp's names, and how their bytes come from the stream.

The text file follows ``convert_hf_to_gguf.py --outtype f16`` and then ``llama-quantize``, so a quantized
matrix is rounded through 16-bit floats first: a bundle made here in one pass is byte for byte what the
two tools make in two.  The vision file follows ``convert_hf_to_gguf.py --mmproj`` (one step, no rounding
between).  Source: ``conversion/base.py`` and ``conversion/qwenvl.py`` of llama.cpp, build 11549.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, TypeAlias

from skinedge.errors import CalibrationError, MissingDependencyError
from skinedge.model.config import ModelConfig
from skinedge.model.names import HEAD, expected_shapes
from skinedge.quantize._ggml import TYPES, GgmlType, quantize
from skinedge.quantize._llama_mix import Mix
from skinedge.weights.cast import FLOATS, cast, through_f16
from skinedge.weights.source import F32, Array, Float32, TensorSource, TensorSpec, row_blocks
from skinedge.weights.stream import Part, Payload

if TYPE_CHECKING:
    from skinedge.calibration.overflow_report import OverflowReport, Reach
    from skinedge.calibration.statistics import Calibration

PATCH_EMBEDDING = "visual.patch_embed.proj.weight"
_STEPS = {1: 1, 32: 127}  # how many f16 scales fit into an activation, by the block of the weights beside it
Names: TypeAlias = Callable[[str], str]  # canonical name -> name in GGUF


@dataclass(frozen=True)
class Stored:
    """One tensor of a GGUF file.

    ``first_row`` is where its rows begin in ``source`` (``visual.*.qkv`` is stored as three tensors); ``frame`` is
    the half of a patch embedding, whose two frames llama.cpp keeps apart; ``half`` asks for the rounding
    through 16-bit floats.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: GgmlType
    first_row: int = 0
    frame: int | None = None
    half: bool = False

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        return math.prod(self.shape[:-1]) * self.kind.row_bytes(self.shape[-1])

    def payload(self, weights: TensorSource, calibration: Calibration | None = None) -> Payload:
        """The bytes to come; quantized with the importances that ``calibration`` has of this tensor.

        Raises:
            CalibrationError: it has those of a tensor of another width.
        """
        first, importance = self.first_row, self._importance(calibration)
        blocks = row_blocks(TensorSpec(self.name, self.shape, F32))
        parts: list[Part] = [
            functools.partial(self._block, weights, slice(first + b.start, first + b.stop), importance) for b in blocks
        ]
        return Payload(self.name, self.nbytes, parts)

    def _importance(self, calibration: Calibration | None) -> Float32 | None:
        inputs = calibration.inputs(self.source) if calibration and self.kind.quantized else None
        if inputs is None:
            return None
        if inputs.mean_square.shape != self.shape[1:]:
            raise CalibrationError(
                f"the calibration has {inputs.mean_square.size} inputs of '{self.source}' and the weight has {self.shape[-1]}.",
                hint="It was made of another model: calibrate this one.",
            )
        return inputs.mean_square

    def _block(self, weights: TensorSource, rows: slice, importance: Float32 | None) -> Array:
        block = weights.read(self.source, rows)
        if self.frame is not None:
            _, channels, height, width = self.shape
            block = block.reshape(len(block), channels, -1, height, width)[:, :, self.frame]
        if not self.kind.quantized:
            return cast(block, FLOATS[self.kind.name], self.source)
        return quantize(self.kind, through_f16(block, self.source) if self.half else block.astype(F32), importance)


def text_tensors(
    config: ModelConfig,
    mix: Mix,
    *,
    importances: bool = False,
    asked: Mapping[str, str] = MappingProxyType({}),
    names: Names | None = None,
) -> tuple[Stored, ...]:
    """The language model; a tied head is left out, as llama.cpp expects.

    ``asked`` names the types of single tensors, by canonical name; ``importances`` says whether there are some; ``names``
    stands in for the official library's (a forecast needs no library).
    """
    names = names or _name_map("QWEN2VL", config.text.num_layers)
    found = []
    for source, shape in expected_shapes(config).items():
        if source.startswith("visual.") or (source == HEAD and config.text.tie_word_embeddings):
            continue
        name = names(source)
        kind = mix.choose(name, shape, config.text, importances=importances, asked=asked.get(source))
        found.append(Stored(name, source, shape, kind, half=kind.quantized))
    return tuple(found)


def vision_tensors(config: ModelConfig, scheme: str, *, names: Names | None = None) -> tuple[Stored, ...]:
    """The vision tower and merger; ``names`` as above."""
    # The library counts the merger's layers (0 and 2) among the blocks.
    names = names or _name_map("MMPROJ", max(config.vision.depth, 3))
    return tuple(
        stored
        for source, shape in expected_shapes(config).items()
        if source.startswith("visual.")
        for stored in _vision(names, source, shape, scheme)
    )


def overflowing(tensors: Iterable[Stored], report: OverflowReport) -> dict[str, Reach]:
    """The matrices whose activations llama.cpp would make too narrow beside them, by canonical name, and how large they are.

    It multiplies f16 weights with f16 activations, and those in blocks of 32 with 8-bit ones that have an f16 scale;
    beside all other types it keeps more range than any model needs (``type_traits_cpu`` in ggml, build 11549).
    """
    found: dict[str, Reach] = {}
    steps = {t.source: _STEPS[t.kind.block] for t in tensors if t.kind.name == "f16" or t.kind.block == 32}
    for reach in report.reaches:
        known = found.get(reach.layer)
        if reach.headroom("f16") * steps.get(reach.layer, math.inf) < report.margin and (not known or reach.peak > known.peak):
            found[reach.layer] = reach
    return found


def widened(tensors: Iterable[Stored], wide: Collection[str]) -> tuple[Stored, ...]:
    """The tensors, those of the canonical names ``wide`` in f32."""
    return tuple(replace(t, kind=TYPES["f32"], half=False) if t.source in wide else t for t in tensors)


def _vision(names: Names, source: str, shape: tuple[int, ...], scheme: str) -> Iterator[Stored]:
    kind = TYPES[scheme]
    if source == PATCH_EMBEDDING:
        plain = TYPES["f16" if scheme == "f16" else "f32"]
        for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
            yield Stored(name, source, (*shape[:2], *shape[3:]), plain, frame=frame)
    elif len(shape) == 1:
        yield from _split(names, source, shape, TYPES["f32"])
    else:
        # The 7B's MLP is 3420 wide, which 32 does not divide.
        yield from _split(names, source, shape, kind if shape[-1] % kind.block == 0 else TYPES["f16"])


def _split(names: Names, source: str, shape: tuple[int, ...], kind: GgmlType) -> Iterator[Stored]:
    if ".qkv." not in source:
        yield Stored(names(source), source, shape, kind)
        return
    third = shape[0] // 3
    for i, part in enumerate("qkv"):
        yield Stored(names(source.replace("qkv", part)), source, (third, *shape[1:]), kind, i * third)


def _name_map(architecture: str, layers: int) -> Names:
    gguf = import_gguf()
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], layers)

    def name(source: str) -> str:
        found: str | None = table.get_name(source, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise RuntimeError(f"the gguf library has no name for '{source}'")
        return found

    return name


def import_gguf() -> ModuleType:
    """The official ``gguf`` library.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as e:
        if e.name != "gguf":
            raise
        raise MissingDependencyError(
            "writing GGUF needs the gguf library.", hint="Install it: pip install 'skinedge[gguf]'."
        ) from e
