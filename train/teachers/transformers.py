"""Any image encoder of ``transformers`` from a local folder: ViT, DINOv2, the vision half of CLIP or SigLIP, ConvNeXt…

The features are the model's pooled output.  Where it has none (or one whose weights the folder lacks), they are the
class token's last state, and without a class token the mean over the patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from skinedge.errors import CheckpointError, MissingDependencyError, UsageError
from skinedge.weights.checkpoint import checkpoint_digest
from train.teachers import Teacher
from train.teachers._encoder import device, make_encoder

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

_CLASS_TOKENS = ("cls_token", "class_embedding")


def open_teacher(argument: str) -> Teacher:
    """The encoder in the folder ``argument``.

    Raises:
        UsageError: there is no such folder, or no model in it.
        CheckpointError: it is no image encoder ``transformers`` knows, lacks weights, or they are no safetensors.
        MissingDependencyError: ``transformers`` is not installed.
    """
    folder = Path(argument)
    if not argument or not (folder / "config.json").is_file():
        raise UsageError(
            f"the teacher transformers needs a model's folder, and '{argument}' has no config.json.",
            hint="Write transformers:DIR.",
        )
    model, pooled = _load_model(folder)
    processor = _load_processor(folder)

    def prepare(photograph: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=photograph, return_tensors="pt")["pixel_values"][0]
        return pixels

    def encode(pixels: Tensor) -> Tensor:
        return features_of(model, pixels, pooled)

    return make_encoder(f"transformers:{folder}", checkpoint_digest(folder), prepare, encode)


def features_of(model: PreTrainedModel, pixels: Tensor, pooled: bool) -> Tensor:
    """``[n, width]`` of what the processor made; ``pooled`` says whether the pooled output has learned weights."""
    output = model(pixel_values=pixels)
    found: Tensor | None = getattr(output, "pooler_output", None)
    if pooled and found is not None:
        return found.flatten(1)
    last: Tensor = output.last_hidden_state
    if last.ndim == 4:  # a convolutional network's map
        return last.mean((2, 3))
    classes = any(name.endswith(_CLASS_TOKENS) for name, _ in model.named_parameters())
    return last[:, 0] if classes else last.mean(1)


def _load_model(folder: Path) -> tuple[PreTrainedModel, bool]:
    """The vision model, and whether its pooling was among the weights."""
    with _reported(folder, "model"):
        from transformers import AutoModel

        model, info = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(info["missing_keys"])
    prefix = "vision_model." if hasattr(model, "vision_model") else ""
    lost = [name for name in missing if name.startswith(prefix) and "pooler" not in name]
    if lost:
        raise CheckpointError(f"{folder}: {len(lost)} tensors of the model are missing, '{lost[0]}' first.")
    vision = getattr(model, "vision_model", model)
    if vision.main_input_name != "pixel_values":
        raise CheckpointError(f"{folder}: {type(model).__name__} is no image encoder.", hint="Give a ViT, DINOv2, CLIP, SigLIP…")
    return vision.requires_grad_(False).eval().to(device()), not missing


def _load_processor(folder: Path) -> BaseImageProcessor:
    with _reported(folder, "image processor"):
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, backend="pil")


@contextmanager
def _reported(folder: Path, what: str) -> Iterator[None]:
    """Whatever ``transformers`` cannot open becomes one error; its own remarks are kept to itself."""
    try:
        with _silent():
            yield
    except ModuleNotFoundError as e:
        raise MissingDependencyError(
            f"the teacher transformers needs the package {e.name}.", hint="Install it: pip install 'skinedge[train]'."
        ) from e
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as e:
        reason = str(e).strip().split("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{folder}: transformers cannot open its {what}: {reason}.",
            hint="The folder must hold config.json, preprocessor_config.json and safetensors.",
        ) from e


@contextmanager
def _silent() -> Iterator[None]:
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
