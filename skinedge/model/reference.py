"""What the model says in PyTorch: the reference that every bundle is compared with.

It shares as little as possible with the export, so that a fault of one does not hide in the other: the
network is ``transformers``' own, the files are read by the ``safetensors`` library, a LoRA is merged by
PEFT itself (in the stored type, as ``merge_and_unload`` does, before anything is cast), and the side
branch is a torch module of its own that routes sparsely.  Only the checks of names and shapes are
``open_checkpoint``'s.

Attention is ``sdpa``, the default under which the released scripts run; ``eager`` gives the same logits
to 1e-5 and needs a P x P matrix per head for the vision tower (1.7 GB at the pixel cap).

Only this file and ``skinedge.calibration.layers`` import torch and transformers, and only this one peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skinedge.errors import AdapterError, MissingDependencyError, PromptError
from skinedge.model.adapter import RENORMALISE_EPS, TOP_K, AdapterShape, released_name
from skinedge.model.names import EMBEDDING, HEAD, in_memory
from skinedge.registry import check
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, check_prompt
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.lora import CONFIG_FILE as LORA_CONFIG
from skinedge.weights.shards import shard_paths

try:
    import accelerate
    import peft
    import safetensors
    import torch
    import transformers
    from torch import Tensor, nn
except ModuleNotFoundError as e:
    if e.name not in ("accelerate", "peft", "safetensors", "torch", "transformers"):
        raise  # one of them is installed and broken: its own words say it best
    raise MissingDependencyError(
        f"the PyTorch reference needs {e.name}, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
    ) from e

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class BranchState(NamedTuple):
    """What the side branch says of one image; see ``skinedge.model.adapter.BranchOutput``."""

    shift: Tensor  # [hidden]
    skin: Tensor  # [3] probabilities
    embedding: Tensor  # [teacher]


class SideBranchModule(nn.Module):
    """The side branch of SkinGPT-R1 (arXiv 2511.15242); ``state_dict`` has the released names."""

    def __init__(self, shape: AdapterShape, *, teacher_bias: bool = True) -> None:
        super().__init__()
        self.distill_head = _DistillHead(shape, teacher_bias)
        self.text_bias = nn.Sequential(
            nn.Linear(shape.width, shape.bias_rank, bias=False),
            nn.Tanh(),
            nn.Linear(shape.bias_rank, shape.hidden, bias=False),
        )
        self.logit_bias_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, patches: Tensor) -> BranchState:
        """Run on one image's patch rows ``[P, patch_values]``."""
        v, skin = self.distill_head(patches)
        return BranchState(self.logit_bias_scale * self.text_bias(v), skin, self.distill_head.out_proj(v))

    def bias(self, shift: Tensor, head: nn.Linear) -> Tensor:
        """The bias on the vocabulary logits that ``shift`` comes to through the language model's head."""
        logits: Tensor = head(shift.to(head.weight.dtype))
        return logits


class _DistillHead(nn.Module):
    def __init__(self, shape: AdapterShape, teacher_bias: bool) -> None:
        super().__init__()
        self.in_proj = nn.Linear(shape.patch_values, shape.width, bias=False)
        self.skin_classifier = _net(shape.width, shape.skin_hidden, shape.skin_types)
        layer = _RoutedLayer if shape.experts else _PlainLayer
        self.adapters = nn.ModuleList(layer(shape) for _ in range(shape.layers))
        self.out_proj = nn.Linear(shape.width, shape.teacher, bias=teacher_bias)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        h = self.in_proj(patches)
        skin = self.skin_classifier(h.mean(0)).softmax(-1)
        for layer in self.adapters:
            h = h + layer(h, skin)
        return h.mean(0), skin


class _PlainLayer(nn.Module):
    """Version 1: one residual bottleneck."""

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.net = _net(shape.width, shape.bottleneck, shape.width)

    def forward(self, h: Tensor, skin: Tensor) -> Tensor:  # noqa: ARG002  (the routed layer reads it)
        result: Tensor = self.net(h)
        return result


