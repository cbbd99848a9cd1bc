"""Records: what is supervised, what the model is shown, and one clear sentence for each that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distill_setup import record, write_records
from hypothesis import given
from hypothesis import strategies as st

from skinedge.model.config import read_config
from skinedge.runtime.image import load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import ImagePart, Message, PromptBuilder, TextPart
from train.data import data_digest, read_records
from train.errors import DataError
from train.rows import CHANNELS, normalise, still_rows, value_table

pytest.importorskip("torch")
from train.examples import Example, ExampleMaker


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "set", 5)


def made(model: Path, data: Path, cutoff: int = 4096) -> list[Example]:
    return list(map(ExampleMaker(model, read_config(model), cutoff), read_records([data])))


def test_the_supervised_tokens_are_what_the_model_must_say_after_the_runtimes_prompt(tiny_model: Path, data: Path) -> None:
    prompts = PromptBuilder.from_folder(tiny_model, read_config(tiny_model))
    raw = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for example, source in zip(made(tiny_model, data), raw, strict=True):
        shown = (ImagePart(),) * len(source["images"])
        asked = (Message("user", (*shown, TextPart("What is it?"))),)
        prompt = prompts.build(asked, [p.grid for p in example.pixels])
        start = len(prompt.token_ids)
        np.testing.assert_array_equal(example.token_ids[:start], prompt.token_ids)
        np.testing.assert_array_equal(example.positions[:, :start], prompt.positions)
        assert prompts.decode(example.targets) == source["messages"][1]["content"]
        assert example.targets[-1] in read_config(tiny_model).eos_token_ids, "the model must learn to stop"
        assert example.predicting[0] == start - 1, "the prompt's last position predicts the first token"
        np.testing.assert_array_equal(example.labels[example.predicting + 1], example.targets)


def test_every_turn_of_the_assistant_is_supervised_and_nothing_else(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    turns = [("user", "<image>First?"), ("assistant", "A macule."), ("user", "And then?"), ("assistant", "A nevus.")]
    line = {"messages": [{"role": r, "content": c} for r, c in turns], "images": [str(data.parent / "images" / "0-0.png")]}
    (tmp_path / "two.jsonl").write_text(json.dumps(line), encoding="utf-8")
    [example] = made(tiny_model, tmp_path / "two.jsonl")
    said = PromptBuilder.from_folder(tiny_model, read_config(tiny_model)).decode(example.targets)
    assert said == "A macule.A nevus."
    assert example.record.id == "two-1", "a record without an id is called after its file and line"
    assert example.record.skin == -100


def test_pictures_come_back_from_their_bytes_to_the_last_bit(tiny_model: Path, data: Path) -> None:
    processor = read_processor_config(tiny_model)
    for path in sorted((data.parent / "images").iterdir()):
        pixels = to_pixels(load_photograph(path), processor)
        rows = normalise(still_rows(pixels, processor), value_table(processor))
        both = pixels.patches.reshape(len(pixels.patches), CHANNELS, processor.temporal_patch_size, -1)
        for frame in range(processor.temporal_patch_size):
            np.testing.assert_array_equal(rows, both[:, :, frame].reshape(len(rows), -1))


def test_a_long_record_is_cut_off_and_one_without_anything_left_is_refused(tiny_model: Path, data: Path) -> None:
    maker = ExampleMaker(tiny_model, read_config(tiny_model), 4096)
    whole = maker(read_records([data])[0])
    cutoff = len(whole.token_ids) - 4  # the last one, after the end of the turn, is not supervised
    short = ExampleMaker(tiny_model, read_config(tiny_model), cutoff)(read_records([data])[0])
    np.testing.assert_array_equal(short.targets, whole.targets[:-3])
    with pytest.raises(DataError, match="line 1: its first 20 tokens hold no supervised one"):
        made(tiny_model, data, 20)


def test_the_digest_follows_texts_labels_and_pictures_but_not_places(data: Path, tmp_path: Path) -> None:
    def digest(change: Callable[[dict[str, Any], Path], None]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        file = write_records(folder, 5)
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        change(lines[0], folder)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return data_digest(read_records([file]))

    first = digest(lambda r, f: None)
    assert first == data_digest(read_records([data]))
    assert first != digest(lambda r, f: r["messages"][1].update(content="Other."))
    assert first != digest(lambda r, f: r.update(skin_labels=2))
    assert first != digest(lambda r, f: (f / r["images"][0]).write_bytes((f / "images" / "1-0.png").read_bytes()))


def spoiled(**changes: object) -> str:
    return json.dumps(record("case-x", ["images/0-0.png"], "Nevus.") | changes)


SAID = {"role": "assistant", "content": "Nevus."}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "not JSON"),
        ("[1]", "not a JSON object"),
        (spoiled(images=["images/none.png"]), "its image none.png is missing"),
        (spoiled(images=[]), "it has 1 places <image> and 0 images"),
        (spoiled(images=[], messages=[{"role": "user", "content": "Hm"}, SAID]), "it has no image"),
        (spoiled(images=["images/0-0.png"] * 2), "it has 1 places <image> and 2 images"),
        (spoiled(messages=[{"role": "user", "content": "<image>"}]), "there is no supervised token"),
        (spoiled(messages=[{"role": "user", "content": "<image>"}, {"role": "assistant", "content": ""}]), "no supervised token"),
        (spoiled(messages=[{"role": "doctor", "content": "<image>"}, SAID]), "'doctor' is no role"),
        (
            spoiled(messages=[{"role": "user", "content": "Hm"}, {"role": "assistant", "content": "<image>"}]),
            "stands in the assistant's",
        ),
        (spoiled(messages=[{"role": "user"}, SAID]), "a message must have"),
        (spoiled(messages=None), "'messages' is missing"),
        (spoiled(skin_labels=3), "skin_labels is 3 and must be 0, 1 or 2"),
        (spoiled(skin_labels=[0, 1]), "skin_labels is [0, 1]"),
        (spoiled(skin_labels=1.0), "skin_labels is 1.0"),
        (spoiled(id=7), "'id' is 7"),
        (spoiled(id="case-0"), "the id 'case-0' is also that of"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_with_file_and_line(line: str, message: str, data: Path, tmp_path: Path) -> None:
    file = write_records(tmp_path / "set", 1)
    file.write_text(file.read_text(encoding="utf-8") + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records([file])
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{file}, line 3: ")


def test_a_text_with_a_special_token_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the assistant's text holds the special token <\|im_end\|>"):
        made(tiny_model, said("Nevus.<|im_end|>", tmp_path))


def test_a_text_that_would_be_tokenised_together_with_the_prompt_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    last = "".join(tokenizer["model"]["merges"].pop())
    # Two line breaks, one token in Qwen's own tokenizer too, in the place of the last one learned.
    tokenizer["model"]["vocab"]["ĊĊ"] = tokenizer["model"]["vocab"].pop(last)
    tokenizer["model"]["merges"].append(["Ċ", "Ċ"])
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    file = said("\nNevus.", tmp_path)
    assert made(tiny_model, file)
    with pytest.raises(DataError, match="line 1: the tokens of an assistant's turn do not begin where its prompt ends"):
        made(model, file)


def said(text: str, folder: Path) -> Path:
    file = write_records(folder / "set", 1)
    file.write_text(json.dumps(record("case-x", ["images/0-0.png"], text)), encoding="utf-8")
    return file


def test_a_truncated_picture_is_named_with_its_record(tiny_model: Path, tmp_path: Path) -> None:
    file = write_records(tmp_path / "set", 2)
    picture = file.parent / "images" / "1-0.png"
    picture.write_bytes(picture.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"line 2: 1-0\.png is damaged or cut short"):
        made(tiny_model, file)


def test_files_that_are_no_files_of_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_records([tmp_path / "none.jsonl"])
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="there are no records"):
        read_records([tmp_path / "empty.jsonl"])
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        read_records([tmp_path / "latin.jsonl"])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "images", "role", "content", "id", "skin_labels"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.mktemp("any") / "r.jsonl"
    file.write_text(json.dumps(value) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"\.$|\)\.") as caught:
        read_records([file])
    assert str(file) in caught.value.message
