"""Everything that can go wrong, in the words of the field.

One tree, one rule: the message is a single sentence that names the thing and says why, and
``hint`` is what to type next.  The command line prints both and exits with ``exit_code``.
"""

from __future__ import annotations


class SkinedgeError(Exception):
    """Base of every error skinedge raises on purpose.

    Args:
        message: one sentence that names the thing at fault and says why.
        hint: what the reader can do or type next; empty when there is nothing to add.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(SkinedgeError):
    """What was typed cannot be meant: an unknown name, a missing folder, a clash of options."""

    exit_code = 2


class CheckpointError(SkinedgeError):
    """A model folder is incomplete, damaged, or of another architecture."""


class AdapterError(SkinedgeError):
    """An adapter does not fit its model, uses a feature that cannot be merged, or changes nothing."""


class QuantizeError(SkinedgeError):
    """A weight cannot be represented in the scheme asked for."""


class CalibrationError(SkinedgeError):
    """What a model is to be calibrated on cannot be read, or a calibration does not belong to the model."""


class ImageError(SkinedgeError):
    """A photograph cannot be read or is outside the limits."""


class NotAPhotographError(ImageError):
    """A file holds nothing, or something else than a photograph of a kind that is read."""


class PromptError(SkinedgeError):
    """A prompt cannot be rendered or does not fit the model."""


class BundleError(SkinedgeError):
    """A bundle is incomplete, changed since it was written, or not a bundle."""


class TargetError(SkinedgeError):
    """A target cannot be written or opened on this machine."""


class NotFiniteError(TargetError):
    """What a model computed is no number: its floats overflowed."""


class OutputError(SkinedgeError):
    """The output place is taken, unwritable, or full."""


class CasesError(SkinedgeError):
    """Cases, a journal, a corpus or a sheet of scores that cannot be used as it is."""


class InvalidScoresError(SkinedgeError):
    """A judge's answer that does not hold six scores."""


class EndpointError(SkinedgeError):
    """A served model cannot be reached or will not serve us: the run stops, what was answered is kept."""


class RefusedError(SkinedgeError):
    """A served model will not answer this one request; the others may go on."""


class KitError(SkinedgeError):
    """A kit cannot be put together, or what it holds is not what was put into it."""


class AuditError(SkinedgeError):
    """The audit log is not as it was written, is somebody else's to write, or cannot be written."""


class PeopleError(SkinedgeError):
    """The list of operators cannot be used as it is, or a name or passphrase cannot go into it."""


class MissingDependencyError(SkinedgeError):
    """An optional library is not installed; the hint names the extra that brings it."""
