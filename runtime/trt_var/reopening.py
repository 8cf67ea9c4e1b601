"""What a pipeline takes along into another process: where its bundle is and the backend asked for, never its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trt_var.backends.base import NO_WISHES, Wishes
from trt_var.bundle.opening import Bundle
from trt_var.bundle.packaged import is_packaged, packaged
from trt_var.errors import UsageError

DIGITS = "digits"


class _Loads(Protocol):
    @classmethod
    def load(cls, *given: Any, **options: Any) -> Any: ...


Kind = TypeVar("Kind", bound=_Loads)


@dataclass(frozen=True)
class Origin:
    """What a pipeline was loaded with.

    Attributes:
        path: the bundle's folder, absolute, or its address on the hub, with the commit; None for the digits inside the
            package, wherever that is installed.
        backend: as it was asked for, ``auto`` too.
        batch_invariant: whether images are drawn one by one.
        wishes: what was asked of an engine on a CPU.
    """

    path: Path | str | None
    backend: str
    batch_invariant: bool = False
    wishes: Wishes = NO_WISHES

    @classmethod
    def of(cls, bundle: Bundle, backend: str, batch_invariant: bool, wishes: Wishes = NO_WISHES) -> Origin:
        path = None if is_packaged(bundle.path, DIGITS) else bundle.source or bundle.path.absolute()
        return cls(path, backend, batch_invariant, wishes)


def reduce(kind: type[Kind], origin: Origin | None, closed: bool) -> tuple[Callable[..., Kind], tuple[type[Kind], Origin]]:
    """For ``__reduce__``: pickling and copying load the bundle again.

    Raises:
        UsageError: the pipeline is closed, or was not made by ``load``.
    """
    if closed:
        raise UsageError("this pipeline is closed and cannot be pickled or copied; load the bundle again")
    if origin is None:
        raise UsageError(
            "this pipeline was made of a bundle and a backend at hand and cannot be pickled or copied; make it with "
            "Pipeline.load(path, backend), or load it where it is used"
        )
    return _reopen, (kind, origin)


def _reopen(kind: type[Kind], origin: Origin) -> Kind:
    path = packaged(DIGITS) if origin.path is None else origin.path
    options = {"batch_invariant": origin.batch_invariant, **asdict(origin.wishes)}
    pipeline: Kind = kind.load(path, origin.backend, **options)
    return pipeline
