"""An OpenAI-compatible endpoint: one question at a time in, its answer out, politely.

Requests are spaced (``per_minute``), a busy or failing server is asked again with growing pauses or when it
says so itself (``Retry-After``, RFC 9110, section 10.2.3), and the key never leaves its header.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel

from skinedge.console import printable
from skinedge.errors import EndpointError, MissingDependencyError, RefusedError, UsageError
from skinedge.evaluation.pacing import Pacer, growing_pause, retry_after

if TYPE_CHECKING:
    import httpx2

_CONNECT_S = 10.0
_BUSY = (408, 409, 425, 429, 502, 503, 504, 529)
# 500 may pass, or be what this very request always gets: llama.cpp says so of JSON that was cut short.
_RETRIES_OF_A_FAULT = 2
_LOCKED_OUT = {401: "the key is wrong or missing", 403: "the key does not allow it", 404: "it knows no such model or path"}
_AT_HOME = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class EndpointSettings:
    """Where the model is served and how hard it may be asked.

    ``key_variable`` names the environment variable that holds the key; ``per_minute`` 0 is no limit.
    """

    url: str
    key_variable: str = ""
    concurrency: int = 4
    per_minute: float = 0.0
    timeout_s: float = 300.0
    retries: int = 6

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def at_home(self) -> bool:
        """Whether what is sent stays on this machine."""
        return self.host in _AT_HOME

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read it."""
        return self.url.startswith("https:")


