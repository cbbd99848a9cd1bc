"""PEFT LoRA, merged while it is read: ``W + s * B A``, block by block, rounded once to W's own type.

The arithmetic is PEFT's ``merge_and_unload`` (delta in float32, added to the weight, rounded to the
weight's type) so that merging first and exporting later gives the same bytes as exporting with the
adapter.  The small product is taken in float64 and rounded to float32: then a block's values do not
depend on where the blocks were cut.  See ``docs/decisions/0004-merge-arithmetic.md``.

Whatever PEFT can express and a merge cannot (or we do not) is refused by its own name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skinedge.errors import AdapterError, CheckpointError
from skinedge.model.config import read_json
from skinedge.model.names import canonical
from skinedge.weights.ledger import Ledger
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import ALL, F32, Array, TensorSource, TensorSpec

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# setting -> why it cannot be merged; anything else truthy that changes the weights must be added here
_REFUSED = {
    "use_dora": "DoRA rescales each output by a learned magnitude",
    "fan_in_fan_out": "the weights are stored transposed",
    "layer_replication": "it adds layers to the model",
    "target_parameters": "it targets bare parameters, not linear layers",
    "trainable_token_indices": "it trains single embedding rows",
    "alora_invocation_tokens": "it is active only after its invocation tokens",
    "use_qalora": "its A matrix is pooled",
    "lora_bias": "its B matrix carries a bias",
    "use_bdlora": "its factors are block-diagonal",
}


@dataclass(frozen=True)
class LowRank:
    """One low-rank update ``scale * b @ a`` of a matrix view, with the file's own tensor names."""

    a: npt.NDArray[np.float64]  # [rank, cols]
    b: npt.NDArray[np.float64]  # [rows, rank]
    scale: float
    tensors: tuple[str, str]


@dataclass(frozen=True)
class Lora:
    """What an adapter folder says: updates and whole replacements, by canonical weight name."""

    path: Path
    updates: Mapping[str, LowRank]
    replacements: Mapping[str, tuple[Array, str]]  # canonical name -> values, file's tensor name

    @property
    def rank(self) -> int:
        """The largest rank among the updates."""
        return max((u.a.shape[0] for u in self.updates.values()), default=0)


def open_lora(folder: Path) -> Lora:
    """Read a PEFT LoRA folder.

    Raises:
        CheckpointError: a file is missing or damaged.
        AdapterError: not a LoRA, or one that uses a feature that cannot be merged.
    """
    settings = read_json(folder / CONFIG_FILE, "the adapter's settings")
    _refuse_unmergeable(folder, settings)
    if not (folder / WEIGHTS_FILE).exists():
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is missing.",
            hint="Save the adapter with save_pretrained(..., safe_serialization=True); pickle files are never opened.",
        )
    file = SafetensorsFile(folder / WEIGHTS_FILE)
    updates: dict[str, LowRank] = {}
    replacements: dict[str, tuple[Array, str]] = {}
    for name in file.names():
        match _role(name):
            case "A", module:
                updates[_weight(module)] = _linear_update(file, name, _settings_scale(settings, module))
            case "E", module:
                updates[_weight(module)] = _embedding_update(file, name, _settings_scale(settings, module))
            case "B", _:
                pass  # read together with its A
            case "=", target:
                replacements[target] = (file.read(name).reshape(file.spec(name).shape), name)
            case _:
                raise AdapterError(f"{folder}: tensor '{name}' is of a kind skinedge does not know.")
    used = {t for u in updates.values() for t in u.tensors} | {t for _, t in replacements.values()}
    for name in file.names():
        if name not in used:
            raise AdapterError(f"{folder}: tensor '{name}' has no counterpart in the file.")
    return Lora(folder, updates, replacements)


