"""Forked processes: what has threads in the parent is set aside in the child, and never ended there.

A child of ``os.fork`` inherits the memory of an engine's session and none of its threads. To end the session would wait for
them for ever, or crash; ONNX Runtime's own clean-up at exit does so even where no session was made. So the child keeps what
it inherited untouched, and once Python has finished it leaves without the clean-up of the C libraries.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

from trt_var.errors import BackendError


class Native:
    """Base of objects that hold threads or a device.

    Attributes:
        orphaned: whether this process was forked after the object was made.
    """

    orphaned = False

    def __init__(self) -> None:
        prepare()
        _natives.add(self)

    def check_process(self) -> None:
        """Raises BackendError in a forked child, before anything waits for threads that are not there."""
        if self.orphaned:
            raise BackendError(
                "this was loaded before the process was forked, and its threads stayed with the parent; call the pipeline "
                "itself again, or load it in this process (docs/embedding.md)"
            )


class Follower(Protocol):
    """What has to start anew in a forked child."""

    def _after_fork(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


def follow(follower: Follower) -> None:
    """Tell an object, as long as it lives, when this process is a forked child."""
    _followers.add(follower)


def prepare() -> None:
    """Children forked from now on leave without the clean-up of the C libraries; an engine has been imported."""
    global _prepared
    _prepared = True


def in_this_process(work: Callable[[], object]) -> Callable[[], object]:
    """Work that does nothing in a forked child: memory of a device is the parent's to free."""
    process = os.getpid()
    return lambda: work() if os.getpid() == process else None


_natives: WeakSet[Native] = WeakSet()
_followers: WeakSet[Follower] = WeakSet()
_prepared = False
_leaving = False
_libc: Any = None


def _in_child() -> None:
    for native in list(_natives):
        native.orphaned = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))  # outlives even the interpreter's own end
    for follower in list(_followers):
        follower._after_fork()
    if _prepared and not _leaving:
        _leave_at_once()


def _leave_at_once() -> None:
    """At the end of this process flush C's files and stop, before what the parent's libraries have registered."""
    global _leaving
    if hasattr(_libc, "on_exit"):  # glibc; the last to be registered is the first to be called, with the exit status
        _libc.on_exit(ctypes.cast(_libc._exit, ctypes.c_void_p), None)
        _libc.__cxa_atexit(ctypes.cast(_libc.fflush, ctypes.c_void_p), None, None)
        _leaving = True


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    _libc = ctypes.CDLL(None)
    os.register_at_fork(after_in_child=_in_child)
