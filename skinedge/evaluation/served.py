"""Which model a server answers with: what its ``/models`` says, kept in a journal so that two are not mixed under one name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from skinedge.errors import CasesError
from skinedge.evaluation.endpoint import Answer, Endpoint, EndpointSettings
from skinedge.evaluation.journal import Journal
from skinedge.weights.checkpoint import digest_of

# What a model is, in the answers of vLLM, llama.cpp and the others; times and permissions change by the hour.
_STEADY = ("id", "root", "parent", "owned_by", "max_model_len", "meta", "quantization", "digest", "aliases", "tags")


def who_is(where: EndpointSettings, name: str) -> Mapping[str, object]:
    """What the server says of its model by that name; empty where it says nothing.

    Raises:
        EndpointError: it cannot be reached, or will not have us.
    """

    async def ask() -> Mapping[str, object]:
        async with Endpoint(where) as endpoint:
            return _said_of(await endpoint.models(), name)

    return asyncio.run(ask())


def _said_of(models: Sequence[Mapping[str, object]], name: str) -> Mapping[str, object]:
    """What is said of the model by that name; of the only one there is, where the server does not know names."""
    one = next((m for m in models if m.get("id") == name), models[0] if len(models) == 1 else {})
    return {key: one[key] for key in _STEADY if key in one}


def check_identity(journal: Journal, who: Mapping[str, str], served: str) -> bool:
    """Whether a journal knows who answers in it.

    Args:
        journal: the journal.
        who: what was asked for by name; it finds the entry.
        served: the digest of what the server says that this is.

    Raises:
        CasesError: its answers are of another model by that name.
    """
    known = journal.get(_key(who))
    if known is not None and known.text != served:
        raise CasesError(
            f"the journal's answers are of another model that is called {who['who']}, too.",
            hint="Begin a new one (--journal, of parity --rows); the endpoint serves something else now.",
        )
    return known is not None


def keep_identity(journal: Journal, who: Mapping[str, str], served: str) -> None:
    """Remember who answers in a journal, so that another model by the same name does not go on with it.

    Raises:
        CasesError: its answers are of another model by that name.
    """
    if not check_identity(journal, who, served):
        journal.add(_key(who), Answer(served, "stop"), step="who", case="", model=who["who"])


def kept_identity(journal: Journal, who: Mapping[str, str]) -> str:
    """The digest that was kept; empty if none was."""
    known = journal.get(_key(who))
    return known.text if known else ""


def _key(who: Mapping[str, str]) -> str:
    return digest_of(dict(who))
