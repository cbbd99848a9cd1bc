"""The LoRA student: PEFT's layers inside the real model, saved in PEFT's own layout."""

from __future__ import annotations

from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skinedge.model.config import ModelConfig
from skinedge.weights.lora import CONFIG_FILE, WEIGHTS_FILE
from train.backbone import Backbone
from train.batches import Batch
from train.settings import LoraSection
from train.students import Said

_LANGUAGE = {
    "attention": r"self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    "mlp": r"mlp\.(gate_proj|up_proj|down_proj)",
}
_VISION = {
    "attention": r"blocks\.\d+\.attn\.(qkv|proj)",
    "mlp": r"blocks\.\d+\.mlp\.(gate_proj|up_proj|down_proj)",
    "merger": r"merger\.mlp\.(0|2)",
}
_PREFIX = "base_model.model."


class LoraModule(nn.Module):
    """A model with LoRA layers that takes a whole batch."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model
        self._backbone = backbone

    def forward(self, batch: Batch) -> Said:
        """The model on the batch's conversations."""
        return Said(self._backbone.hidden(batch.examples), None)


class LoraStudent:
    """A fresh LoRA in a frozen model; B is zero, so it changes nothing yet.  Its own weights are float32."""

    def __init__(self, section: LoraSection, folder: Path, config: ModelConfig, precision: str, checkpointing: bool) -> None:
        backbone = Backbone.frozen(folder, config, precision, torch.device("cpu"), checkpointing=checkpointing)
        self._config = peft.LoraConfig(
            r=section.rank,
            lora_alpha=section.alpha,
            lora_dropout=section.dropout,
            target_modules=_pattern(section),
            task_type="CAUSAL_LM",
            bias="none",
        )
        peft.inject_adapter_in_model(self._config, backbone.model)
        for parameter in backbone.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        backbone.model.train()
        self.module: nn.Module = LoraModule(backbone)

    def write(self, folder: Path, state: dict[str, Tensor]) -> None:
        tensors = {_PREFIX + n.removeprefix("model.").replace(".default.", "."): t.contiguous() for n, t in state.items()}
        save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
        self._config.inference_mode = True
        self._config.save_pretrained(str(folder))

    def read(self, folder: Path) -> dict[str, Tensor]:
        tensors = load_file(folder / WEIGHTS_FILE)
        return {"model." + n.removeprefix(_PREFIX).removesuffix("weight") + "default.weight": t for n, t in tensors.items()}


def _pattern(section: LoraSection) -> str:
    """The modules to adapt, as one pattern over the names of the model in memory."""
    language = [rf"model\.language_model\.layers\.\d+\.{_LANGUAGE[part]}" for part in section.language]
    return "|".join(f"({p})" for p in (*language, *(rf"model\.visual\.{_VISION[part]}" for part in section.vision)))


__all__ = ["CONFIG_FILE", "LoraModule", "LoraStudent"]