@dataclass(frozen=True)
class Answer:
    """What was answered; ``finish_reason`` is ``stop``, or ``length`` for one that was cut short."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class StoppedError(Exception):
    """The run is ending: nothing new is asked."""


_AS_OFTEN_AS_ALLOWED = 10**6


@dataclass(frozen=True)
class _Trouble:
    """Why there is no answer, how often to ask again, after how long if the server says, and whether all must wait."""

    error: EndpointError | RefusedError
    retries: int
    pause_s: float = 0.0
    everyone: bool = False


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None

    def answer(self) -> Answer:
        usage = self.usage or _Usage()
        choice = self.choices[0]
        return Answer(choice.message.content or "", choice.finish_reason or "stop", usage.prompt_tokens, usage.completion_tokens)


class Endpoint:
    """A connection to a served model; ``async with`` opens and closes it."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Make ready to ask; nothing is sent yet.

        Raises:
            UsageError: see ``check_endpoint``.
            MissingDependencyError: httpx2 is not installed.
        """
        check_endpoint(settings)
        self._settings = settings
        self._key = _key(settings)
        self._client = _client(settings, self._key)
        self._pacer = Pacer(settings.per_minute)
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.aclose()

    def stop(self) -> None:
        """Ask nothing more; answers under way still come."""
        self._stopping.set()

    async def complete(self, body: Mapping[str, object]) -> Answer:
        """Ask once, and again while the server is busy or away.

        Raises:
            RefusedError: this request is not answered, now or later.
            EndpointError: none will be.
            StoppedError: ``stop`` was called before it could be asked.
        """
        attempt = 0
        while True:
            await self._rest(self._pacer.wait())
            reply = await self._attempt(body)
            if isinstance(reply, Answer):
                return reply
            if attempt >= min(reply.retries, self._settings.retries):
                raise reply.error
            pause = reply.pause_s or growing_pause(attempt)
            if reply.everyone:
                self._pacer.hold(pause)
            await self._rest(pause)
            attempt += 1

    async def models(self) -> list[Mapping[str, object]]:
        """What the endpoint says of the models that it serves; empty where it has no such list.

        Raises:
            EndpointError: it cannot be reached, or will not have us.
        """
        import httpx2

        try:
            response = await self._client.get("models")
        except httpx2.RequestError as e:
            why = self._clean(str(e) or type(e).__name__)
            raise EndpointError(f"{self._settings.url} cannot be reached: {why}.", hint=_LATER) from e
        if response.status_code in (401, 403):
            raise self._trouble(response).error
        try:
            found = json.loads(response.content)["data"] if response.status_code == httpx2.codes.OK else []
            return [one for one in found if isinstance(one, dict)]
        except (ValueError, KeyError, TypeError):
            return []

    async def _attempt(self, body: Mapping[str, object]) -> Answer | _Trouble:
        import httpx2

        try:
            response = await self._client.post("chat/completions", json=body)
        except (httpx2.ReadTimeout, httpx2.WriteTimeout):
            return _Trouble(RefusedError(f"no answer within {self._settings.timeout_s:g} s."), _RETRIES_OF_A_FAULT)
        except httpx2.RequestError as e:
            why = self._clean(str(e) or type(e).__name__)
            return _Trouble(EndpointError(f"{self._settings.url} cannot be reached: {why}.", hint=_LATER), _AS_OFTEN_AS_ALLOWED)
        return self._read(response) if response.status_code == httpx2.codes.OK else self._trouble(response)

    def _read(self, response: httpx2.Response) -> Answer:
        try:
            # Half a surrogate pair, which a cut-off emoji leaves in some servers' JSON, is no text: it becomes a '?'.
            sound = json.dumps(json.loads(response.content), ensure_ascii=False).encode("utf-8", "replace")
            return _Reply.model_validate_json(sound).answer()
        except (ValueError, IndexError) as e:  # pydantic's ValidationError is a ValueError
            raise EndpointError(
                f"{self._settings.url} does not answer like an OpenAI-compatible endpoint.",
                hint="Its address usually ends in /v1.",
            ) from e

    def _trouble(self, response: httpx2.Response) -> _Trouble:
        """What a status other than 200 means."""
        status, words = response.status_code, self._clean(_error_words(response.content))
        says = f"answers {status}: {words}."
        if status in _LOCKED_OUT:
            why = f"{self._settings.url} says that {_LOCKED_OUT[status]}; it {says}"
            return _Trouble(EndpointError(why, hint="Check --endpoint, --model and --key-variable."), 0)
        pause = retry_after(response.headers.get("retry-after"))
        if status == 429:
            return _Trouble(
                EndpointError(f"{self._settings.url} stays too busy; it {says}", hint=_LATER), _AS_OFTEN_AS_ALLOWED, pause, True
            )
        retries = _RETRIES_OF_A_FAULT if status == 500 else _AS_OFTEN_AS_ALLOWED if status in _BUSY else 0
        incapable = re.search(r"not support|unsupported", words, re.IGNORECASE)
        return _Trouble(RefusedError(f"the endpoint {says}"), 0 if incapable else retries, pause)

    def _clean(self, words: str) -> str:
        """Words of a stranger, fit for a terminal and a file: short, printable, without the key."""
        words = " ".join(printable(words).split())
        if self._key:
            words = words.replace(self._key, "(key)")
        return words[:300].rstrip(".") or "no reason given"

    async def _rest(self, seconds: float) -> None:
        if self._stopping.is_set():
            raise StoppedError
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise StoppedError


_LATER = "What was answered is in the journal: the same command goes on from there."


def _error_words(body: bytes) -> str:
    """What an error's body says; the usual places, else its beginning."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError:
        return text
    error = value.get("error", value) if isinstance(value, dict) else value
    words = error.get("message", error) if isinstance(error, dict) else error
    return words if isinstance(words, str) else json.dumps(words)


def check_endpoint(settings: EndpointSettings) -> None:
    """Check what can be checked of an endpoint before it is asked.

    Raises:
        UsageError: the address is none, has a password in it, or the key is not where it is said to be.
    """
    try:
        parts = urlsplit(settings.url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        good = None
    if not good:
        raise UsageError(f"'{settings.url}' is not an address.", hint="For example: --endpoint http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UsageError("an address with a password in it would end up in logs.", hint="Use --key-variable.")
    _key(settings)


def _key(settings: EndpointSettings) -> str:
    if not settings.key_variable:
        return ""
    key = os.environ.get(settings.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            f"the environment variable {settings.key_variable} holds no key.", hint=f"export {settings.key_variable}=…"
        )
    return key


def _client(settings: EndpointSettings, key: str) -> httpx2.AsyncClient:
    try:
        import httpx2
    except ImportError as e:
        raise MissingDependencyError(
            "asking a served model needs httpx2.", hint="Install it: pip install 'skinedge[evaluate]'."
        ) from e
    return httpx2.AsyncClient(
        base_url=settings.url.rstrip("/") + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(settings.timeout_s, connect=_CONNECT_S),
        limits=httpx2.Limits(max_connections=settings.concurrency),
        trust_env=not settings.at_home,  # a proxy has no business between two processes of one machine
    )
