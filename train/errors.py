"""What can go wrong in training, in the words of the field."""

from __future__ import annotations

from skinedge.errors import SkinedgeError


class DataError(SkinedgeError):
    """A training record cannot be read, or nothing in it can be learned from."""


class CacheError(SkinedgeError):
    """The cache of hidden states belongs to something else, or is damaged."""


class TrainingError(SkinedgeError):
    """Training cannot start, go on, or be resumed."""
