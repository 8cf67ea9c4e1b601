"""The service on Ray Serve, by the command and bytes on a socket. Kind: a cluster of this machine, two engines."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("ray.serve", reason="needs trt-var[ray]")

import rigged
from talking import (
    EDITS,
    FORM,
    Answer,
    asking,
    assert_picture,
    assert_right,
    connect,
    ended,
    events,
    form,
    get,
    hear,
    joined,
    pixels,
    png,
    request,
    talk,
    together,
    until,
)
from trt_var import Pipeline

SECRET = "sk-0123456789abcdef"
KEY = f"Authorization: Bearer {SECRET}"
OPTIONS = ("--ray", "local", "--replicas", "2", "--max-waiting", "16", "--threads", "1")
ENGINE = "ray::ServeReplica:trt-var:engine"


@pytest.fixture(scope="module", autouse=True)
def startable() -> None:
    if why := rigged.trouble():
        pytest.skip(why)


@pytest.fixture(scope="module")
def service(served_by: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("ray")
    keys = folder / "keys"
    keys.write_text(f"alice {SECRET}\n")
    keys.chmod(0o600)
    found = served_by(folder / "service.log", *OPTIONS, "--api-key-file", str(keys))
    yield found
    if found.process.poll() is None:
        found.stop()


def ask(url: str, given: Any, *headers: str) -> Answer:
    return talk(url, asking(given, KEY, *headers))


def engines(service: Any) -> list[psutil.Process]:
    children = psutil.Process(service.process.pid).children(recursive=True)
    return [one for one in children if command(one).startswith(ENGINE)]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def metrics(service: Any) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in get(service.url, "/metrics", KEY).body.decode().splitlines()]
    return {name: float(value) for name, _, value in lines if not name.startswith("#")}


def test_pictures_are_the_pipelines(service: Any, digits: Pipeline) -> None:
    answer = ask(service.url, {"prompt": "seven", "seed": 5, "n": 3, "n_draft": 2, "cfg": 2.5})
    assert answer.status == 200 and answer.json["n_draft"] == 2
    for label in range(4):
        assert_right(ask(service.url, {"prompt": label, "seed": 7}), digits, label, 7)
    assert get(service.url, "/v1/models", KEY).json["data"][0]["id"] == "digits"
    assert get(service.url, "/readyz").json == {"status": "ready"}


def test_streams_and_edits(service: Any, digits: Pipeline) -> None:
    given = {"prompt": 3, "seed": 7, "stream": True, "partial_images": 3}
    (*previews, (name, last)) = events(ask(service.url, given).body)
    assert name == "image_generation.completed" and [one["scale"] for _, one in previews] == [1, 2, 3]
    assert_picture(last, digits, 4)

    three = digits.generate(3, seeds=7, n_draft=4).images[0]
    mask = np.full((32, 32, 4), 255, np.uint8)
    mask[:16, :, 3] = 0
    body = form(("image", png(three), "a.png"), ("mask", png(mask), "b.png"), ("prompt", "8", None), ("seed", "1", None))
    answer = talk(service.url, request(EDITS, f"Content-Type: {FORM}", KEY, body=body))
    drawn = pixels(answer.json["data"][0]["b64_json"])
    assert np.array_equal(drawn[16:], three[16:]) and not np.array_equal(drawn[:16], three[:16])


def test_what_is_refused(service: Any) -> None:
    url = service.url
    assert talk(url, asking({"prompt": 3})).code == "invalid_api_key"
    for given, code in (({"prompt": "sevn"}, "unknown_class"), ({"prompt": 3, "n_draft": 9}, "invalid_value")):
        answer = ask(url, given)
        assert (answer.status, answer.code) == (400, code), answer
    broken = form(("image", b"no", "a.png"), ("mask", b"no", "b.png"), ("prompt", "8", None))
    assert talk(url, request(EDITS, f"Content-Type: {FORM}", KEY, body=broken)).status == 400
    late = ask(url, {"prompt": 3, "n": 10, "n_draft": 0}, "X-Request-Timeout: 0.01")
    assert late.status in (503, 504) and late.code in ("deadline_exceeded", "server_overloaded"), late


def test_headers_of_serve_do_nothing_and_the_identity_comes_once(service: Any) -> None:
    for_serve = ("x-request-timeout-seconds: 0.001", "x-request-disconnect-disabled: ?1", "serve_multiplexed_model_id: a")
    data = asking({"prompt": 3, "n": 4}, KEY, *for_serve, "X-Request-ID: mine-1")
    with_odd = asking({"prompt": 3}, KEY, "X-Request-ID: not <mine>")
    for sent in (data, with_odd):
        found = talk(service.url, sent)
        assert found.status == 200, found
    with_lines = _head(service.url, data)
    assert [line for line in with_lines if line.startswith("x-request-id")] == ["x-request-id: mine-1"]
    (odd,) = (line for line in _head(service.url, with_odd) if line.startswith("x-request-id"))
    assert "<" not in odd


def _head(url: str, sent: bytes) -> list[str]:
    from talking import exchange

    return exchange(url, sent).partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")


def test_too_much_is_refused_with_the_time_after_which_to_ask_again(service: Any, digits: Pipeline) -> None:
    threads, found = together(16, lambda i: ask(service.url, {"prompt": i % 10, "seed": i, "n": 8, "n_draft": 0}))
    joined(threads)
    refused = [one for one in found.values() if one.status != 200]
    assert 0 < len(refused) < 16 and {(one.status, one.code) for one in refused} == {(503, "server_overloaded")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    told = metrics(service)
    assert told['trt_var_rejected_total{reason="full"}'] == len(refused)
    assert told['trt_var_requests_total{route="/v1/images/generations",status="503"}'] >= len(refused)


def test_a_client_that_goes_leaves_room(service: Any, digits: Pipeline) -> None:
    for _ in range(6):
        with connect(service.url) as client:
            client.sendall(asking({"prompt": 1, "n": 8, "n_draft": 0}, KEY))
            time.sleep(0.05)
    until(lambda: ask(service.url, {"prompt": 1, "n": 8}).status == 200, "there is room", 5)
    assert_right(ask(service.url, {"prompt": 3, "seed": 7}), digits, 3, 7)


def test_a_replica_that_dies_under_load_fails_nobody(service: Any, digits: Pipeline) -> None:
    end, found = threading.Event(), dict[int, Answer]()

    def client(number: int) -> None:
        for seed in range(number, 10_000, 4):
            if end.is_set():
                return
            streamed = {"stream": True, "partial_images": 3} if number == 3 else {}
            found[seed] = ask(service.url, {"prompt": seed % 10, "seed": seed, **streamed})

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            until(lambda: len(engines(service)) == 2, "both are there")
            before = engines(service)
            time.sleep(1)
            before[0].kill()
            until(lambda: len(engines(service)) == 2 and before[0] not in engines(service), "another takes its place")  # noqa: B023
    finally:
        end.set()
    joined(threads)
    assert len(found) > 50
    for seed, answer in found.items():
        assert answer.status == 200, answer
        if seed % 4 == 3:
            told = events(answer.body)
            scales = [one["scale"] for _, one in told[:-1]]
            assert told[-1][0].endswith("completed") and scales == sorted(set(scales)) and {*scales} <= {1, 2, 3}, told
            assert_picture(told[-1][1], digits, 4)
        else:
            assert_right(answer, digits, seed % 10, seed)


def test_the_end_loses_nothing(service: Any, digits: Pipeline) -> None:
    begun = threading.Barrier(3)

    def client(seed: int) -> bytes:
        with connect(service.url) as place:
            place.sendall(asking({"prompt": 3, "seed": seed, "n_draft": 0, "stream": True, "partial_images": 5}, KEY))
            found = hear(place)
            begun.wait(60)
            while chunk := hear(place):
                found += chunk
        return found

    threads, found = together(2, client)
    begun.wait(60)
    service.process.send_signal(signal.SIGTERM)
    joined(threads)
    assert all(b" 200 OK" in one and b"image_generation.completed" in one for one in found.values()), found
    cluster = psutil.Process(service.process.pid).children(recursive=True)
    assert ended(service.process) == 0, service.log.read_text()
    psutil.wait_procs(cluster, 5)
    assert not [one for one in cluster if command(one)]
