"""The process: a socket, signals, and an end that loses nothing that was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from trt_var.errors import OutputError, UsageError
from trt_var.serving import connections, memory
from trt_var.serving.app.guarding.guard import LARGEST_HEADERS
from trt_var.serving.app.keys import Keys
from trt_var.serving.app.service import Service
from trt_var.serving.batching.dispatch import State

log = logging.getLogger(__name__)
FAILED = 1
LAST = 1.0  # seconds that answers may take to be sent after that nothing more is drawn
HALF = 2.0  # seconds that bodies may still take to arrive after that no more requests are taken
LOOK, GRACE = 0.2, 2.0  # seconds between looks at the engine; that a failed one still answers, so that balancers see it
BACKLOG = 2048
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Process:
    """Where and how to listen.

    Attributes:
        host, port: of the socket; port 0 is any free one.
        drain_delay: seconds after SIGTERM in which connections are still taken, so that balancers notice.
        patience: seconds that requests may still take then; None for as long as they need.
        certificate, key: files, to speak TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    drain_delay: float = 0.0
    patience: float | None = None
    certificate: str | None = None
    key: str | None = None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(process: Process) -> socket.socket:
    """A socket that listens.

    Raises:
        OutputError: the address cannot be had.
        UsageError: no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(process.host, process.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)  # at once: two that bind at the same time would find out only when models are loaded
    except socket.gaierror as error:
        raise UsageError(f"host {process.host!r} is not known: {error.strerror}") from error
    except UnicodeError as error:
        raise UsageError(f"host {process.host[:80]!r} is no host's name") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot listen on {process.host}:{process.port}: {reason}; choose another --port") from error
    return found


def serve(app: Starlette, process: Process, listening: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or SIGINT, which let everything accepted be answered; the second ends at once.

    Returns:
        The exit status: 0, or 1 after the engine failed.
    """
    _allow_many_files()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        http=connections.protocol(app.state.service.settings),
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        ssl_certfile=process.certificate,
        ssl_keyfile=process.key,
    )
    server = _Server(config, app.state.service, process, ready)
    with memory.seldom_searched():
        server.run(sockets=[listening])
    return FAILED if server.failed else 0


class _Server(uvicorn.Server):
    """uvicorn's closes its socket at the first signal; this one first says that it will."""

    def __init__(self, config: uvicorn.Config, service: Service, process: Process, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._process, self._ready = service, process, ready
        self._ending = False
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._watching = asyncio.ensure_future(self._watch())
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the service; unlike uvicorn's, they are not raised once more when it has ended."""
        loop, keys = asyncio.get_running_loop(), self._service.settings.keys
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        actions: dict[signal.Signals, Callable[[], None]] = {
            number: partial(self._end, number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        if hangup is not None:
            actions[hangup] = partial(_reload, keys)
        before = {number: signal.getsignal(number) for number in actions}
        for number, action in actions.items():
            _listen(loop, number, action)
        try:
            yield
        finally:
            for number in actions:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)
                signal.signal(number, before[number])

    def _end(self, number: signal.Signals) -> None:
        if self._ending:
            self._give_up()
            return
        self._ending = True
        log.info("%s: no more requests are taken; those that were are answered", number.name)
        self._service.engine.drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self._process.drain_delay, self._close)
        loop.call_later(self._process.drain_delay + HALF, self._hang_up, True)
        if self._process.patience is not None:
            loop.call_later(self._process.drain_delay + self._process.patience, self._give_up)

    def _close(self) -> None:
        self.should_exit = True

    def _give_up(self) -> None:
        """Those who wait are told so; what is still there a moment later is cut off."""
        self._service.engine.abandon()
        self.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_later(LAST, self._hang_up, False)
        loop.call_later(2 * LAST, setattr, self, "force_exit", True)  # for what does not notice that its client has gone

    def _hang_up(self, half: bool) -> None:
        """Cut connections off: all, or those whose request is not here yet."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, connections.Connection) and (connection.awaits_body or not half):
                connection.transport.abort()

    async def _watch(self) -> None:
        """End when the engine has failed: a supervisor starts the service again, this process cannot mend it."""
        while self._service.state() is not State.FAILED:
            await asyncio.sleep(LOOK)
        log.error("the engine has failed; the service ends")
        self.failed = True
        await asyncio.sleep(GRACE)
        self._give_up()


def _listen(loop: asyncio.AbstractEventLoop, number: signal.Signals, action: Callable[[], None]) -> None:
    try:
        loop.add_signal_handler(number, action)
    except NotImplementedError:  # on Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(action))


def _reload(keys: Keys | None) -> None:
    if keys is None:
        return
    try:
        keys.reload()
    except UsageError as error:
        log.error("the keys stay what they were: %s", error)


def _allow_many_files() -> None:
    """A connection is a file; the usual limit is 1024, and a thousand idle clients are no reason to be deaf."""
    if sys.platform == "win32":
        return
    import resource  # Windows has none

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class JsonLines(logging.Formatter):
    """One JSON object a line; what access logs say is one already."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}"
        told: dict[str, Any] = {"ts": stamp, "level": record.levelname.lower(), "logger": record.name}
        told |= record.msg if isinstance(record.msg, dict) else {"message": record.getMessage()}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()


def log_to_stderr(lines: bool, level: int) -> None:
    """Logs of the service and of uvicorn on standard error, as JSON lines or for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if lines else logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("trt_var", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # what clients send is answered, and logged with its answer
