"""The side branch of SkinGPT-R1: what its tensors are, and its arithmetic in numpy.

Source: arXiv 2511.15242 and the released tensor names (REFERENCE section 1).  The branch reads the
raw patch rows of an image and ends in a bias on the vocabulary logits that is constant for that
image::

    h = in_proj(patches)                                            [P, width]
    skin = softmax(skin_classifier(mean_p h))                       [3]  light, medium, dark
    per layer: r = softmax(router_img(h) + router_skin(skin)), keep the top 2, divide by sum + 1e-6
               h = h + sum_e r_e * expert_e(h)
    v = mean_p h                                                    [width]
    shift = logit_bias_scale * text_bias.2(tanh(text_bias.0(v)))    [hidden]
    logits += W_lm_head . shift

``experts = 0`` is version 1 of the paper, where each layer is one residual bottleneck without a
router (``adapters.N.net.*``); ``experts = 8`` is version 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skinedge.errors import AdapterError
from skinedge.weights.source import Float32

TOP_K = 2
RENORMALISE_EPS = 1e-6
PREFIXES = ("distill_head.", "text_bias.", "logit_bias_scale")
_INCOMPLETE = "Released shards are known to leave some out; save the whole state dict of the adapters."


@dataclass(frozen=True)
class AdapterShape:
    """Sizes of a side branch; the released one is 1176, 1024, 4 layers, 8 experts, 64, 64, 3, 64."""

    patch_values: int
    width: int
    layers: int
    experts: int
    bottleneck: int
    skin_hidden: int
    skin_types: int
    bias_rank: int
    hidden: int
    teacher: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the branch under its released name."""
        head = "distill_head."
        shapes: dict[str, tuple[int, ...]] = {
            head + "in_proj.weight": (self.width, self.patch_values),
            head + "skin_classifier.0.weight": (self.skin_hidden, self.width),
            head + "skin_classifier.0.bias": (self.skin_hidden,),
            head + "skin_classifier.2.weight": (self.skin_types, self.skin_hidden),
            head + "skin_classifier.2.bias": (self.skin_types,),
        }
        for i in range(self.layers):
            layer = f"{head}adapters.{i}."
            if self.experts:
                shapes[layer + "router_img.weight"] = (self.experts, self.width)
                shapes[layer + "router_skin.weight"] = (self.experts, self.skin_types)
            for net in self.nets(i):
                shapes[net + "0.weight"] = (self.bottleneck, self.width)
                shapes[net + "0.bias"] = (self.bottleneck,)
                shapes[net + "2.weight"] = (self.width, self.bottleneck)
                shapes[net + "2.bias"] = (self.width,)
        return shapes | {
            head + "out_proj.weight": (self.teacher, self.width),
            head + "out_proj.bias": (self.teacher,),
            "text_bias.0.weight": (self.bias_rank, self.width),
            "text_bias.2.weight": (self.hidden, self.bias_rank),
            "logit_bias_scale": (),
        }

    def nets(self, layer: int) -> tuple[str, ...]:
        """Name prefixes of the bottleneck networks of one layer."""
        stem = f"distill_head.adapters.{layer}."
        if not self.experts:
            return (stem + "net.",)
        return tuple(f"{stem}experts.{e}.net." for e in range(self.experts))


def released_name(stored: str) -> str | None:
    """The released name of a side-branch tensor, whatever wrapper it was saved from; ``None`` for other tensors.

    >>> released_name("base_model.model.text_bias.0.weight")
    'text_bias.0.weight'
    """
    bare = stored.removeprefix("base_model.model.").removeprefix("model.").replace(".modules_to_save.default.", ".")
    return bare if bare.startswith(PREFIXES) else None