class _RoutedLayer(nn.Module):
    """Version 2: each patch goes to the two experts that its router likes best, and to no other."""

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.router_img = nn.Linear(shape.width, shape.experts, bias=False)
        self.router_skin = nn.Linear(shape.skin_types, shape.experts, bias=False)
        self.experts = nn.ModuleList(_Expert(shape) for _ in range(shape.experts))

    def forward(self, h: Tensor, skin: Tensor) -> Tensor:
        route = (self.router_img(h) + self.router_skin(skin)).softmax(-1)
        kept, chosen = route.topk(min(TOP_K, len(self.experts)), dim=-1)
        kept = kept / (kept.sum(-1, keepdim=True) + RENORMALISE_EPS)
        out = torch.zeros_like(h)
        for e, expert in enumerate(self.experts):
            rows, slot = (chosen == e).nonzero(as_tuple=True)
            out.index_add_(0, rows, kept[rows, slot, None] * expert(h[rows]))
        return out


class _Expert(nn.Module):
    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.net = _net(shape.width, shape.bottleneck, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


def _net(inside: int, middle: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, middle), nn.ReLU(), nn.Linear(middle, outside))


class Reference:
    """A checkpoint in PyTorch.  Implements ``skinedge.runtime.session.Session``, with the bias at every position."""

    def __init__(self, model: transformers.Qwen2_5_VLForConditionalGeneration, branch: SideBranchModule | None) -> None:
        self.model = model.eval()
        self.branch = branch.eval() if branch else None
        self._image_token = int(model.config.image_token_id)
        self._cache = transformers.DynamicCache(config=model.config)
        self._bias: Tensor | None = None
        self._next_position = 0
        self.vocab_size = int(model.config.text_config.vocab_size)
        self.context_length = int(model.config.text_config.max_position_embeddings)
        self.on_gpu = bool(model.device.type == "cuda")

    @classmethod
    def from_checkpoint(
        cls, folder: Path, adapters: Sequence[Path] = (), *, dtype: str = "f32", threads: int | None = None, device: str = "cpu"
    ) -> Reference:
        """Load a checkpoint in the released layout or with its adapters beside it.

        Args:
            folder: as for ``open_checkpoint``; either spelling of the tensor names.
            adapters: as for ``open_checkpoint``.
            dtype: ``f32``, ``f16`` or ``bf16``, the type of the arithmetic; the side branch stays in float32.
            threads: CPU threads, for the whole process (torch has one setting); ``None`` leaves it alone.
            device: a torch device.

        Raises:
            CheckpointError: a tensor of the model is missing, unexpected or misshapen; it is named.
            AdapterError: the same of an adapter.
        """
        check("type", dtype, tuple(DTYPES))
        if threads:
            torch.set_num_threads(threads)
        checkpoint = open_checkpoint(folder, adapters)
        model = _load_base(checkpoint)
        for path in adapters:
            if (path / LORA_CONFIG).is_file():
                model = merge_lora(model, path)
        branch = _load_branch(checkpoint)
        return cls(model.to(device, DTYPES[dtype]), branch.to(device) if branch else None)

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """Run the vision tower and, if there is one, the side branch."""
        patches, grid = self._image_inputs([pixels])
        features = self.model.get_image_features(patches, grid, return_dict=True).pooler_output[0]
        if self.branch is None:
            return ImageEncoding(pixels.grid, _numpy(features), None, None)
        state = self.branch(patches.float())
        bias = self.branch.bias(state.shift, self.model.lm_head)
        return ImageEncoding(pixels.grid, _numpy(features), _numpy(bias), _numpy(state.skin))

    @torch.inference_mode()
    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        """See ``Session.prefill``: from the features and positions given, so that this stage is compared by itself."""
        check_prompt(prompt, images, self.context_length)
        embeds = self._embed(prompt, *images)[keep:]
        surplus = self._cache.get_seq_length() - keep if keep else 0
        if surplus:
            self._cache.crop(-surplus)
        if not keep:
            self._cache = transformers.DynamicCache(config=self.model.config)
        self._bias = None if bias is None else self._tensor(bias)
        self._next_position = prompt.next_position
        return self._forward(embeds, self._tensor(prompt.positions[:, keep:]), all_positions)

    @torch.inference_mode()
    def step(self, token: int) -> Float32:
        """See ``Session.step``."""
        if self._cache.get_seq_length() >= self.context_length:
            raise PromptError(f"the context of {self.context_length} tokens is full.")
        embeds = self._embedding([token])
        positions = self._tensor(np.full((3, 1), self._next_position))
        self._next_position += 1
        return self._forward(embeds, positions, False)

    @torch.inference_mode()
    def along(self, prompt: Prompt, image: ImageEncoding, tokens: Sequence[int]) -> Float32:
        """Logits ``[len(tokens), vocabulary]`` before each of ``tokens`` after the prompt, bias included: one pass, no cache."""
        check_prompt(prompt, [image], self.context_length)
        embeds = torch.cat([self._embed(prompt, image), self._embedding(tokens[:-1])])
        following = torch.arange(len(tokens) - 1, device=embeds.device) + prompt.next_position
        positions = torch.cat([self._tensor(prompt.positions), following.expand(3, -1)], 1)
        out = self.model(inputs_embeds=embeds[None], position_ids=positions[:, None], use_cache=False, logits_to_keep=len(tokens))
        logits = out.logits[0].float()
        return _numpy(logits if image.bias is None else logits + self._tensor(image.bias))

    @torch.inference_mode()
    def greedy(
        self, prompts: Sequence[Prompt], images: Sequence[ImageEncoding], ends: Sequence[int], most: int
    ) -> list[list[int]]:
        """The likeliest token after the other, bias included, for prompts of one length and an image each, all together.

        Returns:
            Per prompt at most ``most`` tokens, the last of them one of ``ends`` where it ended by itself.
        """
        cache = transformers.DynamicCache(config=self.model.config)
        embeds = torch.stack([self._embed(p, i) for p, i in zip(prompts, images, strict=True)])
        positions = self._tensor(np.stack([p.positions for p in prompts], 1))
        places = self._tensor(np.array([p.next_position for p in prompts]))
        biases = [i.bias for i in images if i.bias is not None]
        bias = self._tensor(np.stack(biases)) if biases else None
        alive, told = torch.arange(len(prompts)), [[] for _ in prompts]  # type: tuple[Tensor, list[list[int]]]
        while True:
            out = self.model(
                inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logits = out.logits[:, 0].float()
            chosen = (logits if bias is None else logits + bias).argmax(-1)
            for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                told[row].append(token)
            going = ~torch.isin(chosen, self._tensor(np.array(ends)))
            alive, chosen, places = alive[going.cpu()], chosen[going], places[going]
            if not len(alive) or len(told[int(alive[0])]) == most:
                return told
            if not bool(going.all()):
                cache.batch_select_indices(going)
                bias = None if bias is None else bias[going]
            embeds = self.model.get_input_embeddings()(chosen[:, None])
            positions, places = places.expand(3, -1)[..., None], places + 1

    @torch.inference_mode()
    def end_to_end_logits(self, pixels: Sequence[Pixels], prompt: Prompt) -> Float32:
        """Logits ``[S, vocabulary]`` of the untouched model: its own image features, its own positions, no bias."""
        inputs = self.inputs(pixels, prompt)
        return _numpy(self.model(**inputs, use_cache=False).logits[0])

    def inputs(self, pixels: Sequence[Pixels], prompt: Prompt) -> dict[str, Tensor]:
        """The arguments of the model's own ``forward``."""
        ids = self._tensor(prompt.token_ids)[None]
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not pixels:
            return text
        patches, grid = self._image_inputs(pixels)
        kinds = (ids == self._image_token).int()
        return text | {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": kinds}

    def close(self) -> None:
        """Free the model."""
        for name in ("model", "branch", "_cache", "_bias"):
            if hasattr(self, name):
                delattr(self, name)

    def _forward(self, embeds: Tensor, positions: Tensor, all_positions: bool) -> Float32:
        out = self.model(
            inputs_embeds=embeds[None],
            position_ids=positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0 if all_positions else 1,
        )
        logits = out.logits[0].float()
        if self._bias is not None:
            logits = logits + self._bias
        return _numpy(logits if all_positions else logits[0])

    def _embed(self, prompt: Prompt, *images: ImageEncoding) -> Tensor:
        """``[S, hidden]``: the prompt's embeddings with the images' features in their places."""
        ids = self._tensor(prompt.token_ids)
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        if images:
            features = self._tensor(np.concatenate([i.features for i in images])).to(embeds.dtype)
            embeds[ids == self._image_token] = features
        return embeds

    def _embedding(self, tokens: Sequence[int]) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(self._tensor(np.array(tokens, np.int64)))
        return embeds

    def _image_inputs(self, pixels: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        patches = self._tensor(np.concatenate([p.patches for p in pixels]))
        grids = np.array([(p.grid.frames, p.grid.height, p.grid.width) for p in pixels])
        return patches, self._tensor(grids)

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self.model.device)


def merge_lora(
    model: transformers.Qwen2_5_VLForConditionalGeneration, folder: Path
) -> transformers.Qwen2_5_VLForConditionalGeneration:
    """``model`` with a PEFT LoRA merged by PEFT itself, in the model's own types.

    The adapter may have been saved from a model with another spelling: names are brought to this one's.

    Raises:
        AdapterError: PEFT has a place for a tensor that the file lacks, or the other way round.
    """
    stored = _read([folder / peft.utils.SAFETENSORS_WEIGHTS_NAME], side_branch=False)
    saved = {name.removeprefix("base_model.model."): t for name, t in stored}
    tensors = {f"base_model.model.{in_memory(name)}": t for name, t in saved.items()}
    config = _for_this_model(peft.LoraConfig.from_pretrained(str(folder)), saved)
    with warnings.catch_warnings():
        # PEFT still asks transformers for a name that transformers is about to rename.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.get_peft_model(model, config)
    result = peft.set_peft_model_state_dict(adapted, tensors)
    missing = [n for n in result.missing_keys if ".lora_" in n or ".modules_to_save." in n]
    for kind, names in (("missing from it", missing), ("unknown to PEFT", result.unexpected_keys)):
        if names:
            raise AdapterError(f"{folder}: adapter tensor '{names[0]}' is {kind}.")
    return adapted.merge_and_unload()


def _for_this_model(config: peft.LoraConfig, saved: Iterable[str]) -> peft.LoraConfig:
    """The adapter's settings with its modules named one by one as in this model; PEFT's own rule reads its patterns."""
    modules = {n.split(".lora_")[0] for n in saved if ".lora_" in n}
    for pattern in (config.rank_pattern, config.alpha_pattern):
        values = {m: pattern.get(peft.utils.other.get_pattern_key(pattern, m)) for m in modules}
        pattern.clear()
        pattern.update({in_memory(m): value for m, value in values.items() if value is not None})
    config.target_modules = {in_memory(m) for m in modules}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.modules_to_save = [in_memory(m) for m in config.modules_to_save or ()] or None
    return config


def _load_base(checkpoint: Checkpoint) -> transformers.Qwen2_5_VLForConditionalGeneration:
    """The network with its weights in their stored types; none is left as it was initialised."""
    config = transformers.AutoConfig.from_pretrained(checkpoint.folder)
    with accelerate.init_empty_weights(include_buffers=False):
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    model.set_attn_implementation("sdpa")
    stored = _read(shard_paths(checkpoint.folder), side_branch=False)
    tensors = {in_memory(name.removeprefix("base_model.model.")): t for name, t in stored}
    if checkpoint.config.text.tie_word_embeddings:
        tensors[HEAD] = tensors[in_memory(EMBEDDING)]
    model.load_state_dict(tensors, strict=True, assign=True)
    model.tie_weights()
    if (checkpoint.folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(checkpoint.folder)
    return model


def _load_branch(checkpoint: Checkpoint) -> SideBranchModule | None:
    if checkpoint.side_branch is None:
        return None
    files = [file for folder in (checkpoint.folder, *checkpoint.adapters) for file in shard_paths(folder)]
    tensors = {str(released_name(name)): t.float() for name, t in _read(files, side_branch=True)}
    tensors["logit_bias_scale"] = tensors["logit_bias_scale"].reshape(())
    branch = SideBranchModule(checkpoint.side_branch.shape, teacher_bias="distill_head.out_proj.bias" in tensors)
    branch.load_state_dict(tensors, strict=True)
    return branch


def _read(files: Iterable[Path], *, side_branch: bool) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors that belong to the side branch, or all others."""
    for path in files:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (a file handle, not a dict)
                if (released_name(name) is not None) == side_branch:
                    yield name, file.get_tensor(name)


def _numpy(values: Tensor) -> Float32:
    result: Float32 = values.float().cpu().numpy()
    return result
