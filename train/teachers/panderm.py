"""PanDerm, a vision transformer pretrained on photographs of skin: the teacher of SkinGPT-R1.

Yan et al., "A multimodal vision foundation model for clinical dermatology", Nature Medicine 2025;
https://github.com/SiyuanYan1/PanDerm, from which the layout, the preparation of the picture and the choice of the
class token as the feature are taken (``linear_probe/models``).  It is CAE v2's encoder (Chen et al., arXiv 2202.03026;
Zhang et al., arXiv 2211.09799): pre-norm blocks with layer scale, a bias on queries and values but not on keys, fixed
sine-cosine positions that are stored with the weights.  A head has 64 values.

The file may be the pretraining run's (names begin with ``encoder.``; its other networks are left out), the bare
encoder's, or a fine-tuned classifier's, whose mean-pooled features are then the ones its head sees.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from skinedge.errors import CheckpointError, UsageError
from skinedge.weights.shards import Shards, shard_paths
from skinedge.weights.source import RenamedSource, TensorSource
from train.teachers import Teacher
from train.teachers._encoder import Pixels, pixel_encoder, read_tensors

HEAD_SIZE = 64
EPSILON = 1e-6
# Of the pretraining run: what guesses hidden patches, and its targets.  Of a fine-tuned classifier: its head.
_BESIDE = (
    "head.",
    "mask_token",
    "rd_pos_embed",
    "regresser.",
    "decoder.",
    "encoder_to_regresser",
    "alignment_encoder.",
    "teacher.",
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)  # theirs; ImageNet's first deviation is 0.229
CONVERT = (
    'Convert it once, where you trust it: python -c "import argparse, torch, safetensors.torch as s; '
    "torch.serialization.add_safe_globals([argparse.Namespace]); w = torch.load('FILE.pth', 'cpu', weights_only=True); "
    "s.save_file({k: v.contiguous() for k, v in w.get('model', w).items()}, 'panderm.safetensors')\"."
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the transformer, read off its tensors; ``tokens`` counts the class token."""

    width: int
    mlp: int
    depth: int
    patch: int
    tokens: int
    pooled: str  # the normalisation before the feature: "norm" of the class token, or "fc_norm" of the patches' mean

    @property
    def side(self) -> int:
        """Pixels of a side of the picture."""
        return math.isqrt(max(self.tokens - 1, 0)) * self.patch

    @property
    def possible(self) -> bool:
        """Whether the width can be cut into heads and the patches make a square."""
        square = math.isqrt(max(self.tokens - 1, 0)) ** 2 == self.tokens - 1 > 0
        return square and self.patch > 0 and self.width > 0 and self.width % HEAD_SIZE == 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor there has to be."""
        w, m = self.width, self.mlp
        block = {
            "norm1.weight": (w,), "norm1.bias": (w,), "norm2.weight": (w,), "norm2.bias": (w,),
            "attn.qkv.weight": (3 * w, w), "attn.q_bias": (w,), "attn.v_bias": (w,),
            "attn.proj.weight": (w, w), "attn.proj.bias": (w,),
            "mlp.fc1.weight": (m, w), "mlp.fc1.bias": (m,), "mlp.fc2.weight": (w, m), "mlp.fc2.bias": (w,),
            "gamma_1": (w,), "gamma_2": (w,),
        }  # fmt: skip
        blocks = {f"blocks.{i}.{name}": shape for i in range(self.depth) for name, shape in block.items()}
        patch = {"patch_embed.proj.weight": (w, 3, self.patch, self.patch), "patch_embed.proj.bias": (w,)}
        ends = {"cls_token": (1, 1, w), "pos_embed": (1, self.tokens, w)}
        return {**ends, **patch, **blocks, f"{self.pooled}.weight": (w,), f"{self.pooled}.bias": (w,)}


def open_teacher(argument: str) -> Teacher:
    """The teacher in ``argument``, a safetensors file or a folder of them.

    Raises:
        UsageError: there is no such place.
        CheckpointError: it is a pickle, damaged, or not of this layout; the first tensor at fault is named.
    """
    path = Path(argument)
    if not argument or not path.exists():
        raise UsageError(
            f"the teacher panderm needs its weights, and '{argument}' is no file or folder.", hint="Write panderm:FILE."
        )
    files = [path] if path.is_file() else list(path.iterdir())
    if all(file.suffix != ".safetensors" for file in files):
        raise CheckpointError(f"{path}: only safetensors are read: a .pth file can run code when it is opened.", hint=CONVERT)
    source = encoder_of(Shards(path))
    sizes = read_sizes(source, path)
    check(source, sizes, path)
    weights = read_tensors(source)
    mean, std = (tuple(255 * v for v in values) for values in (_MEAN, _STD))
    # Their preparation: the shorter side to 256 pixels, of which the central 224 are kept.
    pixels = Pixels(sizes.side, mean, std, crop=224 / 256, resample=Image.Resampling.BILINEAR)  # type: ignore[arg-type]
    return pixel_encoder(f"panderm:{path}", _digest(path), pixels, partial(forward, weights, sizes))


def encoder_of(stored: TensorSource) -> TensorSource:
    """The encoder's tensors under their bare names, without what is known to stand beside it.

    Raises:
        CheckpointError: a tensor is there twice, with and without the prefix.
    """
    bare: dict[str, str] = {}
    for stored_name in stored.names():
        name = stored_name.removeprefix("encoder.")
        if name in bare:
            raise CheckpointError(f"tensors '{bare[name]}' and '{stored_name}' are the same tensor in two spellings.")
        if not name.startswith(_BESIDE):
            bare[name] = stored_name
    return RenamedSource(stored, bare)


def read_sizes(source: TensorSource, where: Path) -> Sizes:
    """The sizes that the tensors imply.

    Raises:
        CheckpointError: a tensor from which they are read is missing, or they are impossible.
    """
    names = set(source.names())
    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if name not in names:
            raise CheckpointError(f"{where}: tensor '{name}' is missing: this is not PanDerm's layout.", hint=_KNOWN)
    kernel, positions, fc1 = (source.spec(n).shape for n in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"))
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    pooled = "fc_norm" if "fc_norm.weight" in names and "norm.weight" not in names else "norm"
    if len(kernel) != 4 or len(positions) != 3 or len(fc1) != 2:
        raise CheckpointError(
            f"{where}: the tensors of its patches have shapes {kernel}, {positions}, {fc1}: this is not PanDerm's layout."
        )
    sizes = Sizes(kernel[0], fc1[0], depth, kernel[-1], positions[1], pooled)
    if not sizes.possible:
        raise CheckpointError(
            f"{where}: width {sizes.width} and {sizes.tokens} positions make no heads of {HEAD_SIZE} and no square of patches.",
            hint=_KNOWN,
        )
    return sizes


_KNOWN = "Give the weights of https://github.com/SiyuanYan1/PanDerm as safetensors."


def check(source: TensorSource, sizes: Sizes, where: Path) -> None:
    """Every tensor is there in its shape, and no other.

    Raises:
        CheckpointError: it is not so.
    """
    expected, found = sizes.shapes(), {name: source.spec(name).shape for name in source.names()}
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{where}: tensor '{name}' is missing.", hint=_KNOWN)
        if found[name] != shape:
            raise CheckpointError(f"{where}: tensor '{name}' has shape {found[name]} where {shape} was due.", hint=_KNOWN)
    for name in found:
        if name not in expected:
            raise CheckpointError(f"{where}: tensor '{name}' is unexpected: no part of PanDerm is called so.", hint=_KNOWN)


def forward(weights: Mapping[str, Tensor], sizes: Sizes, pixels: Tensor) -> Tensor:
    """``[n, width]`` of normalised pixels, ``[n, 3, side, side]``."""

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (sizes.width,), weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attention(at: str, x: Tensor) -> Tensor:
        query, value = weights[f"{at}.q_bias"], weights[f"{at}.v_bias"]
        bias = torch.cat((query, torch.zeros_like(query), value))
        qkv = functional.linear(x, weights[f"{at}.qkv.weight"], bias).view(*x.shape[:2], 3, -1, HEAD_SIZE)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, tokens, 64]
        return linear(f"{at}.proj", functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mlp(at: str, x: Tensor) -> Tensor:
        return linear(f"{at}.fc2", functional.gelu(linear(f"{at}.fc1", x)))

    patch = functional.conv2d(pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], sizes.patch)
    tokens = weights["cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat((tokens, patch.flatten(2).transpose(1, 2)), 1) + weights["pos_embed"]
    for at in (f"blocks.{i}" for i in range(sizes.depth)):
        x = x + weights[f"{at}.gamma_1"] * attention(f"{at}.attn", norm(f"{at}.norm1", x))
        x = x + weights[f"{at}.gamma_2"] * mlp(f"{at}.mlp", norm(f"{at}.norm2", x))
    return norm(sizes.pooled, x[:, 0] if sizes.pooled == "norm" else x[:, 1:].mean(1))


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in shard_paths(path):
        with file.open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()
