"""A conversation that goes on: what is kept is right, in every session, and what is not the same is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, load_target
from skinedge.errors import PromptError
from skinedge.manifest import read_manifest
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.reference import Reference
from skinedge.parity.pictures import make_picture
from skinedge.runtime.generate import GenerateOptions, generate
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.prompt import ImagePart, Message, PromptBuilder, TextPart
from skinedge.runtime.reuse import ReusingSession
from skinedge.runtime.session import ImageEncoding, Session, combined_bias
from skinedge.targets._contract import ExportOptions, OpenOptions

Open = Callable[[], Session]
ASKED = Message("user", (ImagePart(), TextPart("What is it?")))


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> ModelConfig:
    return read_config(tiny_model)


@pytest.fixture(scope="module")
def builder(tiny_model: Path, config: ModelConfig) -> PromptBuilder:
    return PromptBuilder.from_folder(tiny_model, config)


@pytest.fixture(scope="module")
def openers(source: AdapterCheckpoint, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Open]:
    def of(target: str, folder: Path) -> Open:
        return lambda: load_target(target).open_session(folder, read_manifest(folder), OpenOptions(1, 512))

    gguf = export(source, "gguf", ExportOptions("f32"), tmp_path_factory.mktemp("reuse") / "gguf").path
    return {
        "onnx": of("onnx", bundles["f32"]),
        "gguf": of("gguf", gguf),
        "reference": lambda: Reference.from_checkpoint(source.path, source.adapters, threads=1),
    }


@pytest.fixture(params=["onnx", "gguf", "reference"])
def session(request: pytest.FixtureRequest, openers: dict[str, Open], config: ModelConfig) -> Iterator[ReusingSession]:
    opened = ReusingSession(openers[request.param](), config.image_token_id)
    yield opened
    opened.close()


def seen(session: Session, folder: Path, seed: int, size: tuple[int, int] = (112, 84)) -> ImageEncoding:
    return session.encode_image(to_pixels(make_picture(*size, seed), read_processor_config(folder)))


def test_a_follow_up_is_what_a_fresh_session_says(session: ReusingSession, builder: PromptBuilder, tiny_model: Path) -> None:
    image = seen(session, tiny_model, 1)
    first = builder.build([ASKED], [image.grid])
    generation = generate(session, builder, first, [image], GenerateOptions(max_new_tokens=12))
    list(generation)
    assert session.kept == 0
    turns = [ASKED, Message("assistant", generation.transcript.text), Message("user", "Why?")]
    second = builder.build(turns, [image.grid])
    bias = combined_bias([image])
    ours = [session.prefill(second, [image], bias=bias), *(session.step(t) for t in (5, 6, 7))]
    assert len(first.token_ids) <= session.kept < len(second.token_ids)
    session.reuse = False
    fresh = [session.prefill(second, [image], bias=bias), *(session.step(t) for t in (5, 6, 7))]
    assert session.kept == 0
    np.testing.assert_allclose(ours, fresh, atol=2e-4, rtol=0)


def test_what_is_another_is_read_again(session: ReusingSession, builder: PromptBuilder, tiny_model: Path) -> None:
    one, other = seen(session, tiny_model, 1), seen(session, tiny_model, 2)
    prompt = builder.build([ASKED], [one.grid])
    session.prefill(prompt, [one], bias=one.bias)
    alone = session.prefill(prompt, [other], bias=other.bias)
    place = int(np.flatnonzero(prompt.token_ids == session._image_token)[0])
    assert session.kept == place, "up to the picture, which is another"
    session.forget()
    np.testing.assert_allclose(alone, session.prefill(prompt, [other], bias=other.bias), atol=2e-4, rtol=0)
    assert session.kept == 0
    taller = seen(session, tiny_model, 1, (84, 168))
    session.prefill(builder.build([ASKED], [taller.grid]), [taller])
    assert session.kept <= place
    two = builder.build([Message("user", (ImagePart(), ImagePart(), TextPart("Compare.")))], [other.grid, one.grid])
    session.prefill(prompt, [other], bias=other.bias)
    both = session.prefill(two, [other, one], bias=combined_bias([other, one]))
    assert session.kept > place, "the first picture of two is the one that was shown before"
    session.forget()
    np.testing.assert_allclose(both, session.prefill(two, [other, one], bias=combined_bias([other, one])), atol=2e-4, rtol=0)


def test_the_same_prompt_again_reads_its_last_token_only(
    session: ReusingSession, builder: PromptBuilder, tiny_model: Path
) -> None:
    image = seen(session, tiny_model, 1)
    prompt = builder.build([ASKED], [image.grid])
    once = session.prefill(prompt, [image], bias=image.bias)
    again = session.prefill(prompt, [image])  # the bias is not in what is kept
    assert session.kept == len(prompt.token_ids) - 1
    assert image.bias is not None
    np.testing.assert_allclose(again + image.bias, once, atol=2e-4, rtol=0)


def test_an_error_leaves_nothing_to_be_kept(session: ReusingSession, builder: PromptBuilder, tiny_model: Path) -> None:
    image = seen(session, tiny_model, 1)
    prompt = builder.build([ASKED], [image.grid])
    session.prefill(prompt, [image])
    with pytest.raises(PromptError):
        session.prefill(prompt, [])
    session.prefill(prompt, [image])
    assert session.kept == 0
    session.prefill(prompt, [image], all_positions=True)
    assert session.kept == 0, "all logits are wanted, and those of what is kept are gone"
