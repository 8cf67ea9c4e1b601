"""The backends: which exist, which are usable here, and which one ``auto`` takes."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

from trt_var.backends.base import NO_WISHES, Backend, Wishes, described
from trt_var.backends.installed import UnusablePackageError, needed
from trt_var.backends.threads import checked
from trt_var.bundle.opening import Bundle
from trt_var.errors import BackendError, UsageError

log = logging.getLogger(__name__)

# name → (module, what to install)
KINDS = {
    "tensorrt": ("trt_var.backends.tensorrt.runtime", "pip install 'trt-var[gpu]', or 'trt-var[rtx]' for TensorRT-RTX"),
    "openvino": ("trt_var.backends.openvino.runtime", "pip install 'trt-var[cpu]'"),
    "onnxruntime": ("trt_var.backends.onnxruntime.runtime", "pip install 'trt-var[cpu]', or 'trt-var[gpu]' for CUDA"),
}
EXACT, ON_CPU = "exact", "onnxruntime"  # float32 arithmetic, what the golden vectors are compared with


@dataclass(frozen=True)
class Status:
    """Whether a backend is usable here: its description, or the reason why not.

    Attributes:
        broken: its package is there but cannot be used; one that is simply not installed is not broken.
    """

    name: str
    usable: bool
    detail: str
    rank: int = 0
    broken: bool = False


def create(name: str = "auto", bundle: Bundle | None = None, wishes: Wishes = NO_WISHES) -> Backend:
    """Create a backend by name; ``auto`` takes a GPU if one is usable, else the fastest on this CPU, ``exact`` float32.

    TensorRT runs the engines of one bundle, and is usable where that bundle has some for this GPU. ``wishes`` are
    for engines on a CPU.

    Raises:
        UsageError: unknown name, or a number of threads out of range.
        BackendError: not installed, broken or not usable, with the reason and what to install.
    """
    if name == "auto":
        return _automatic(bundle, wishes)
    if name not in (*KINDS, EXACT):
        raise UsageError(f"backend is {name!r}; expected auto, {EXACT}, {' or '.join(KINDS)}")
    if name == EXACT:
        _check_exact(bundle)
    kind = ON_CPU if name == EXACT else name
    module, install = KINDS[kind]
    with needed(f"backend {name}", (kind,), install):
        found = importlib.import_module(module)
        backend: Backend = (
            found.OnnxRuntime(threads=checked(wishes.threads)) if name == EXACT else found.create(bundle, wishes)
        )
    log.info("backend %s: %s", name, described(backend))
    return backend


def statuses(bundle: Bundle | None = None) -> list[Status]:
    """Every backend with its description or the reason why it is not usable, for a bundle if one is given."""
    found = []
    for name in KINDS:
        try:
            backend = create(name, bundle)
            found.append(Status(name, True, described(backend), backend.rank))
        except BackendError as error:
            found.append(Status(name, False, str(error), broken=isinstance(error, UnusablePackageError)))
    return found


def fastest(found: list[Status]) -> Status | None:
    """The one that ``auto`` takes, the highest rank (base.Backend; docs/backends.md has the figures behind the ranks)."""
    return max((status for status in found if status.usable), key=lambda status: status.rank, default=None)


def _automatic(bundle: Bundle | None, wishes: Wishes) -> Backend:
    found = statuses(bundle)
    chosen = fastest(found)
    if chosen is None:
        raise BackendError("no backend is usable here: " + "; ".join(status.detail for status in found))
    for status in found:
        if not status.usable:
            level = logging.WARNING if status.broken else logging.INFO
            log.log(level, "backend %s not considered: %s", status.name, status.detail)
    return create(chosen.name, bundle, wishes)


def _check_exact(bundle: Bundle | None) -> None:
    if bundle is None or (bundle.manifest.precision == "fp32" and bundle.manifest.quantised is None):
        return
    kind = "quantised" if bundle.manifest.quantised else bundle.manifest.precision
    raise BackendError(
        f"backend {EXACT} is float32 arithmetic throughout, and the bundle {bundle.path} is {kind}: take the float32 bundle "
        "of the same weights, or --batch-invariant where images only shall not depend on each other"
    )
