"""PEFT LoRA, merged while it is read: ``W + s * B A``, block by block, rounded once to W's own type.

The arithmetic is that of PEFT's ``merge_and_unload``, to the bit: the product and the scaling in float32,
added in float32, rounded to the weight's type.  The product's additions are done in one fixed order (see
``_product``), so a value depends neither on where the blocks were cut nor on the machine, and merging
first and exporting later gives the same bytes as exporting with the adapter.
See ``docs/decisions/0004-merge-arithmetic.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skinedge.errors import AdapterError, CheckpointError
from skinedge.model.adapter import released_name
from skinedge.model.names import canonical
from skinedge.weights.ledger import Ledger
from skinedge.weights.lora_settings import CONFIG_FILE, LoraSettings, read_settings
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import ALL, F32, Array, Float32, TensorSource, TensorSpec

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "Lora", "LoraSource", "LowRank", "Replacement", "open_lora"]

WEIGHTS_FILE = "adapter_model.safetensors"
_OTHER_SIZE = "This adapter belongs to a model of another size: give that one with --model."
_SAVE_AGAIN = "Save the adapter again where it was trained."
_PRODUCT_ROWS = 32
_CACHED = 1 << 16  # weights whose intermediate values stay in a core's cache
# A product of so many multiplications OpenBLAS leaves to the thread that asks. For a larger one it wakes others, which
# then wait in a loop: measured, one of two cores lost to an export.
_ONE_THREAD = 1 << 18
_BATCH = 4


@dataclass(frozen=True)
class LowRank:
    """One update ``scale * b @ a`` of a matrix view; ``a`` and ``b`` lie in the mapped file."""

    a: Array  # [rank, cols]
    b: Array  # [rows, rank]
    scale: float
    tensors: tuple[str, str]  # their names in the file
    embedding: bool = False

    def added_to(self, block: Array, rows: slice, cols: slice) -> Array:
        """``block``, the weight's own ``[rows, cols]``, with the update."""
        left, right = self.b[rows].astype(F32), self.a[:, cols].astype(F32)
        if block.dtype.itemsize > 2:
            return self._add(block, _product(left, right))
        result = np.empty(block.shape, block.dtype)
        width = max(1, _ONE_THREAD // _BATCH // max(1, len(right)))
        height = max(_BATCH, _CACHED // width // _BATCH * _BATCH)
        for first in range(0, block.shape[1], width):
            across = slice(first, first + width)
            some = np.ascontiguousarray(right[:, across])
            spread = _spread(some)
            for start in range(0, len(block), height):
                down = slice(start, start + height)
                result[down, across] = self._add_quickly(block[down, across], left[down], some, spread)
        return result

    def _add(self, block: Array, product: Float32) -> Array:
        """Never decreasing (or never increasing) as ``product`` grows: every step of it rounds to nearest."""
        delta = product * np.float32(self.scale)
        if self.embedding:  # PEFT rounds the update of an embedding before it adds it, and only that one
            delta = delta.astype(block.dtype).astype(F32)
        result: Array = (block.astype(F32) + delta).astype(block.dtype)
        return result

    def _add_quickly(self, block: Array, left: Float32, right: Float32, spread: Float32) -> Array:
        """What ``_add`` makes of ``_product``, from a product whose sums are in any order.

        The two lie within ``error`` of each other.  Where the weight comes out the same at both ends of that span, it
        comes out so for all between; the few other products (about one in a thousand) are summed in their order.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite weight is refused by who reads it
            product, error = _any_order(left, right), _length(left)[:, None] * spread
            low, high = self._add(block, product - error), self._add(block, product + error)
        at = np.nonzero(low.view(np.uint16) != high.view(np.uint16))
        if len(at[0]) > low.size // 8:
            return self._add(block, _product(left, right))
        low[at] = self._add(block[at], _products(left[at[0]], right[:, at[1]].T))
        return low


@dataclass(frozen=True)
class Replacement:
    """A whole tensor that the adapter brings along (``modules_to_save``, a trained bias)."""

    values: Array
    tensor: str  # its name in the file
    # PEFT writes the frozen weight below a targeted embedding or head into the file: no adapter tensor.
    copy_of_base: bool


@dataclass(frozen=True)
class Lora:
    """What an adapter folder says, by canonical weight name."""

    path: Path
    updates: Mapping[str, LowRank]
    replacements: Mapping[str, Replacement]
    trains_biases: bool

    @property
    def rank(self) -> int:
        """The largest rank among the updates."""
        return max((u.a.shape[0] for u in self.updates.values()), default=0)


def open_lora(folder: Path) -> Lora:
    """Read a PEFT LoRA folder.  Tensors of the side branch in it are left to ``open_checkpoint``.

    Raises:
        CheckpointError: a file is missing or damaged.
        AdapterError: not a LoRA, or one that uses a feature that cannot be merged.
    """
    settings = read_settings(folder)
    if not (folder / WEIGHTS_FILE).exists():
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is missing.",
            hint="Save the adapter with save_pretrained(..., safe_serialization=True); pickle files are never opened.",
        )
    file = SafetensorsFile(folder / WEIGHTS_FILE)
    if not file.names():
        raise AdapterError(f"{file.path}: it holds no tensors.", hint=_SAVE_AGAIN)
    updates: dict[str, LowRank] = {}
    replacements: dict[str, Replacement] = {}
    for name in file.names():
        match _role(name):
            case "A", module:
                updates[f"{module}.weight"] = _linear_update(file, name, module, settings)
            case "E", module:
                updates[f"{module}.weight"] = _embedding_update(file, name, module, settings)
            case "=", target:
                values = _finite(file, name).reshape(file.spec(name).shape)
                replacements[target] = Replacement(values, name, name.endswith(".base_layer.weight"))
            case "?", _:
                raise AdapterError(f"{folder}: tensor '{name}' is of a kind skinedge does not know.", hint=_SAVE_AGAIN)
            case _:  # a B matrix is read together with its A
                pass
    used = {t for u in updates.values() for t in u.tensors} | {r.tensor for r in replacements.values()}
    for name in file.names():
        if name not in used and not released_name(name):
            raise AdapterError(f"{folder}: tensor '{name}' has no counterpart in the file.", hint=_SAVE_AGAIN)
    return Lora(folder, updates, replacements, settings.trains_biases)


class LoraSource:
    """``base`` with a LoRA merged in; the stored types stay those of ``base``.

    Raises:
        AdapterError: the adapter names a weight that ``base`` has not, or one of another shape, or lacks
            the biases it says it trained.
    """

    def __init__(self, base: TensorSource, lora: Lora, ledger: Ledger) -> None:
        self._base, self._lora, self._ledger = base, lora, ledger
        known = set(base.names())
        for target, update in lora.updates.items():
            spec = _target(base, known, lora.path, target, update.tensors[0])
            wanted, found = (spec.rows, spec.cols), (update.b.shape[0], update.a.shape[1])
            if wanted != found:
                raise AdapterError(
                    f"{lora.path}: '{update.tensors[0]}' is made for a {found[0]}x{found[1]} weight and "
                    f"'{target}' is {wanted[0]}x{wanted[1]}.",
                    hint=_OTHER_SIZE,
                )
            for name in update.tensors:
                ledger.enter(self._entry(name), target)
        for target, new in lora.replacements.items():
            spec = _target(base, known, lora.path, target, new.tensor)
            if new.values.shape != spec.shape:
                raise AdapterError(
                    f"{lora.path}: '{new.tensor}' has shape {new.values.shape} and '{target}' has {spec.shape}.", hint=_OTHER_SIZE
                )
            if not new.copy_of_base:
                ledger.enter(self._entry(new.tensor), target)
        if lora.trains_biases:
            _require_biases(lora, known)

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def spec(self, name: str) -> TensorSpec:
        return self._base.spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        block = self._base.read(name, rows, cols)
        spec = self._base.spec(name)
        if new := self._lora.replacements.get(name):
            values = new.values.reshape(spec.rows, spec.cols)[rows, cols].astype(spec.dtype)
            block = self._prove((new.tensor,), block, values)
        if update := self._lora.updates.get(name):
            block = self._prove(update.tensors, block, update.added_to(block, rows, cols))
        return block

    def _prove(self, tensors: tuple[str, ...], before: Array, after: Array) -> Array:
        entries = tuple(map(self._entry, tensors))
        if not self._ledger.proved.issuperset(entries) and not np.array_equal(after, before):
            self._ledger.prove(*entries)
        return after

    def _entry(self, tensor: str) -> str:
        """The name in the ledger: two adapters may be stacked, and their tensors are called alike."""
        return f"{self._lora.path}: {tensor}"


def _product(b: Array, a: Array) -> Float32:
    """``b @ a`` in float32, each sum in the order of the rank axis, one rounding per addition.

    That is the order in which float32 matrix products of this shape are summed by the libraries under
    PyTorch (measured: equal to the bit), written out so that it never depends on their version, on the
    processor, or on the shape of the block.  Products of two float32 are exact in float64.
    """
    left, right = b.astype(np.float64), a.astype(np.float64)
    result = np.zeros((len(left), right.shape[1]), F32)
    for start in range(0, len(left), _PRODUCT_ROWS):
        rows = left[start : start + _PRODUCT_ROWS]
        total = result[start : start + _PRODUCT_ROWS]
        term = np.empty(total.shape)
        for k in range(len(right)):
            np.multiply(rows[:, k, None], right[k], out=term)
            np.add(term, total, out=term)
            total[...] = term
    return result


def _any_order(left: Float32, right: Float32) -> Float32:
    """``left @ right``, a few rows at a time."""
    whole = len(left) // _BATCH * _BATCH
    product = np.empty((len(left), right.shape[1]), F32)
    np.matmul(left[:whole].reshape(-1, _BATCH, len(right)), right, out=product[:whole].reshape(-1, _BATCH, right.shape[1]))
    if whole < len(left):
        np.matmul(left[whole:], right, out=product[whole:])
    return product


def _products(left: Float32, right: Float32) -> Float32:
    """The sums of ``_product`` one by one: of the rows of ``left`` and ``right``, both ``[n, rank]``."""
    terms = left.astype(np.float64) * right
    total = np.zeros(len(terms), F32)
    for k in range(terms.shape[1]):
        total = (terms[:, k] + total).astype(F32)
    return total


def _spread(right: Float32) -> Float32:
    """Times ``_length`` of a row: how far two float32 products can lie apart that differ in the order of their sums.

    Each is within ``n u / (1 - n u)`` times both vectors' lengths of the true one, with ``n`` the rank and ``u = 2**-24``
    (Higham, Accuracy and Stability of Numerical Algorithms, 3.1 and 3.5).  Twice that for two of them; the four
    more are for the roundings here.
    """
    return _length(right.T) * np.float32((len(right) + 4) * 2.0**-23)


def _length(rows: Float32) -> Float32:
    """Euclidean, of each row; a little more than nothing, for products so small that digits are lost."""
    length: Float32 = np.sqrt(np.square(rows).sum(1)) + np.float32(2.0**-40)
    return length


def _role(name: str) -> tuple[str, str]:
    """What a tensor of the file is, and the canonical module (or tensor) it belongs to."""
    if side := released_name(name):
        return "side branch", side
    inner = name.removeprefix("base_model.model.")
    if m := re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", inner):
        return m[2], canonical(m[1])
    if m := re.fullmatch(r"(.+)\.lora_embedding_([AB])(?:\.default)?", inner):
        return ("E" if m[2] == "A" else "B"), canonical(m[1])
    if "lora_" in inner:
        return "?", inner
    inner = inner.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
    return "=", canonical(inner)


def _linear_update(file: SafetensorsFile, name: str, module: str, settings: LoraSettings) -> LowRank:
    partner = _partner(file, name, name.replace(".lora_A.", ".lora_B."))
    return _update(file.path, _finite(file, name), _finite(file, partner), (name, partner), module, settings)


def _embedding_update(file: SafetensorsFile, name: str, module: str, settings: LoraSettings) -> LowRank:
    # An embedding's update is (B A)^T: A is [rank, vocabulary], B is [hidden, rank].
    partner = _partner(file, name, name.replace("lora_embedding_A", "lora_embedding_B"))
    update = _update(file.path, _finite(file, partner).T, _finite(file, name).T, (name, partner), module, settings)
    return replace(update, embedding=True)


def _update(path: Path, a: Array, b: Array, tensors: tuple[str, str], module: str, settings: LoraSettings) -> LowRank:
    if a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"{path}: the two factors of '{tensors[0]}' have ranks {a.shape[0]} and {b.shape[1]}.", hint=_SAVE_AGAIN
        )
    return LowRank(a, b, settings.scale(module, a.shape[0]), tensors)


def _partner(file: SafetensorsFile, name: str, other: str) -> str:
    if other not in file.names():
        raise AdapterError(f"{file.path}: tensor '{name}' has no counterpart '{other}'.", hint=_SAVE_AGAIN)
    return other


def _finite(file: SafetensorsFile, name: str) -> Array:
    values = file.read(name)
    if not np.isfinite(values).all():
        raise AdapterError(
            f"{file.path}: tensor '{name}' has a value that is not a finite number.",
            hint="The training run diverged or the file is damaged; give an earlier checkpoint with --adapter.",
        )
    return values


def _target(base: TensorSource, known: set[str], path: Path, target: str, tensor: str) -> TensorSpec:
    if target not in known:
        raise AdapterError(
            f"{path}: '{tensor}' belongs to '{target}', which the model does not have.",
            hint="Check that this adapter was trained on this model.",
        )
    return base.spec(target)


def _require_biases(lora: Lora, known: set[str]) -> None:
    for target in lora.updates:
        bias = target.removesuffix("weight") + "bias"
        if bias in known and bias not in lora.replacements:
            raise AdapterError(
                f"{lora.path}: {CONFIG_FILE} says that biases were trained, and '{bias}' is not in the file.",
                hint="Some versions of PEFT leave them out when they save; save the adapter again with a newer one.",
            )
