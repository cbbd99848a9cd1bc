"""Conversations become the tokens and positions of ``transformers``, and tokens become text again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinedge.errors import CheckpointError, PromptError
from skinedge.model.config import read_config
from skinedge.model.tiny import make_model
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.positions import mrope_positions
from skinedge.runtime.prompt import DEFAULT_QUESTION, ImagePart, Message, PromptBuilder, TextPart, ask
from skinedge.runtime.session import Grid

# The template of the released Qwen2.5-VL takes these turns through every one of its branches that we can reach.
RELEASED_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or "
    "'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture "
    "{{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or "
    "'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)

# A template that uses what else transformers offers to templates.
BUSY_TEMPLATE = """\
{%- set ns = namespace(n=0) -%}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.n = ns.n + 1 %}
[{{ ns.n }} {{ m.role | upper }} {{ dict(a=1, b="<é>") | tojson }} {{ eos_token }} {{ dict.fromkeys(["k"]) | tojson }}]
    {%- generation %} {{ m.content if m.content is string else m.content | map(attribute='text') | join('|') }}{% endgeneration %}
    {%- if ns.n == 2 %}{% break %}{% endif %}
{%- endfor %}
    {% set indented = 1 %}
{{ [1, 2] | tojson(indent=2) }} {{ strftime_now('%Y') | length }} {{ tools is none }} {{ undefined_thing }}
"""

CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "one image": ask("What is this?"),
    "default question": ask(),
    "text only": ask("Is a mole dangerous?", images=0),
    "plain text": (Message("system", "Be brief."), Message("user", "  Hello \n")),
    "three images": ask("Compare.", images=3),
    "image between texts": (
        Message("system", "You are a dermatologist. Think inside <think> </think>, then <answer> </answer>."),
        Message("user", (TextPart("Before:"), ImagePart(), TextPart("After:"), ImagePart(), TextPart("Better?"))),
    ),
    "several turns": (
        *ask("What is this?"),
        Message("assistant", "<think> even colour </think><answer>nevus</answer>"),
        Message("user", (TextPart("And "), TextPart("this?\n\n"), ImagePart())),
    ),
    "unicode": (*ask("Ist das ein Muttermal? 黒子ですか 🩺 e\u0301 ﷽ \u200b\tﬁ 1234567890"),),
}
SIZES = [(90, 60), (60, 200), (31, 300)]

# hypothesis also tries the strings of the code it tests, and special tokens are among them
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(lambda t: not re.search(r"<\|\w+\|>", t))


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> PromptBuilder:
    return PromptBuilder.from_folder(tiny_model, read_config(tiny_model))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def processor(tiny_model: Path, tokenizer: Any) -> Any:
    """The processor of ``transformers``; put together by hand, because loading it whole wants torchvision for videos."""
    transformers = pytest.importorskip("transformers")
    whole = transformers.Qwen2_5_VLProcessor.__new__(transformers.Qwen2_5_VLProcessor)
    whole.image_processor = transformers.AutoImageProcessor.from_pretrained(tiny_model, backend="pil")
    whole.tokenizer, whole.video_processor, whole.chat_template = tokenizer, None, tokenizer.chat_template
    whole.image_token, whole.video_token = "<|image_pad|>", "<|video_pad|>"
    whole.image_token_id, whole.video_token_id = tokenizer.convert_tokens_to_ids([whole.image_token, whole.video_token])
    return whole


@pytest.fixture(scope="module")
def rope_index(tiny_model: Path) -> Any:
    """``get_rope_index`` of the real model, which needs no weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLModel(transformers.AutoConfig.from_pretrained(tiny_model))
    return model.get_rope_index


