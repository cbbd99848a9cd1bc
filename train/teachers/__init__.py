"""Vision teachers behind one small interface: pictures in, one row of features a picture out.

===========================  ==========================================================  =======  ===========
spec                         what it is                                                  width    weights
===========================  ==========================================================  =======  ===========
``precomputed:DIR``          features computed elsewhere, or by this package (below)      theirs   none
``efficientnet-lite0``       EfficientNet-Lite0, ImageNet; the demo's teacher            1280     PyPI
``timm:DIR``                 any image model in timm's hub layout                         theirs   DIR
``transformers:DIR``         any image encoder ``AutoModel`` opens (ViT, DINOv2, CLIP…)   theirs   DIR
``panderm:FILE_OR_DIR``      PanDerm, ViT-L/16 pretrained on skin (the paper's teacher)   1024     safetensors
===========================  ==========================================================  =======  ===========

A teacher is a file of this folder with ``open_teacher(argument)``; its name is the spec's.  Nothing is downloaded.
Features that take long are computed once, anywhere, and carried along::

    python -m train.teachers panderm:panderm.safetensors --data records.jsonl --out features
    python -m train.distill … --teacher precomputed:features
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from skinedge.registry import check
from skinedge.weights.source import Float32

Picture = tuple[str, Path]
"""A record's id and the path of one of its photographs."""


class Teacher(Protocol):
    """What turns photographs into features.

    ``name`` is for messages, ``width`` the number of features, and ``digest`` the sha256 of everything the features
    depend on besides the photographs: weights and settings.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def features(self, records: Sequence[Picture]) -> Float32:
        """``[n, width]``, finite; row ``i`` belongs to ``records[i]``, whatever the others are.

        Raises:
            ImageError: a photograph cannot be read.
            DataError: there are no usable features of a record.
        """
        ...


def names() -> tuple[str, ...]:
    """The teachers there are, by their files; nothing is imported."""
    found = (p.stem.replace("_", "-") for p in Path(__file__).parent.glob("[!_]*.py"))
    return tuple(sorted(found))


def open_teacher(spec: str) -> Teacher:
    """The teacher ``spec`` names: ``name`` or ``name:place``.

    Raises:
        UsageError: no such teacher, or its place is missing or superfluous.
        CheckpointError: its weights are damaged or of another architecture.
        MissingDependencyError: a library it needs is not installed.
    """
    name, _, argument = spec.partition(":")
    module = importlib.import_module(f"{__name__}.{check('teacher', name, names()).replace('-', '_')}")
    return cast(Teacher, module.open_teacher(argument))
