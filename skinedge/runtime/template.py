"""Chat templates, rendered as ``transformers`` renders them.

A template arrives with the weights, so it is foreign code: it runs in jinja's immutable sandbox, sees plain
strings, lists and dicts only, and the few helpers it may call are those of ``transformers``
(``utils/chat_template_utils.py``), with the same restrictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from skinedge.errors import CheckpointError, PromptError

ChatMessage = Mapping[str, object]


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: jinja text.
        variables: what it can refer to besides the messages (``eos_token`` and its like).
        where: the file it came from, for error messages.

    Raises:
        CheckpointError: ``source`` is not a jinja template.
    """

    def __init__(self, source: str, variables: Mapping[str, str], where: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self._variables = dict(variables)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as e:
            raise CheckpointError(f"{where}: the chat template is not valid jinja (line {e.lineno}: {e.message}).") from e

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        """The conversation as one text.

        Raises:
            PromptError: the template refuses it; its own words are passed on.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError) as e:
            raise PromptError(f"the model's chat template refuses this conversation: {str(e).rstrip('.')}.") from e


class _GenerationBlock(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """``dict`` without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """jinja's ``namespace`` without underscored attributes, which reach into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # the signature of jinja's own, so that namespace(self=...) works
        for name in dict(*args[1:], **kwargs):
            _refuse_underscore(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"it stores an attribute called {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
