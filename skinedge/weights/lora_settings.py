"""``adapter_config.json`` of a PEFT LoRA: the few settings that a merge needs, and a no to all it cannot honour.

PEFT has some forty settings.  Those that change the merged weights are either read here or refused by
their own name; those known to be harmless are listed; a setting that is set and that this file has never
heard of is refused too, because a merge that ignored it could be wrong without a sign.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skinedge.errors import AdapterError
from skinedge.model.config import read_json
from skinedge.model.names import canonical, in_memory

CONFIG_FILE = "adapter_config.json"

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
    "arrow_config": "it routes between several adapters, token by token",
    "kasa_config": "it cuts the base weight and scales its factors by a learned diagonal",
    "monteclora_config": "its factors are drawn at random",
    "velora_config": "it keeps projections besides its two factors",
    "megatron_config": "its layers are split over several machines",
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"}
_HARMLESS = {
    "task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "modules_to_save", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
# The other ways to start (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ) subtract their first B A from the base weight.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_MERGE_FIRST = "Merge it with PEFT's merge_and_unload first and export the result."


@dataclass(frozen=True)
class LoraSettings:
    """What a merge needs to know; the defaults are PEFT's."""

    path: Path
    rank: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    trains_biases: bool

    def scale(self, module: str, rank: int) -> float:
        """``alpha / rank`` (or ``alpha / sqrt(rank)``) of a module whose A matrix has ``rank`` rows.

        Raises:
            AdapterError: the settings give the module another rank.
        """
        said = self._of(module, self.rank_pattern, self.rank)
        if rank != said or rank < 1:
            raise AdapterError(f"{self.path}: the factors of '{module}' have rank {rank} and {CONFIG_FILE} says {said:g}.")
        alpha = self._of(module, self.alpha_pattern, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def _of(self, module: str, patterns: Mapping[str, float], default: float) -> float:
        """PEFT's rule: the first pattern that fits the end of the module's name, at a dot (in either spelling)."""
        for pattern, value in patterns.items():
            try:
                if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in (canonical(module), in_memory(module))):
                    return value
            except re.error as e:
                raise AdapterError(f"{self.path}: '{pattern}' in {CONFIG_FILE} is not a pattern: {e}.") from e
        return default


def read_settings(folder: Path) -> LoraSettings:
    """Read and check ``adapter_config.json``.

    Raises:
        CheckpointError: missing, or not JSON.
        AdapterError: not a LoRA, a setting that cannot be merged or is unknown, or an impossible value.
    """
    raw = read_json(folder / CONFIG_FILE, "the adapter's settings")
    _refuse(folder, raw)
    return LoraSettings(
        path=folder,
        rank=int(_number(folder, "r", raw.get("r", 8))),
        alpha=_number(folder, "lora_alpha", raw.get("lora_alpha", 8)),
        rank_stabilised=bool(raw.get("use_rslora")),
        rank_pattern=_pattern(folder, "rank_pattern", raw.get("rank_pattern")),
        alpha_pattern=_pattern(folder, "alpha_pattern", raw.get("alpha_pattern")),
        trains_biases=raw.get("bias", "none") != "none",
    )


def _refuse(folder: Path, raw: Mapping[str, object]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{folder}: peft_type is {kind!r} and only 'LORA' can be merged.", hint=_MERGE_FIRST)
    start = raw.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{folder}: init_lora_weights is {start!r}, a start that also changes the base weights.",
            hint="Save it with save_pretrained(..., path_initial_model_for_weight_conversion=...), or merge it with PEFT first.",
        )
    for setting in (name for name, value in raw.items() if value):
        if setting in _REFUSED:
            raise AdapterError(
                f"{folder}: the adapter uses '{setting}', which cannot be merged block by block: {_REFUSED[setting]}.",
                hint=_MERGE_FIRST,
            )
        if setting not in _READ | _HARMLESS:
            raise AdapterError(
                f"{folder}: the adapter sets '{setting}', which this skinedge does not know, so a merge could be wrong.",
                hint=_MERGE_FIRST,
            )


def _number(folder: Path, setting: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"{folder}: {setting} in {CONFIG_FILE} is {value!r} and must be a number.")
    return value


def _pattern(folder: Path, setting: str, value: object) -> dict[str, float]:
    if not isinstance(value or {}, dict):
        raise AdapterError(f"{folder}: {setting} in {CONFIG_FILE} must be a table of module names and numbers.")
    table = value if isinstance(value, dict) else {}
    return {str(name): _number(folder, f"{setting}['{name}']", number) for name, number in table.items()}
