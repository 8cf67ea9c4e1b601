"""Signals, and ports: what was accepted is answered, what comes is refused, and the process ends as it should."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from talking import (
    GENERATIONS,
    INFER,
    Answer,
    ask,
    asking,
    assert_picture,
    assert_right,
    connect,
    ended,
    events,
    get,
    hear,
    joined,
    talk,
    together,
    under_way,
    until,
)
from talking import request as http
from trt_var import Pipeline

OLD, NEW = "0123456789abcdef", "fedcba9876543210"
SLOW = """
import time
from trt_var.serving.batching import sizing
measured = sizing.measure
def measure(*given):
    print('measuring', flush=True)
    time.sleep(%g)
    return measured(*given)
sizing.measure = measure
"""

IMPORTING = """
import time, signal
from trt_var.cli import options
opened = options.pipeline
def pipeline(*given):
    print('measuring', flush=True)
    time.sleep(1)
    return opened(*given)
options.pipeline = pipeline
"""


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


def refuses(url: str) -> bool:
    """Whether nobody listens any more."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture
def fifty(there: Callable[..., Any], held: Any) -> Callable[..., Any]:
    """Starts a service that has fifty requests, of three kinds; the service, and what is there once they are answered."""

    def begin(*options: str) -> tuple[Any, list[Any], dict[int, Answer]]:
        served = there("--max-waiting", "500", *options, code=held.code, **held.env).ready()
        held.close()

        def one(i: int) -> Answer:
            given = {"prompt": i % 10, "seed": i, **({"stream": True, "partial_images": 2} if i % 5 == 0 else {"n": 2})}
            return ask(served.url, given)

        threads, found = together(50, one)
        until(lambda: under_way(served.url) == 90, "all are there")
        return served, threads, found

    return begin


