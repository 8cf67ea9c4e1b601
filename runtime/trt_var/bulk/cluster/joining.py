"""A Ray cluster for as long as a block lasts: quiet, without telemetry, signals and loggers afterwards as they were."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from trt_var.backends.installed import needed
from trt_var.backends.threads import available
from trt_var.errors import BackendError, UsageError

AUTO, LOCAL = "auto", "local"
ANSWER = 10.0  # seconds
PURPOSE, INSTALL = "sampling on a cluster needs Ray, which", 'pip install "trt-var[ray-bulk]"'
SETTINGS = {  # where the user has not set them
    "RAY_USAGE_STATS_ENABLED": "0",  # no report of use
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # CUDA_VISIBLE_DEVICES is left alone where no GPU is asked for
}
HINT = "start one with ray start --head, set RAY_AUTH_MODE=token if it wants a token, or give local for this machine alone"


@contextmanager
def joined(address: str, purpose: str = PURPOSE, install: str = INSTALL) -> Iterator[Any]:
    """The module ``ray``, connected; a cluster that the program has joined already is taken, and stays joined.

    Args:
        address: ``auto`` for the cluster of this machine, ``local`` for one that is made of this machine and goes with the
            block, ``host:port``, or ``ray://host:port``.
        purpose, install: for the message where Ray is missing.

    Raises:
        BackendError: Ray is not installed, or no such cluster answers.
        UsageError: no address.
    """
    if not address or address != address.strip():
        raise UsageError(f"the cluster's address is {address!r}; expected auto, local, host:port or ray://host:port")
    with ExitStack() as undo:
        undo.callback(_restore, dict(os.environ), sys.excepthook)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with needed(purpose, ("ray",), install):
            import ray  # optional, and of this alone
        if ray.is_initialized():
            yield ray
            return
        _quieten(ray, undo)
        undo.callback(ray.shutdown)
        _connect(ray, address, undo)
        yield ray


def _restore(environment: dict[str, str], hook: Any) -> None:
    """What Ray leaves in a process that used it."""
    for name in [name for name in os.environ if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"]:
        if name not in environment:
            del os.environ[name]
    sys.excepthook = hook


def _quieten(ray: Any, undo: ExitStack) -> None:
    """What a raylet tells of dead processes, in twenty lines each, the driver says in one."""
    logger = logging.getLogger("ray")
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL)
    worker: Any = getattr(ray._private, "worker", None)
    if hasattr(worker, "_worker_logs_enabled"):
        undo.callback(setattr, worker, "_worker_logs_enabled", worker._worker_logs_enabled)
        worker._worker_logs_enabled = False


def _connect(ray: Any, address: str, undo: ExitStack) -> None:
    own = {"num_cpus": available(), "include_dashboard": False} if address == LOCAL else {}
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        _answers(ray, address)
        ray.init(address=address, **own, **quiet)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, TimeoutError: by what was wrong and by version
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"no Ray cluster at {address} ({first}); {HINT}") from error
    except SystemExit as stop:  # SIGTERM, which Ray's own handler has until the next line
        raise KeyboardInterrupt from stop
    finally:
        if main and handler is not None:  # Ray's own would end the process past all clearing up
            signal.signal(signal.SIGTERM, handler)


def _answers(ray: Any, address: str) -> None:
    """Look whether anything listens there: Ray would try for ever, and write of every try.

    Raises:
        OSError, ValueError: nothing does, or that is no address.
    """
    if address == LOCAL:
        return
    place = address.removeprefix("ray://")
    if address == AUTO:  # RAY_ADDRESS, or what the last ray start of this machine left, which may be gone
        place = ray._private.services.canonicalize_bootstrap_address(address) or ""
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("expected auto, local, host:port or ray://host:port")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
        pass
