"""The settings of a training run, section by section; their defaults are those of SkinGPT-R1 (REFERENCE section 2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True)
class ModelSection:
    """The frozen model."""

    folder: str = ""


@dataclass(frozen=True)
class DataSection:
    """The records: JSON Lines files; ``cutoff`` is the longest conversation in tokens, the rest is cut off."""

    files: tuple[str, ...] = ()
    cutoff: int = field(default=4096, metadata={"least": 1})


@dataclass(frozen=True)
class SideBranchSection:
    """The side branch of SkinGPT-R1 (``skinedge.model.adapter``); ``experts = 0`` is version 1 of the paper, 8 version 2.

    ``start`` names a trained side branch to go on from; its sizes are then its own.
    ``teacher`` is the width of ``out_proj`` where there is no teacher to say it.
    ``components`` lets ``in_proj`` learn in that many principal components of the patches, 0 in their raw values;
    ``turn`` turns and mirrors the patches of each batch, for lesions have no up and down.
    """

    kind: str = "side-branch"
    experts: int = field(default=8, metadata={"least": 0})
    width: int = field(default=1024, metadata={"least": 1})
    layers: int = field(default=4, metadata={"least": 1})
    bottleneck: int = field(default=64, metadata={"least": 1})
    skin_hidden: int = field(default=64, metadata={"least": 1})
    bias_rank: int = field(default=64, metadata={"least": 1})
    scale: float = 1.5
    teacher: int = field(default=1024, metadata={"least": 1})
    components: int = field(default=0, metadata={"least": 0})
    turn: bool = False
    start: str = ""


@dataclass(frozen=True)
class LoraSection:
    """PEFT LoRA on parts of the language model and of the vision tower: ``attention``, ``mlp``, ``merger``."""

    kind: str = "lora"
    rank: int = field(default=16, metadata={"least": 1})
    alpha: float = field(default=32.0, metadata={"above": 0})
    dropout: float = field(default=0.0, metadata={"least": 0, "most": 0.99})
    language: tuple[str, ...] = field(default=("attention", "mlp"), metadata={"known": ("attention", "mlp")})
    vision: tuple[str, ...] = field(default=(), metadata={"known": ("attention", "mlp", "merger")})


@dataclass(frozen=True)
class TeacherSection:
    """The vision teacher, as ``train.teachers.open_teacher`` reads it; empty: none."""

    spec: str = ""


@dataclass(frozen=True)
class LossSection:
    """Weights of the losses; the cosine loss is ``10 * mean(1 - cos)``."""

    ce: float = field(default=1.0, metadata={"least": 0})
    cosine: float = field(default=0.1, metadata={"least": 0})
    balance: float = field(default=0.001, metadata={"least": 0})
    skin: float = field(default=0.1, metadata={"least": 0})


@dataclass(frozen=True)
class OptimSection:
    """AdamW under a cosine schedule; ``warmup`` is a share of all steps, ``clip = 0`` does not clip."""

    lr: float = field(default=1e-4, metadata={"above": 0})
    warmup: float = field(default=0.03, metadata={"least": 0, "most": 1})
    weight_decay: float = field(default=0.0, metadata={"least": 0})
    clip: float = field(default=1.0, metadata={"least": 0})
    beta1: float = field(default=0.9, metadata={"least": 0, "most": 0.9999})
    beta2: float = field(default=0.999, metadata={"least": 0, "most": 0.99999})
    eps: float = field(default=1e-8, metadata={"above": 0})


@dataclass(frozen=True)
class TrainSection:
    """One step sees ``batch * accumulation`` records on every process.

    ``steps = 0`` goes by ``epochs``; ``save_every = 0`` saves a checkpoint after every epoch.
    """

    epochs: float = field(default=10.0, metadata={"above": 0})
    steps: int = field(default=0, metadata={"least": 0})
    batch: int = field(default=4, metadata={"least": 1})
    accumulation: int = field(default=4, metadata={"least": 1})
    seed: int = field(default=0, metadata={"least": 0, "most": 2**32 - 1})
    precision: str = field(default="bf16", metadata={"known": ("f32", "bf16")})
    save_every: int = field(default=0, metadata={"least": 0})
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class CacheSection:
    """Frozen means cached; ``folder`` left empty is ``OUT.cache``, ``batch`` the records of one pass through the model."""

    use: bool = True
    folder: str = ""
    batch: int = field(default=8, metadata={"least": 1})
    shard_mb: int = field(default=256, metadata={"least": 1})


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    model: ModelSection
    data: DataSection
    adapter: SideBranchSection | LoraSection
    teacher: TeacherSection
    loss: LossSection
    optim: OptimSection
    train: TrainSection
    cache: CacheSection

    @property
    def cached(self) -> bool:
        """Whether the hidden states can be computed once: a LoRA changes them at every step."""
        return self.cache.use and isinstance(self.adapter, SideBranchSection)

    def tables(self) -> dict[str, dict[str, Value]]:
        """Every section with every key."""
        return dataclasses.asdict(self)


Section = (
    ModelSection | DataSection | SideBranchSection | LoraSection | TeacherSection | LossSection | OptimSection | TrainSection
    | CacheSection
)  # fmt: skip