def as_dicts(messages: tuple[Message, ...], images: list[Image.Image]) -> list[dict[str, Any]]:
    left = iter(images)
    return [
        {"role": m.role, "content": m.content}
        if isinstance(m.content, str)
        else {
            "role": m.role,
            "content": [
                {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image", "image": next(left)}
                for p in m.content
            ],
        }
        for m in messages
    ]


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def count_images(messages: tuple[Message, ...]) -> int:
    return sum(isinstance(part, ImagePart) for m in messages for part in m.content)


def long_prompt(text: str = "x") -> tuple[Message, ...]:
    return ask(text, images=0)


# ---- the same as transformers --------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["own", "released"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_and_positions_are_those_of_transformers(
    name: str, template: str, tiny_model: Path, tmp_path: Path, processor: Any, rope_index: Any
) -> None:
    folder = tiny_model
    if template == "released":
        folder = copy_settings(tiny_model, tmp_path)
        (folder / "chat_template.jinja").write_text(RELEASED_TEMPLATE, encoding="utf-8")
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    messages = CONVERSATIONS[name]
    images = [picture(size) for size in SIZES[: count_images(messages)]]
    expected = processor.apply_chat_template(
        as_dicts(messages, images),
        chat_template=source,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    grids = [to_pixels(image, read_processor_config(tiny_model)).grid for image in images]
    prompt = PromptBuilder.from_folder(folder, read_config(tiny_model)).build(messages, grids)
    assert prompt.token_ids.tolist() == expected["input_ids"][0].tolist()
    assert prompt.token_ids.dtype == prompt.positions.dtype == np.int64
    assert prompt.grids == tuple(grids)
    positions, delta = rope_index(expected["input_ids"], expected["mm_token_type_ids"], expected.get("image_grid_thw"))
    assert np.array_equal(prompt.positions, positions[:, 0].numpy())
    assert prompt.next_position == len(prompt.token_ids) + int(delta[0, 0])


def test_without_the_opening_of_an_answer(builder: PromptBuilder, processor: Any) -> None:
    messages = CONVERSATIONS["plain text"]
    expected = processor.apply_chat_template(as_dicts(messages, []), tokenize=False, add_generation_prompt=False)
    assert builder.build(messages, add_generation_prompt=False).text == expected


@given(text=ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_any_text_gives_the_tokens_of_transformers(text: str, builder: PromptBuilder, processor: Any, tokenizer: Any) -> None:
    prompt = builder.build(long_prompt(text))
    rendered = processor.apply_chat_template(as_dicts(long_prompt(text), []), tokenize=False, add_generation_prompt=True)
    assert prompt.text == rendered
    assert prompt.token_ids.tolist() == tokenizer(rendered)["input_ids"]
    assert builder.decode(prompt.token_ids) == tokenizer.decode(prompt.token_ids, skip_special_tokens=True)
    assert np.array_equal(prompt.positions, np.tile(np.arange(len(prompt.token_ids)), (3, 1)))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_positions_of_any_images_are_those_of_transformers(data: st.DataObject, rope_index: Any) -> None:
    torch = pytest.importorskip("torch")
    gaps = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    sides = st.integers(1, 9).map(lambda n: 2 * n)
    grids = [Grid(1, data.draw(sides), data.draw(sides)) for _ in gaps[1:]]
    ids = [0] * gaps[0]
    for gap, grid in zip(gaps[1:], grids, strict=True):
        ids += [7] * (grid.patches // 4) + [0] * gap
    token_ids = np.array(ids, np.int64)
    thw = torch.tensor([[g.frames, g.height, g.width] for g in grids]) if grids else None
    expected, delta = rope_index(torch.tensor([ids]), torch.tensor([[int(i == 7) for i in ids]]), thw)
    positions, following = mrope_positions(token_ids, grids, 7, 2)
    assert np.array_equal(positions, expected[:, 0].numpy())
    assert following == len(ids) + int(delta[0, 0])


def test_templates_find_what_transformers_gives_them(tiny_model: Path, tmp_path: Path, tokenizer: Any) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    (folder / "chat_template.jinja").write_text(BUSY_TEMPLATE, encoding="utf-8")
    messages = (Message("system", "s"), Message("user", "q <&>"), Message("assistant", "a"), Message("user", "never"))
    expected = tokenizer.apply_chat_template(as_dicts(messages, []), chat_template=BUSY_TEMPLATE, tokenize=False)
    text = PromptBuilder.from_folder(folder, read_config(tiny_model)).build(messages, add_generation_prompt=False).text
    assert text == expected
    assert "[2 ASSISTANT" in text


# ---- what is refused -----------------------------------------------------------------------------------------


def refused(builder: PromptBuilder, messages: tuple[Message, ...], *grids: Grid) -> str:
    with pytest.raises(PromptError) as caught:
        builder.build(messages, grids)
    return str(caught.value)


GRID = Grid(1, 4, 4)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_special_tokens_in_a_text_are_refused_by_name(token: str, role: Any, builder: PromptBuilder) -> None:
    expected = f"the {role}'s text holds the special token {token}, which would change how the model reads it."
    assert refused(builder, (Message(role, f"a{token}b"),)).startswith(expected)
    assert refused(builder, (Message(role, (ImagePart(), TextPart(token))),), GRID).startswith(expected)


def test_a_special_token_in_two_pieces_is_refused(builder: PromptBuilder) -> None:
    split = (TextPart("<|image"), TextPart("_pad|>"))
    assert "holds the special token <|image_pad|>" in refused(builder, (Message("user", split),))
    apart = (TextPart("<|image"), ImagePart(), TextPart("_pad|>"))
    assert builder.build((Message("user", apart),), [GRID]).grids == (GRID,)


def test_words_of_reasoning_models_are_no_special_tokens(builder: PromptBuilder) -> None:
    prompt = builder.build(long_prompt("Use <think> and <answer>."))
    assert "Use <think> and <answer>." in builder.decode(prompt.token_ids)


def test_images_and_their_places_must_agree(builder: PromptBuilder) -> None:
    assert refused(builder, ask("?")) == "the conversation has 1 image places and 0 images were given."
    assert refused(builder, ask("?", images=1), GRID, GRID) == "the conversation has 1 image places and 2 images were given."
    assert refused(builder, long_prompt(), GRID) == "the conversation has 0 image places and 1 images were given."


def test_unknown_roles_are_refused(builder: PromptBuilder) -> None:
    message = Message("user\n", "x")  # type: ignore[arg-type]
    assert refused(builder, (message,)).endswith("is no role in a conversation. Known: system, user, assistant.")


def test_half_a_surrogate_pair_is_refused(builder: PromptBuilder) -> None:
    assert "is not valid Unicode" in refused(builder, long_prompt("a\udcffb"))


def test_a_prompt_longer_than_the_model_reads_is_refused(builder: PromptBuilder, tiny_model: Path) -> None:
    assert read_config(tiny_model).text.max_position_embeddings == 32768
    message = refused(builder, ask("?"), Grid(1, 512, 512))
    assert re.match(r"the prompt is 65\d{3} tokens long \(65536 of them are images\) and the model reads 32768\.", message)


def test_a_text_only_template_is_refused_for_images(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}")
    message = refused(PromptBuilder.from_folder(folder, read_config(tiny_model)), ask("?"), GRID)
    assert message.startswith("the model's chat template made 0 image places of 1 images.")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Only one turn, please.') }}", "Only one turn, please."),
        ("{{ 'a' + messages }}", 'can only concatenate str (not "list") to str'),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace(__class__=1) %}", "it stores an attribute called '__class__'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "it stores an attribute called '_x'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
    ],
)  # fmt: skip
def test_templates_that_refuse_or_reach_out_are_stopped(template: str, reason: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    message = refused(PromptBuilder.from_folder(folder, read_config(tiny_model)), long_prompt())
    assert message.startswith("the model's chat template refuses this conversation: ")
    assert reason.rstrip(".") in message
    assert not message.endswith("..")


# ---- reading the files ---------------------------------------------------------------------------------------


def copy_settings(source: Path, target: Path) -> Path:
    for path in (*source.glob("*.json"), *source.glob("*.jinja")):
        shutil.copy(path, target)
    return target


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("place", ["json", "config", "named"])
def test_templates_are_found_in_every_place_they_are_kept(place: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    (folder / "chat_template.jinja").unlink()
    settings = folder / "tokenizer_config.json"
    if place == "json":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].role }}"}))
        edit(settings, chat_template="not this one")
    elif place == "config":
        edit(settings, chat_template="{{ messages[0].role }}")
    else:
        named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[0].role }}"}]
        edit(settings, chat_template=named)
    assert PromptBuilder.from_folder(folder, read_config(tiny_model)).build(long_prompt()).text == "user"


