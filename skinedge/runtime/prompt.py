"""From a conversation with images to token ids and positions, and from token ids back to text.

Text, ids and positions are those of ``transformers``: the model's own chat template and tokenizer files are
read, image places are widened to one token per merged patch as ``Qwen2_5_VLProcessor`` does, and positions
follow ``Qwen2_5_VLModel.get_rope_index``.

What a user writes stays text: a special token inside it (an image place, the end of a turn) is refused by
name.  ``<think>`` and ``<answer>`` are no special tokens, and prompts may speak of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tokenizers import Tokenizer

from skinedge.errors import CheckpointError, PromptError
from skinedge.model.config import ModelConfig, read_json
from skinedge.runtime.positions import mrope_positions
from skinedge.runtime.session import Grid, Int64, Prompt
from skinedge.runtime.template import ChatMessage, ChatTemplate
from skinedge.runtime.text import TextStream

Role = Literal["system", "user", "assistant"]

DEFAULT_QUESTION = (
    "Look at the skin in this case as a dermatologist would. First describe what you see: the kind of lesion, its "
    "colour, shape and border, its surface, and how it is distributed. Then reason step by step from these findings: "
    "name two or three diagnoses that could explain them, with what speaks for and against each, and say whether "
    "anything is urgent. Finish with the most likely diagnosis in one line: The answer is <disease>"
)


@dataclass(frozen=True)
class TextPart:
    """Words inside a message."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """The place of the next image."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | tuple[TextPart | ImagePart, ...]


def ask(question: str = DEFAULT_QUESTION, *, images: int = 1) -> tuple[Message, ...]:
    """A conversation of one turn: the images of a case, then the question."""
    return (Message("user", (*(ImagePart() for _ in range(images)), TextPart(question))),)


