"""The whole state of a module and of its AdamW, as plain named tensors, however the two are spread over processes.

``torch.distributed.checkpoint`` gathers what FSDP has cut up and names what DDP has wrapped; nothing is pickled.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

Tensors = dict[str, Tensor]
# Not strict: of a LoRA's model only the LoRA is stored.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
# The settings of the parameter groups, which only the first process has of the whole.
_OWN = StateDictOptions(ignore_frozen_params=True, strict=False)


def whole_states(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
    """Trained weights by name, and the optimizer's state as ``kind/name``; on the CPU, of the first process only."""
    model = cast(Tensors, get_model_state_dict(module, options=_WHOLE))
    found = cast(dict[str, dict[str, Tensors]], get_optimizer_state_dict(module, optimizer, options=_WHOLE)).get("state", {})
    flat = {f"{kind}/{name}": value for name, kinds in found.items() for kind, value in kinds.items()}
    return model, {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in flat.items()}


def load_states(module: nn.Module, optimizer: torch.optim.Optimizer, model: Tensors, state: Tensors) -> None:
    """Put back what ``whole_states`` gave, on every process."""
    set_model_state_dict(module, cast(dict[str, Any], model), options=_WHOLE)
    kinds: dict[str, Tensors] = {}
    for name, value in state.items():
        kind, _, parameter = name.partition("/")
        kinds.setdefault(parameter, {})[kind] = value
    own = cast(dict[str, Any], get_optimizer_state_dict(module, optimizer, options=_OWN))
    set_optimizer_state_dict(module, optimizer, own | {"state": kinds}, options=_WHOLE)


def finite(state: Tensors) -> bool:
    """Whether every number of ``state`` is one."""
    return all(bool(t.isfinite().all()) for t in state.values())