def broken(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        PromptBuilder.from_folder(folder, read_config(folder))
    return str(caught.value)


def test_broken_tokenizer_folders_are_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        return copy_settings(tiny_model, tmp_path / name)

    (folder("a") / "chat_template.jinja").unlink()
    assert "there is no chat template (chat_template.jinja, or" in broken(tmp_path / "a")
    (folder("b") / "chat_template.jinja").write_text("{% if %}")
    assert "chat_template.jinja: the chat template is not valid jinja (line 1:" in broken(tmp_path / "b")
    (folder("c") / "tokenizer.json").unlink()
    assert "tokenizer.json is missing: the tokenizer is read from it." in broken(tmp_path / "c")
    (folder("d") / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: not a tokenizer" in broken(tmp_path / "d")
    (folder("e") / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json is missing: the tokenizer's configuration" in broken(tmp_path / "e")
    edit(folder("f") / "config.json", image_token_id=2040)
    assert "the tokenizer has no token 2040, which the configuration refers to" in broken(tmp_path / "f")
    edit(folder("g") / "generation_config.json", eos_token_id=[2047])
    assert "the tokenizer has no token 2047" in broken(tmp_path / "g")


def test_lost_added_tokens_are_noticed(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(folder / "tokenizer.json", added_tokens=[t for t in tokenizer["added_tokens"] if t["content"] != "<think>"])
    assert re.search(r"tokenizer\.json: token <think> is not number \d+, as tokenizer_config\.json has it\.", broken(folder))


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    text = json.loads((folder / "config.json").read_text())["text_config"] | {"vocab_size": 100}
    edit(folder / "config.json", text_config=text)
    assert re.search(r"the tokenizer has \d+ tokens and the model 100\.", broken(folder))


def test_truncation_left_in_the_tokenizer_is_ignored(tiny_model: Path, tmp_path: Path, builder: PromptBuilder) -> None:
    folder = copy_settings(tiny_model, tmp_path)
    edit(
        folder / "tokenizer.json",
        truncation={"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        padding={"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                 "pad_token": "<|endoftext|>"},
    )  # fmt: skip
    cut = PromptBuilder.from_folder(folder, read_config(tiny_model))
    for text in ("x", DEFAULT_QUESTION):
        assert cut.build(long_prompt(text)).token_ids.tolist() == builder.build(long_prompt(text)).token_ids.tolist()


def test_the_7b_vocabulary_may_be_larger_than_its_tokenizer(tmp_path: Path) -> None:
    from skinedge.model.tiny import Size

    folder = make_model(tmp_path / "m", Size(vocab=3000, layers=1, vision_depth=2, vision_full=(1,)), shards=1)
    builder = PromptBuilder.from_folder(folder, read_config(folder))
    assert builder.decode([2999, *builder.build(long_prompt("ok")).token_ids]) == builder.decode(
        builder.build(long_prompt("ok")).token_ids
    )


# ---- back to text --------------------------------------------------------------------------------------------


def streamed(builder: PromptBuilder, token_ids: list[int]) -> list[str]:
    stream = builder.stream()
    return [*(stream.push(t) for t in token_ids), stream.finish()]


@given(text=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_streamed_text_is_the_text_and_never_half_a_character(text: str, builder: PromptBuilder) -> None:
    token_ids = builder.build(long_prompt(text)).token_ids.tolist()
    pieces = streamed(builder, token_ids)
    assert "".join(pieces) == builder.decode(token_ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(token_ids=st.lists(st.integers(0, 2047), max_size=60))
@settings(max_examples=300, deadline=None)
def test_streams_of_any_tokens_equal_their_text(token_ids: list[int], builder: PromptBuilder, tokenizer: Any) -> None:
    """Random tokens: bytes that are no UTF-8, special tokens inside characters, numbers past the tokenizer's end."""
    assert builder.decode(token_ids) == tokenizer.decode(token_ids, skip_special_tokens=True)
    assert "".join(streamed(builder, token_ids)) == builder.decode(token_ids)


def test_a_character_of_four_tokens_comes_whole(builder: PromptBuilder) -> None:
    token_ids = builder.build(long_prompt("🩺")).token_ids.tolist()
    prefix = builder.build(long_prompt("")).token_ids.tolist()
    first = next(i for i, (a, b) in enumerate(zip(token_ids, prefix, strict=False)) if a != b)
    assert streamed(builder, token_ids[first : first + 4]) == ["", "", "", "🩺", ""]
    assert streamed(builder, token_ids[first : first + 3]) == ["", "", "", "\ufffd"]


# ---- the question, the imports -------------------------------------------------------------------------------


def test_the_default_question_asks_for_what_is_scored() -> None:
    for word in ("describe", "reason", "two or three diagnoses", "urgent"):
        assert word in DEFAULT_QUESTION
    assert DEFAULT_QUESTION.endswith("The answer is <disease>")


def test_the_runtime_never_imports_torch_or_transformers() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "import skinedge.runtime.image, skinedge.runtime.generate, skinedge.runtime.prompt"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
