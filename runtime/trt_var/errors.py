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
    """Base of every error that this package raises on purpose. The message says what to do.

    Example:
        >>> from trt_var import Pipeline
        >>> try:
        ...     Pipeline.load("digits").generate("cat")
        ... except TrtVarError as error:
        ...     type(error).__name__
        'UsageError'
    """


class UsageError(TrtVarError, ValueError):
    """A value of the request is out of range or contradicts another.

    Example:
        >>> from trt_var import Pipeline
        >>> Pipeline.load("digits").generate(7, n_draft=9)
        Traceback (most recent call last):
        trt_var.errors.UsageError: n_draft is 9; expected 0 to 6
    """


class BundleExistsError(UsageError):
    """The target of a build exists already."""


class CheckpointError(TrtVarError):
    """A checkpoint cannot be found, read, or does not hold the expected tensors."""


class BundleError(TrtVarError):
    """A bundle is missing, incomplete, altered, or written by a newer version.

    Example:
        >>> from trt_var import Pipeline
        >>> Pipeline.load("nowhere")
        Traceback (most recent call last):
        trt_var.errors.BundleError: no bundle at nowhere (no manifest.json): --engines digits needs none, and ...
    """


class BackendError(TrtVarError):
    """A backend is not installed, not usable on this machine, or failed while running.

    Example:
        >>> from trt_var import Pipeline
        >>> Pipeline.load("digits", "tensorrt")  # for which it holds no engines
        Traceback (most recent call last):
        trt_var.errors.BackendError: ...
    """


class ExportError(TrtVarError):
    """A graph could not be exported, or does not compute what the model computes."""


class DataError(TrtVarError):
    """Pictures are missing, damaged, or of another kind than expected.

    Example:
        >>> from trt_var import pictures
        >>> pictures.read_picture("nowhere.png", side=32)
        Traceback (most recent call last):
        trt_var.errors.DataError: ...nowhere.png...
    """


class TrainingError(TrtVarError):
    """A training run went wrong."""


class OverloadedError(TrtVarError):
    """A queue is full, or would make a request wait past its deadline.

    Attributes:
        retry_after: seconds after which it is worth asking again.
        reason: ``full``, ``deadline``, ``draining`` or ``key``.

    Example:
        >>> from trt_var import Batcher, Batching, Pipeline
        >>> with Batcher(Pipeline.load("digits"), Batching(batch=2, waiting=1)) as batcher:
        ...     try:
        ...         batcher.submit([7, 8])
        ...     except OverloadedError as error:
        ...         error.reason, error.retry_after > 0
        ('full', True)
    """

    def __init__(self, message: str, retry_after: float = 1.0, reason: str = "full") -> None:
        super().__init__(message, retry_after, reason)
        self.retry_after, self.reason = retry_after, reason

    def __str__(self) -> str:
        return str(self.args[0])


class DeadlineError(TrtVarError):
    """A request was not done by its deadline.

    Example:
        >>> from trt_var import Batcher, Batching, Pipeline
        >>> with Batcher(Pipeline.load("digits"), Batching(batch=2)) as batcher:
        ...     try:
        ...         batcher.submit(7, timeout=1e-6).result()
        ...     except DeadlineError as error:
        ...         "longer timeout" in str(error)
        True
    """


class OutputError(TrtVarError):
    """A result could not be written.

    Example:
        >>> import tempfile
        >>> from trt_var import Pipeline, bulk
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     bulk.sample(Pipeline.load("digits"), bulk.Bulk(num=1), file.name)
        Traceback (most recent call last):
        trt_var.errors.OutputError: cannot write ...: File exists
    """