class LoraSource:
    """``base`` with a LoRA merged in; the stored types stay those of ``base``.

    Raises:
        AdapterError: the adapter names a weight that ``base`` has not, or one of another shape.
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
                    hint="This adapter belongs to a model of another size.",
                )
            for name in update.tensors:
                ledger.enter(name, target)
        for target, (values, name) in lora.replacements.items():
            spec = _target(base, known, lora.path, target, name)
            if values.shape != spec.shape:
                raise AdapterError(
                    f"{lora.path}: '{name}' has shape {values.shape} and '{target}' has {spec.shape}.",
                    hint="This adapter belongs to a model of another size.",
                )
            ledger.enter(name, target)

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def spec(self, name: str) -> TensorSpec:
        return self._base.spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        before = self._base.read(name, rows, cols)
        after, tensors = before, tuple[str, ...]()
        if name in self._lora.replacements:
            values, tensor = self._lora.replacements[name]
            spec = self._base.spec(name)
            after = values.reshape(spec.rows, spec.cols)[rows, cols].astype(spec.dtype)
            tensors += (tensor,)
        if update := self._lora.updates.get(name):
            delta = ((update.b[rows] @ update.a[:, cols]) * update.scale).astype(F32)
            after = (after.astype(F32) + delta).astype(before.dtype)
            tensors += update.tensors
        if not self._ledger.proved.issuperset(tensors) and not np.array_equal(after, before):
            self._ledger.prove(*tensors)
        return after


def _refuse_unmergeable(folder: Path, settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{folder}: peft_type is {kind!r} and only 'LORA' can be merged.")
    for setting, why in _REFUSED.items():
        if settings.get(setting):
            raise AdapterError(
                f"{folder}: the adapter uses '{setting}', which cannot be merged block by block: {why}.",
                hint="Merge it with PEFT's merge_and_unload first and export the result.",
            )


def _role(name: str) -> tuple[str, str]:
    """What a tensor of the file is, and the canonical module (or tensor) it belongs to."""
    inner = name.removeprefix("base_model.model.")
    if m := re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", inner):
        return m[2], canonical(m[1])
    if m := re.fullmatch(r"(.+)\.lora_embedding_([AB])(?:\.default)?", inner):
        return ("E" if m[2] == "A" else "B"), canonical(m[1])
    if "lora_" in inner:
        return "?", inner
    inner = inner.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
    return "=", canonical(inner)


def _weight(module: str) -> str:
    return module + ".weight"


def _settings_scale(settings: Mapping[str, Any], module: str) -> tuple[float, bool, int | None]:
    """(alpha, rank-stabilised, rank if the pattern gives one) for a module, by PEFT's pattern rule."""
    alpha = _pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    rank = _pattern(settings.get("rank_pattern"), module, settings.get("r"))
    return float(alpha), bool(settings.get("use_rslora")), rank


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT matches a pattern against the end of the module's name, at a dot, in either spelling."""
    spellings = {module, module.replace("model.", "model.language_model.", 1), "model." + module}
    for key, value in (patterns or {}).items():
        if any(re.fullmatch(rf"(.*\.)?({key})", s) for s in spellings):
            return value
    return default


def _scale(file: SafetensorsFile, name: str, rank: int, setting: tuple[float, bool, int | None]) -> float:
    alpha, stabilised, said = setting
    if said is not None and said != rank:
        raise AdapterError(f"{file.path}: '{name}' has rank {rank} and {CONFIG_FILE} says {said}.")
    return alpha / (math.sqrt(rank) if stabilised else rank)


def _partner(file: SafetensorsFile, name: str, other: str) -> str:
    if other not in file.names():
        raise AdapterError(f"{file.path}: tensor '{name}' has no counterpart '{other}'.")
    return other


def _linear_update(file: SafetensorsFile, name: str, setting: tuple[float, bool, int | None]) -> LowRank:
    partner = _partner(file, name, name.replace(".lora_A.", ".lora_B."))
    a, b = _f64(file, name), _f64(file, partner)
    return LowRank(a, _same_rank(file, name, a, b), _scale(file, name, a.shape[0], setting), (name, partner))


def _embedding_update(file: SafetensorsFile, name: str, setting: tuple[float, bool, int | None]) -> LowRank:
    # An embedding's update is (B A)^T: A is [rank, vocabulary], B is [hidden, rank].
    partner = _partner(file, name, name.replace("lora_embedding_A", "lora_embedding_B"))
    a, b = _f64(file, partner).T, _f64(file, name).T
    return LowRank(a, _same_rank(file, name, a, b), _scale(file, name, a.shape[0], setting), (name, partner))


def _same_rank(
    file: SafetensorsFile, name: str, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    if a.shape[0] != b.shape[1]:
        raise AdapterError(f"{file.path}: the two factors of '{name}' have ranks {a.shape[0]} and {b.shape[1]}.")
    return b


def _f64(file: SafetensorsFile, name: str) -> npt.NDArray[np.float64]:
    values = file.read(name).astype(np.float64)
    if not np.isfinite(values).all():
        raise AdapterError(f"{file.path}: tensor '{name}' has a value that is not a finite number.")
    return values


def _target(base: TensorSource, known: set[str], path: Path, target: str, tensor: str) -> TensorSpec:
    if target not in known:
        raise AdapterError(
            f"{path}: '{tensor}' belongs to '{target}', which the model does not have.",
            hint="Check that this adapter was trained on this model.",
        )
    return base.spec(target)