def assert_all_right(found: dict[int, Answer], digits: Pipeline) -> None:
    assert len(found) == 50
    for i, one in found.items():
        if i % 5:
            assert_right(one, digits, i % 10, i, 2)
        else:
            name, told = events(one.body)[-1]
            assert name == "image_generation.completed" and (told["label"], told["seed"]) == (i % 10, i)
            assert_picture(told, digits, told["n_draft"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_everything_accepted_is_answered(fifty: Callable[..., Any], held: Any, digits: Pipeline, number: int) -> None:
    served, threads, found = fifty()
    with connect(served.url) as idle:
        served.process.send_signal(number)
        until(lambda: refuses(served.url), "new connections are refused")
        assert hear(idle) == b"", "idle connections are closed"
        held.open()
        joined(threads)
    assert_all_right(found, digits)
    assert ended(served.process) == 0
    assert "Traceback" not in served.log.read_text()


def test_new_requests_while_it_drains(fifty: Callable[..., Any], held: Any, digits: Pipeline) -> None:
    served, threads, found = fifty("--drain-delay", "60")
    served.process.send_signal(signal.SIGTERM)
    until(lambda: get(served.url, "/readyz").json == {"status": "draining"}, "it says so")
    assert get(served.url, "/readyz").status == 503 and get(served.url, "/healthz").status == 200
    assert get(served.url, "/v2/health/ready").status == 503 and get(served.url, "/v2/health/live").status == 200
    infer = {"inputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [3]}]}
    for given, path in (({"prompt": 3}, GENERATIONS), ({"prompt": 3, "stream": True}, GENERATIONS), (infer, INFER)):
        one = talk(served.url, asking(given, path=path, close=False))  # the server closes
        assert one.status == 503 and one.headers["connection"] == "close" and int(one.headers["retry-after"]) > 0
        assert path == INFER or one.code == "draining"
    held.open()
    joined(threads)
    assert_all_right(found, digits)
    served.process.send_signal(signal.SIGTERM)
    assert ended(served.process) == 0


def test_half_a_request_does_not_hold_up_the_end(there: Callable[..., Any]) -> None:
    served = there().ready()
    with connect(served.url) as body, connect(served.url) as head:
        body.sendall(http(GENERATIONS, "Content-Type: application/json", "Content-Length: 100", method="POST"))
        head.sendall(b"POST /v1/images")
        until(lambda: get(served.url, "/healthz").status == 200, "both are there")
        served.process.send_signal(signal.SIGTERM)
        assert ended(served.process, 6) == 0  # bodies may take 30 s otherwise
    assert "Traceback" not in served.log.read_text()


def assert_told(found: dict[int, Answer]) -> None:
    """Those who were given up know it in the API's own words, or by the end of the connection."""
    for one in found.values():
        assert one.status in (0, 200, 503), one
        assert one.status != 503 or one.json["error"]["code"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_at_once(there: Callable[..., Any], number: int) -> None:
    """Though there are minutes of work."""
    served = there("--max-waiting", "5000").ready()
    threads, found = together(150, lambda _: ask(served.url, {"prompt": 3, "n": 10, "n_draft": 0}))
    until(lambda: under_way(served.url) > 1000, "most are there")
    served.process.send_signal(number)
    until(lambda: refuses(served.url), "the first is heard")
    served.process.send_signal(number)
    assert ended(served.process) == 0
    joined(threads)
    assert sum(one.status == 200 for one in found.values()) < 75


@pytest.mark.parametrize("options", [(), ("--patience", "1")], ids=["a second signal", "patience"])
def test_who_is_given_up_is_told(fifty: Callable[..., Any], options: tuple[str, ...]) -> None:
    """And an engine that hangs, as this one does, does not hold up the end."""
    served, threads, found = fifty(*options)
    served.process.send_signal(signal.SIGTERM)
    until(lambda: refuses(served.url), "the first is heard")
    if not options:
        served.process.send_signal(signal.SIGTERM)
    joined(threads)
    assert ended(served.process, 4) == 0
    assert_told(found)
    assert "Traceback" not in served.log.read_text()


def test_the_keys_are_read_again(there: Callable[..., Any], tmp_path: Path) -> None:
    """Broken, missing and empty files change nothing."""
    keys = tmp_path / "keys"
    keys.write_text(f"a {OLD}\n")
    keys.chmod(0o600)
    served = there("--api-key-file", str(keys), "--drain-delay", "0.5").ready()

    def status(key: str) -> int:
        return get(served.url, "/v1/models", f"Authorization: Bearer {key}").status

    def read_again(lines: int) -> None:
        served.process.send_signal(signal.SIGHUP)
        until(lambda: told().count("the keys stay") + told().count("1 keys") == lines, "it is read again")

    def told() -> str:
        return str(served.log.read_text())

    assert (status(OLD), status(NEW)) == (200, 401)
    before = told().count("1 keys")
    for broken in (f"a {OLD[:-1]}\n", "", f"a {NEW}\na {OLD}\n", NEW):
        keys.write_text(broken)
        before += 1
        read_again(before)
        assert (status(OLD), status(NEW)) == (200, 401)
    keys.unlink()
    read_again(before + 1)
    assert (status(OLD), status(NEW)) == (200, 401)
    keys.write_text(f"a {NEW}\n")
    read_again(before + 2)
    assert (status(OLD), status(NEW)) == (401, 200)
    assert OLD not in told() and NEW not in told()
    assert served.stop() == 0


def test_a_hangup_without_keys(there: Callable[..., Any]) -> None:
    served = there().ready()
    served.process.send_signal(signal.SIGHUP)
    until(lambda: served.process.poll() is not None or bool(get(served.url, "/readyz")), "it is heard")
    time.sleep(0.2)
    assert served.process.poll() in (None, 0)


def test_a_killed_service_starts_again_on_its_port(there: Callable[..., Any], digits: Pipeline) -> None:
    served = there().ready()
    with connect(served.url) as client:
        client.sendall(asking({"prompt": 3}, close=False))
        served.process.kill()
        served.process.wait()
        again = there("--port", port_of(served.url)).ready()
        assert again.url == served.url
        assert_right(ask(again.url, {"prompt": 3, "seed": 1}), digits, 3, 1)
        clash = there("--port", port_of(served.url))
        assert ended(clash.process) == 1
        [line] = clash.log.read_text().splitlines()
        assert line == (
            f"trt-var serve: cannot listen on 127.0.0.1:{port_of(served.url)}: Address already in use; choose another --port"
        )
        assert_right(ask(again.url, {"prompt": 3, "seed": 2}), digits, 3, 2)
        assert again.stop() == 0


def test_two_services_that_start_at_once_on_one_port(there: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    both = [there("--port", port, code=SLOW % 1) for _ in range(2)]
    until(lambda: any(one.process.poll() is not None for one in both), "one of them ends")
    [loser] = [one for one in both if one.process.poll() is not None]
    assert loser.process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in loser.log.read_text() and "Traceback" not in loser.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", ["before", "while it measures"])
def test_while_it_starts(there: Callable[..., Any], moment: str, number: int) -> None:
    """Before it serves, as any command that is interrupted; later, as a service."""
    served = there(code=SLOW % 0.5 if moment != "before" else IMPORTING)
    assert served.process.stdout.readline() == "measuring\n"
    served.process.send_signal(number)
    assert ended(served.process) in (0, 130)
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize("signals", [1, 2])
def test_a_start_that_takes_long_is_given_up(there: Callable[..., Any], signals: int) -> None:
    served = there(code=SLOW % 30)
    assert served.process.stdout.readline() == "measuring\n"
    for _ in range(signals):
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    ended(served.process, 4)


def test_a_start_that_fails(there: Callable[..., Any]) -> None:
    code = "from trt_var.errors import BackendError\n" + SLOW % 0
    served = there(code=code.replace("    return measured(*given)", "    raise BackendError('no device')"))
    assert ended(served.process) == 1
    assert served.log.read_text() == "trt-var serve: no device\n"
