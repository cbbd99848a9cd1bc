"""What can go wrong while a corpus is built."""

from __future__ import annotations

from skinedge.errors import SkinedgeError


class CorpusError(SkinedgeError):
    """Cases, a journal, a corpus or a sheet of scores that cannot be used as it is."""


class EndpointError(SkinedgeError):
    """The teacher cannot be reached or will not serve us: the run stops, what was answered is kept."""


class RefusedError(SkinedgeError):
    """The teacher will not answer this one request; the others may go on."""
