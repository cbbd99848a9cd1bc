"""Any image model of ``timm`` from a local folder in its hub layout: ``config.json`` and ``model.safetensors``.

The features are what the model's classifier would see.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from skinedge.errors import CheckpointError, MissingDependencyError, UsageError
from skinedge.weights.checkpoint import digest_of
from skinedge.weights.safetensors import SafetensorsFile
from train.teachers import Teacher
from train.teachers._encoder import Channels, Pixels, device, pixel_encoder, read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
Channel = Annotated[float, Field(gt=0, le=1)]


class PretrainedConfig(BaseModel):
    """What timm notes of the pictures a model was trained on; its defaults (``timm.models.PretrainedCfg``)."""

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bicubic"
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    crop_mode: str = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Channel, Channel, Channel] = (0.229, 0.224, 0.225)


class Config(BaseModel):
    """``config.json``."""

    architecture: str
    num_classes: int = Field(default=1000, ge=0)
    model_args: dict[str, object] = {}
    pretrained_cfg: PretrainedConfig = PretrainedConfig()


def open_teacher(argument: str) -> Teacher:
    """The model in the folder ``argument``.

    Raises:
        UsageError: there is no such folder, or no model in it.
        CheckpointError: its configuration or weights are damaged or not each other's.
        MissingDependencyError: ``timm`` is not installed.
    """
    folder = Path(argument)
    if not argument or not (folder / "config.json").is_file():
        raise UsageError(f"the teacher timm needs a model's folder, and '{argument}' has no config.json.", hint="Write timm:DIR.")
    config = read_config(folder)
    pixels = pixels_of(config.pretrained_cfg, folder)
    weights = read_tensors(SafetensorsFile(folder / WEIGHTS))
    network = _build(config, weights, folder)
    return pixel_encoder(f"timm:{folder}", digest_of([config.model_dump(), _sha256(folder / WEIGHTS)]), pixels, network)


def read_config(folder: Path) -> Config:
    """``config.json``, checked.

    Raises:
        CheckpointError: it is not timm's; the first field at fault is named.
    """
    try:
        return Config.model_validate_json((folder / "config.json").read_bytes())
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(
            f"{folder / 'config.json'}: {field}: {first['msg']}.", hint="timm.models.save_for_hf writes such a folder."
        ) from e


def pixels_of(config: PretrainedConfig, folder: Path) -> Pixels:
    """The picture the model was trained on.

    Raises:
        CheckpointError: it is prepared in a way that is not known here.
    """
    channels, height, width = config.input_size
    resample = Image.Resampling.__members__.get(config.interpolation.upper())
    if (channels, height) != (3, width) or height < 1 or resample is None or config.crop_mode not in ("center", "squash"):
        raise CheckpointError(
            f"{folder}: its pictures ({config.input_size}, {config.interpolation}, {config.crop_mode}) cannot be made here.",
            hint="Known are square RGB pictures, cropped in the centre or squashed; precompute its features elsewhere.",
        )
    mean, std = _of_bytes(config.mean), _of_bytes(config.std)
    return Pixels(height, mean, std, config.crop_pct, config.crop_mode == "squash", resample)


def _of_bytes(values: Channels) -> Channels:
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue


def _build(config: Config, weights: dict[str, Tensor], folder: Path) -> nn.Module:
    """The model with every one of its tensors, without its classifier."""
    try:
        create_model = importlib.import_module("timm").create_model
    except ModuleNotFoundError as e:
        raise MissingDependencyError(
            f"the teacher timm needs the package {e.name}.", hint="Install them: pip install timm torchvision."
        ) from e
    try:
        model = create_model(config.architecture, pretrained=False, num_classes=config.num_classes, **config.model_args)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:200].rstrip(".")
        raise CheckpointError(f"{folder}: timm cannot make '{config.architecture}' of it: {reason}.") from e
    model.reset_classifier(0)
    network: nn.Module = model.requires_grad_(False).eval().to(device())
    return network


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
