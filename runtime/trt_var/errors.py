"""The project's exceptions.

TrtVarError
├── UsageError          a value that cannot be meant: the request has to change
│   └── BundleExistsError
├── CheckpointError     weights that cannot be read or do not fit
├── BundleError         a bundle that is missing, damaged or of another version
├── BackendError        a backend that cannot be used here, or failed
├── ExportError         a graph that could not be traced, or that disagrees with the model
├── DataError           pictures that cannot be read or do not fit
├── TrainingError       a training run that cannot go on
├── OverloadedError     more is asked for than can be drawn in time: ask again later
├── DeadlineError       a result that would have come too late
└── OutputError         a result that could not be written
"""

from __future__ import annotations


def printable(text: str) -> str:
    """One line that a terminal shows as it is: control characters, line breaks too, are written as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class TrtVarError(Exception):
    """Base of every error that this package raises on purpose. The message says what to do."""


class UsageError(TrtVarError, ValueError):
    """A value of the request is out of range or contradicts another."""


class BundleExistsError(UsageError):
    """The target of a build exists already."""


class CheckpointError(TrtVarError):
    """A checkpoint cannot be found, read, or does not hold the expected tensors."""


class BundleError(TrtVarError):
    """A bundle is missing, incomplete, altered, or written by a newer version."""


class BackendError(TrtVarError):
    """A backend is not installed, not usable on this machine, or failed while running."""


class ExportError(TrtVarError):
    """A graph could not be exported, or does not compute what the model computes."""


class DataError(TrtVarError):
    """Pictures are missing, damaged, or of another kind than expected."""


class TrainingError(TrtVarError):
    """A training run went wrong."""


class OverloadedError(TrtVarError):
    """A queue is full, or would make a request wait past its deadline.

    Attributes:
        retry_after: seconds after which it is worth asking again.
        reason: ``full``, ``deadline``, ``draining`` or ``key``.
    """

    def __init__(self, message: str, retry_after: float = 1.0, reason: str = "full") -> None:
        super().__init__(message, retry_after, reason)
        self.retry_after, self.reason = retry_after, reason

    def __str__(self) -> str:
        return str(self.args[0])


class DeadlineError(TrtVarError):
    """A request was not done by its deadline."""


class OutputError(TrtVarError):
    """A result could not be written."""