class PromptBuilder:
    """A model's chat template and tokenizer.  Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, config: ModelConfig, where: str) -> None:
        tokenizer.no_truncation()  # a training run may have left either in tokenizer.json
        tokenizer.no_padding()
        for token_id in config.eos_token_ids:
            _known_token(tokenizer, token_id, where)
        if tokenizer.get_vocab_size() > config.text.vocab_size:
            raise CheckpointError(
                f"{where}: the tokenizer has {tokenizer.get_vocab_size()} tokens and the model {config.text.vocab_size}."
            )
        self.eos_token_ids = config.eos_token_ids
        self._tokenizer = tokenizer
        self._template = template
        self._config = config
        self._image_token = _known_token(tokenizer, config.image_token_id, where)
        self._special = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> PromptBuilder:
        """Read ``tokenizer.json``, ``tokenizer_config.json`` and the chat template of a checkpoint or bundle.

        Raises:
            CheckpointError: a file is missing or unreadable, or the files contradict each other.
        """
        settings = read_json(folder / "tokenizer_config.json", "the tokenizer's configuration")
        tokenizer = _read_tokenizer(folder / "tokenizer.json", settings)
        source, where = _read_template(folder, settings)
        return cls(tokenizer, ChatTemplate(source, _named_tokens(settings), where), config, str(folder))

    def build(self, messages: Sequence[Message], grids: Sequence[Grid] = (), *, add_generation_prompt: bool = True) -> Prompt:
        """Render and tokenise a conversation.

        Args:
            messages: the turns, oldest first.
            grids: those of the images, in order of appearance.
            add_generation_prompt: end with the opening of the assistant's turn.

        Raises:
            PromptError: there are more or fewer images than places, a text holds a special token, the
                template refuses the conversation, or the prompt is longer than the model can read.
        """
        places = sum(isinstance(part, ImagePart) for m in messages for part in m.content)
        if places != len(grids):
            raise PromptError(f"the conversation has {places} image places and {len(grids)} images were given.")
        for message in messages:
            self._check(message)
        text = self._template.render([_as_chat(m) for m in messages], add_generation_prompt=add_generation_prompt)
        text = self._widen(text, grids)
        token_ids = np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        self._check_length(token_ids)
        positions, following = mrope_positions(
            token_ids, grids, self._config.image_token_id, self._config.vision.spatial_merge_size
        )
        return Prompt(text, token_ids, positions, following, tuple(grids))

    def decode(self, token_ids: Sequence[int] | Int64) -> str:
        """Text of ``token_ids`` without special tokens."""
        text: str = self._tokenizer.decode([int(t) for t in token_ids], skip_special_tokens=True)
        return text

    def stream(self) -> TextStream:
        """A decoder that is fed one token at a time."""
        return TextStream(self.decode)

    def _check(self, message: Message) -> None:
        if message.role not in get_args(Role):
            raise PromptError(f"'{message.role}' is no role in a conversation.", hint=f"Known: {', '.join(get_args(Role))}.")
        for text in _runs(message):
            # Parts that follow each other are rendered without a gap: together they could spell a token.
            token = next((t for t in self._special if t in text), None)
            if token is not None:
                raise PromptError(
                    f"the {message.role}'s text holds the special token {token}, which would change how the model reads it.",
                    hint="Leave it out, or write it with spaces.",
                )
            try:
                text.encode()
            except UnicodeEncodeError as e:
                raise PromptError(f"the {message.role}'s text is not valid Unicode: it holds half of a surrogate pair.") from e

    def _widen(self, text: str, grids: Sequence[Grid]) -> str:
        """Each image place repeated once per merged patch."""
        pieces = text.split(self._image_token)
        if len(pieces) != len(grids) + 1:
            raise PromptError(
                f"the model's chat template made {len(pieces) - 1} image places of {len(grids)} images.",
                hint="It may be a template for text only: compare chat_template.jinja with the base model's.",
            )
        merge = self._config.vision.spatial_merge_size
        widened = (self._image_token * (grid.patches // merge**2) for grid in grids)
        return pieces[0] + "".join(places + piece for places, piece in zip(widened, pieces[1:], strict=True))

    def _check_length(self, token_ids: Int64) -> None:
        limit = self._config.text.max_position_embeddings
        if len(token_ids) > limit:
            images = int(np.count_nonzero(token_ids == self._config.image_token_id))
            raise PromptError(
                f"the prompt is {len(token_ids)} tokens long ({images} of them are images) and the model reads {limit}.",
                hint="Use fewer or smaller photographs, or a shorter text.",
            )


def _runs(message: Message) -> list[str]:
    """The texts of a message, those without an image between them joined."""
    if isinstance(message.content, str):
        return [message.content]
    groups = itertools.groupby(message.content, lambda part: isinstance(part, TextPart))
    return ["".join(part.text for part in group if isinstance(part, TextPart)) for is_text, group in groups if is_text]


def _as_chat(message: Message) -> ChatMessage:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in message.content]
    return {"role": message.role, "content": parts}


def _known_token(tokenizer: Tokenizer, token_id: int, where: str) -> str:
    token = tokenizer.id_to_token(token_id)
    if token is None:
        raise CheckpointError(f"{where}: the tokenizer has no token {token_id}, which the configuration refers to.")
    return token


def _read_tokenizer(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the tokenizer is read from it.", hint="Copy it from the base model.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer ({e}).", hint="Copy it again from the base model.") from e
    for token_id, token in settings.get("added_tokens_decoder", {}).items():
        if tokenizer.token_to_id(token["content"]) != int(token_id):
            raise CheckpointError(
                f"{path}: token {token['content']} is not number {token_id}, as tokenizer_config.json has it.",
                hint="The two files belong to different models; copy both from the base model.",
            )
    return tokenizer


def _read_template(folder: Path, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The chat template and the file it is in; the order of precedence is that of ``transformers``' processors."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8"), str(path)
    path = folder / "chat_template.json"  # as the first release of Qwen2.5-VL has it
    held = read_json(path, "the chat template") if path.is_file() else settings
    found = held.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = {t["name"]: t["template"] for t in found}.get("default")
    if not isinstance(found, str):
        raise CheckpointError(
            f"{folder}: there is no chat template (chat_template.jinja, or 'chat_template' in tokenizer_config.json).",
            hint="Copy chat_template.jinja from the base model.",
        )
    return found, str(path if path.is_file() else folder / "tokenizer_config.json")


def _named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token``, ``eos_token`` and their like, for the template."""
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            tokens[name] = content
    return tokens