def infer_shape(found: Mapping[str, tuple[int, ...]], *, hidden: int, patch_values: int, where: str) -> AdapterShape:
    """The sizes of a side branch from its tensors, checked against the model it is for.

    Args:
        found: tensor name -> shape.
        hidden: the language model's hidden size.
        patch_values: values in one of the model's patch rows.
        where: the file or folder, for the message.

    Raises:
        AdapterError: a tensor is missing, unexpected or misshapen; it is named.
    """

    def size(name: str, axis: int) -> int:
        if name not in found:
            raise AdapterError(f"{where}: adapter tensor '{name}' is missing.", hint=_INCOMPLETE)
        if len(found[name]) <= axis:
            raise AdapterError(f"{where}: adapter tensor '{name}' has shape {found[name]}, too few axes.")
        return found[name][axis]

    head = "distill_head."
    # Counted, not the highest index: a gap or a wild number then shows as a missing and an unexpected tensor.
    layers = len({m[1] for n in found if (m := re.match(r"distill_head\.adapters\.(\d+)\.", n))})
    experts = len({m[1] for n in found if (m := re.match(r"distill_head\.adapters\.0\.experts\.(\d+)\.", n))})
    first = AdapterShape(0, 0, 1, experts, 0, 0, 0, 0, 0, 0).nets(0)[0]
    shape = AdapterShape(
        patch_values=patch_values,
        width=size(head + "in_proj.weight", 0),
        layers=layers,
        experts=experts,
        bottleneck=size(first + "0.weight", 0) if layers else 0,
        skin_hidden=size(head + "skin_classifier.0.weight", 0),
        skin_types=size(head + "skin_classifier.2.weight", 0),
        bias_rank=size("text_bias.0.weight", 0),
        hidden=hidden,
        teacher=size(head + "out_proj.weight", 0),
    )
    _compare(found, shape.tensors(), where)
    return shape


def _compare(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    optional = {"distill_head.out_proj.bias"}
    for name, wanted in expected.items():
        if name not in found and name not in optional:
            raise AdapterError(f"{where}: adapter tensor '{name}' is missing.", hint=_INCOMPLETE)
        # The scale is a scalar that some writers store as one element.
        same = name not in found or found[name] == wanted or (wanted == () and found[name] == (1,))
        if not same:
            raise AdapterError(
                f"{where}: adapter tensor '{name}' has shape {found[name]} where this model needs {wanted}.",
                hint="This adapter belongs to a model of another size.",
            )
    for name in found:
        if name not in expected:
            raise AdapterError(f"{where}: adapter tensor '{name}' is unexpected.")


@dataclass(frozen=True)
class BranchOutput:
    """What the branch says of one image."""

    shift: Float32  # [hidden]; added to the final hidden state, the head turns it into the bias
    skin: Float32  # [3] probabilities: light, medium, dark
    embedding: Float32  # [teacher]; the image in the distillation teacher's space


def run_branch(shape: AdapterShape, weights: Mapping[str, Float32], patches: Float32) -> BranchOutput:
    """The branch on one image's patch rows ``[P, patch_values]``, experts routed one by one."""
    head = "distill_head."
    h = patches @ weights[head + "in_proj.weight"].T
    skin = _softmax(run_net(weights, head + "skin_classifier.", h.mean(0)))
    for i in range(shape.layers):
        h = h + _layer(shape, weights, i, h, skin)
    v = h.mean(0)
    shift = weights["text_bias.2.weight"] @ np.tanh(weights["text_bias.0.weight"] @ v)
    embedding = weights[head + "out_proj.weight"] @ v + weights.get(head + "out_proj.bias", np.float32(0))
    return BranchOutput(weights["logit_bias_scale"].reshape(()) * shift, skin, embedding)


def _layer(shape: AdapterShape, weights: Mapping[str, Float32], i: int, h: Float32, skin: Float32) -> Float32:
    nets = shape.nets(i)
    if not shape.experts:
        return run_net(weights, nets[0], h)
    stem = f"distill_head.adapters.{i}."
    scores = h @ weights[stem + "router_img.weight"].T + weights[stem + "router_skin.weight"] @ skin
    route = _softmax(scores)
    chosen = np.argsort(-route, axis=-1, kind="stable")[:, :TOP_K]
    kept = np.take_along_axis(route, chosen, -1)
    kept = kept / (kept.sum(-1, keepdims=True) + np.float32(RENORMALISE_EPS))
    out = np.zeros_like(h)
    for e, net in enumerate(nets):
        rows, slot = np.nonzero(chosen == e)
        if len(rows):
            out[rows] += kept[rows, slot, None] * run_net(weights, net, h[rows])
    return out


def run_net(weights: Mapping[str, Float32], prefix: str, x: Float32) -> Float32:
    """Linear, ReLU, Linear: the classifier and the experts are such networks."""
    inner = np.maximum(x @ weights[prefix + "0.weight"].T + weights[prefix + "0.bias"], 0)
    result: Float32 = inner @ weights[prefix + "2.weight"].T + weights[prefix + "2.bias"]
    return result


def _softmax(x: Float32) -> Float32:
    e = np.exp(x - x.max(-1, keepdims=True))
    result: Float32 = e / e.sum(-1, keepdims=True)
    return result
