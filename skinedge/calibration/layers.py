"""A model in PyTorch, one layer at a time: in the memory of the hidden states and of a single layer.

The layers are ``transformers``' own, filled from the merged weight stream, and what comes out equals the whole
model's forward (``tests/test_calibration.py``).  Who walks over the stages sees every linear layer with its weights
before it runs, and may hang hooks on it; when the next stage is asked for, the last one's weights are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from skinedge.calibration.samples import Sample
from skinedge.errors import MissingDependencyError
from skinedge.model.names import EMBEDDING, HEAD
from skinedge.runtime.session import Grid, Pixels
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.source import F32, TensorSource, row_blocks
from skinedge.weights.stream import Progress

try:
    import torch
    import transformers
    from torch import Tensor, nn
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index
except ModuleNotFoundError as e:
    if e.name not in ("torch", "transformers"):
        raise
    raise MissingDependencyError(
        f"calibrating a model needs {e.name}, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
    ) from e

__all__ = ["LayerStream", "Stage", "Tensor", "nn", "read_tensor", "torch", "use_threads"]


@dataclass(frozen=True)
class Stage:
    """One layer, filled with its weights.

    Attributes:
        name: of the layer, in the canonical spelling (``model.layers.3``).
        module: gives the hidden states after it.
        linears: what of it multiplies by a matrix, by the matrix's name.
        run: runs all samples through it, once.
        step: runs one hidden state through it, given the number of its sample (or picture).
    """

    name: str
    module: nn.Module
    linears: Mapping[str, nn.Module]
    run: Callable[[], None]
    step: Callable[[int, Tensor], Tensor]


class LayerStream:
    """All samples through a checkpoint, layer by layer.

    Args:
        checkpoint: its adapters are merged as its weights are read; a side branch takes no part.
        samples: what it reads.
        logits: end with the head's product (in blocks of its rows, each a stage); without it the head sees its
            inputs and computes nothing.
        progress: advanced by the bytes of the weights that are done with.
    """

    def __init__(self, checkpoint: Checkpoint, samples: Sequence[Sample], *, logits: bool, progress: Progress) -> None:
        self._config = transformers.AutoConfig.from_pretrained(checkpoint.folder)
        for part in (self._config.vision_config, self._config.text_config):
            part._attn_implementation = "sdpa"
        self._checkpoint, self._weights = checkpoint, checkpoint.weights
        self._samples, self._logits, self._progress = samples, logits, progress
        # Per picture [P, vision hidden], then per sample [S, hidden]; copies of all of them may be put behind.
        self.hidden: list[Tensor] = []
        self._count = 0  # how many make one copy
        self.current = 0  # which of them is being run

    def stages(self) -> Iterator[Stage]:
        """Each layer in its turn; ``run`` must be called before the next is asked for."""
        self._progress.begin("layers", sum(self._weights.spec(name).nbytes for name in self._weights.names()))
        features: list[Tensor] = []
        if any(sample.grids for sample in self._samples):
            yield from self._vision()
            features, self.hidden = self.hidden, []
        self.hidden, self._count = self._embed(features), len(self._samples)
        del features
        yield from self._decoder()

    def _vision(self) -> Iterator[Stage]:
        views = [_View(grid, self._config.vision_config) for sample in self._samples for grid in sample.grids]
        pictures = [load for sample in self._samples for load in sample.pixels]
        self.hidden, self._count = [torch.empty(0)] * len(pictures), len(pictures)
        yield self._patch_embedding(views, pictures)
        for number in range(self._config.vision_config.depth):
            yield self._block(number, views)
        yield self._merger(views)

    def _patch_embedding(self, views: Sequence[_View], pictures: Sequence[Callable[[], Pixels]]) -> Stage:
        # A convolution whose kernel is its stride is a linear layer over patches.
        vision = self._checkpoint.config.vision
        kernel = nn.Linear(vision.patch_values, vision.hidden_size, bias=False, device="meta")

        def embed(i: int, _: Tensor) -> Tensor:
            rows: Tensor = kernel(torch.from_numpy(pictures[i]().patches))
            return views[i].ordered(rows)

        return self._stage("visual.patch_embed.proj", kernel, embed)

    def _block(self, number: int, views: Sequence[_View]) -> Stage:
        config = self._config.vision_config
        with torch.device("meta"):
            block = qwen.Qwen2_5_VLVisionBlock(config)
        whole = number in config.fullatt_block_indexes
        return self._stage(f"visual.blocks.{number}", block, lambda i, h: views[i].through(block, h, whole=whole))

    def _merger(self, views: Sequence[_View]) -> Stage:
        config = self._config.vision_config
        with torch.device("meta"):
            merger = qwen.Qwen2_5_VLPatchMerger(config.out_hidden_size, config.hidden_size, config.spatial_merge_size)
        return self._stage("visual.merger", merger, lambda i, h: merger(h)[views[i].back])

    @torch.inference_mode()
    def _embed(self, features: list[Tensor]) -> list[Tensor]:
        """Hidden states before the first decoder layer, image features in their places."""
        width, place = self._checkpoint.config.text.hidden_size, self._checkpoint.config.image_token_id
        used = np.unique(np.concatenate([sample.token_ids for sample in self._samples]))
        table = torch.empty(len(used), width)
        for row, token in enumerate(used.tolist()):
            table[row] = torch.from_numpy(self._weights.read(EMBEDDING, slice(token, token + 1))[0].astype(F32))
        self._progress.advance(self._weights.spec(EMBEDDING).nbytes)
        hidden, pictures = [], iter(features)
        for sample in self._samples:
            h = table[torch.from_numpy(np.searchsorted(used, sample.token_ids))]
            if sample.grids:
                h[torch.from_numpy(sample.token_ids == place)] = torch.cat([next(pictures) for _ in sample.grids])
            hidden.append(h)
        return hidden

    def _decoder(self) -> Iterator[Stage]:
        config = self._config.text_config
        rotary = qwen.Qwen2_5_VLRotaryEmbedding(config)
        turns = [rotary(torch.empty(0), torch.from_numpy(sample.positions)[:, None]) for sample in self._samples]
        for number in range(config.num_hidden_layers):
            yield self._layer(number, turns)
        yield self._norm()
        yield from self._head()

    def _layer(self, number: int, turns: Sequence[tuple[Tensor, Tensor]]) -> Stage:
        with torch.device("meta"):
            layer = qwen.Qwen2_5_VLDecoderLayer(self._config.text_config, number)
        return self._stage(
            f"model.layers.{number}", layer, lambda i, h: layer(h[None], position_embeddings=turns[i], use_cache=False)[0]
        )

    def _norm(self) -> Stage:
        config = self._config.text_config
        with torch.device("meta"):
            norm = qwen.Qwen2_5_VLRMSNorm(config.hidden_size, config.rms_norm_eps)
        return self._stage("model.norm", norm, lambda _, h: norm(h))

    def _head(self) -> Iterator[Stage]:
        spec = self._weights.spec(HEAD)
        if not self._logits:
            seen = nn.Identity()
            yield self._stage_of("lm_head", seen, {HEAD: seen}, lambda _, h: seen(h), spec.nbytes)
            return
        for rows in row_blocks(spec):
            block = nn.Linear(spec.cols, rows.stop - rows.start, bias=False, device="meta")
            block.load_state_dict({"weight": torch.from_numpy(self._weights.read(HEAD, rows).astype(F32))}, assign=True)
            nbytes = (rows.stop - rows.start) * spec.cols * spec.dtype.itemsize
            yield self._stage_of("lm_head", block, {HEAD: block}, partial(_multiply, block), nbytes)

    def _stage(self, name: str, module: nn.Module, step: Callable[[int, Tensor], Tensor]) -> Stage:
        names = {key: f"{name}.{key}" for key in module.state_dict()}
        module.load_state_dict({key: read_tensor(self._weights, n) for key, n in names.items()}, strict=True, assign=True)
        own = {f"{name}.{path}.weight".replace("..", "."): m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
        nbytes = sum(self._weights.spec(n).nbytes for n in names.values())
        return self._stage_of(name, module.eval(), own, step, nbytes)

    def _stage_of(
        self, name: str, module: nn.Module, linears: Mapping[str, nn.Module], step: Callable[[int, Tensor], Tensor], nbytes: int
    ) -> Stage:
        return Stage(name, module, linears, lambda: self._run(step, nbytes), step)

    @torch.inference_mode()
    def _run(self, step: Callable[[int, Tensor], Tensor], nbytes: int) -> None:
        for i, h in enumerate(self.hidden):
            self.current = i % self._count
            self.hidden[i] = step(self.current, h)
            self._progress.advance(nbytes * (i + 1) // len(self.hidden) - nbytes * i // len(self.hidden))


def _multiply(block: nn.Module, _: int, h: Tensor) -> Tensor:
    block(h)
    return h


def use_threads(count: int | None) -> None:
    """Let torch compute on so many CPU threads, for the whole process; ``None`` leaves it alone."""
    if count:
        torch.set_num_threads(count)


def read_tensor(weights: TensorSource, name: str) -> Tensor:
    """A whole tensor in float32, read in blocks; a kernel as the matrix that it is."""
    spec = weights.spec(name)
    out = torch.empty(spec.rows, spec.cols)
    for rows in row_blocks(spec):
        out[rows] = torch.from_numpy(weights.read(name, rows).astype(F32))
    return out.reshape(-1) if len(spec.shape) == 1 else out


@dataclass
class _View:
    """How a picture of one grid goes through the vision tower: the order of its patches, windows, rotations."""

    grid: Grid
    config: transformers.PreTrainedConfig
    order: Tensor = field(init=False)
    windows: Tensor = field(init=False)
    back: Tensor = field(init=False)

    def __post_init__(self) -> None:
        c, shape = self.config, torch.tensor([[self.grid.frames, self.grid.height, self.grid.width]])
        self.order, self.windows = get_vision_window_index(shape, c.spatial_merge_size, c.window_size, c.patch_size)
        self.back = torch.argsort(self.order)
        per_frame = self.grid.height * self.grid.width
        self._frames = torch.arange(self.grid.frames + 1, dtype=torch.int32) * per_frame
        rotary = qwen.Qwen2_5_VLVisionRotaryEmbedding(c)
        cos, sin = rotary(torch.empty(0), get_vision_position_ids(shape, c.spatial_merge_size))
        self._turns = (self.ordered(cos), self.ordered(sin))

    def ordered(self, rows: Tensor) -> Tensor:
        """Rows of patches, those of a window together."""
        groups = rows.reshape(len(self.order), -1, rows.shape[-1])
        return groups[self.order].reshape(rows.shape)

    def through(self, block: nn.Module, h: Tensor, *, whole: bool) -> Tensor:
        """``h`` after a block that looks at the whole picture, or at its windows."""
        after: Tensor = block(h, cu_seqlens=self._frames if whole else self.windows, position_embeddings=self._turns)
        return after
