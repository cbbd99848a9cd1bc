"""The last stage of all: does the workstation's API say, token by token, what the bundle's own session says?

Both are asked the bundle's question about the same photographs, greedily.  The session is opened here; the API is that of a
running ``skinedge serve`` of the same bundle, which proves it by the fingerprint of its answers.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skinedge.errors import EndpointError, UsageError
from skinedge.parity.metrics import first_different
from skinedge.runtime.generate import GenerateOptions
from skinedge.runtime.pipeline import open_pipeline

if TYPE_CHECKING:
    from skinedge.console import Json

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class ServedCase:
    """One photograph: how many tokens the session gave, and the first that the API had otherwise; ``None``: none."""

    image: str
    tokens: int
    first_different: int | None


@dataclass(frozen=True)
class Served:
    """All of them."""

    cases: tuple[ServedCase, ...]

    @property
    def passed(self) -> bool:
        """Every token is the same."""
        return all(case.first_different is None for case in self.cases)

    def to_json(self) -> Json:
        """One JSON object."""
        cases: Json = [{"image": c.image, "tokens": c.tokens, "first_different": c.first_different} for c in self.cases]
        return {"passed": self.passed, "cases": cases}

    def lines(self) -> Iterator[str]:
        """For people."""
        same = sum(c.first_different is None for c in self.cases)
        tokens = sum(c.tokens for c in self.cases)
        yield f"served: {same} of {len(self.cases)} narratives are the session's, token by token ({tokens} tokens)"
        for case in self.cases:
            if case.first_different is not None:
                yield f"  {case.image}: another token at {case.first_different} of {case.tokens}"


def compare_served(
    bundle: Path, url: str, images: Sequence[Path], *, side: str | None = None, threads: int | None = None, tokens: int = 512
) -> Served:
    """Ask both.

    Args:
        bundle: what is served.
        url: of the workstation, which is on this machine.
        images: photographs.
        side: open the bundle as this target; the workstation's ``--target`` must be the same.
        threads: of the session; another number than the workstation's may add up in another order.
        tokens: narratives are cut off there.

    Raises:
        UsageError: the address is not of this machine.
        EndpointError: nobody answers there, or another bundle is served.
    """
    _check_here(url)
    with open_pipeline(bundle, side=side, threads=threads) as pipeline:
        decoding = GenerateOptions(max_new_tokens=tokens, bias=pipeline.manifest.decoding.bias)  # type: ignore[arg-type]
        cases = []
        for image in images:
            encoded = [pipeline.session.encode_image(pipeline.pixels(image))]
            generation = pipeline.start(encoded, pipeline.manifest.prompt.question, decoding)
            for _ in generation:
                pass
            ours = list(generation.transcript.token_ids)
            theirs = _asked(url, image, pipeline.manifest.prompt.question, tokens, pipeline.manifest.digest)
            cases.append(ServedCase(image.name, len(ours), first_different(ours, theirs)))
    return Served(tuple(cases))


def _asked(url: str, image: Path, question: str, tokens: int, digest: str) -> list[int]:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(image.read_bytes()).decode()}"}},
        {"type": "text", "text": question},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0, "return_token_ids": True}
    found = _post(f"{url.rstrip('/')}/v1/chat/completions", body)
    if found.get("system_fingerprint") != digest[:16]:
        raise EndpointError(
            f"{url} serves another bundle ({found.get('system_fingerprint')}), and this one is {digest[:16]}.",
            hint="Serve this one: skinedge serve BUNDLE",
        )
    return [int(t) for t in found["choices"][0]["token_ids"]]


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as e:
        raise EndpointError(f"{url} answers {e.code}: {e.read(400).decode('utf-8', 'replace')}") from e
    except (OSError, ValueError) as e:
        raise EndpointError(f"{url} does not answer: {e}.", hint="Start it: skinedge serve BUNDLE") from e


def _check_here(url: str) -> None:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if parts.scheme != "http" or not here:
        raise UsageError(
            f"'{url}' is no address of this machine, and photographs are sent to it.",
            hint="Give what skinedge serve printed, such as http://127.0.0.1:7890/.",
        )
