"""What the stock ``openai`` client makes of every kind of refusal: its class, its code, and whether it asks again."""

from __future__ import annotations

import asyncio
import base64
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import KEY, OpenAI, module, png

openai = module("openai")

GENERATIONS = "/v1/images/generations"
OTHER = "sk-fedcba9876543210"
PICTURE = np.zeros((32, 32, 3), np.uint8)
MEANT: list[tuple[dict[str, Any], str, str, str]] = [
    ({"prompt": "sevn"}, "unknown_class", "prompt", "did you mean seven?"),
    ({"prompt": "thre"}, "unknown_class", "prompt", "did you mean three?"),
    ({"prompt": "11"}, "unknown_class", "prompt", "classes 0 to 9"),
    ({"prompt": ""}, "unknown_class", "prompt", "is not a class"),
    ({"n": 0}, "invalid_value", "n", "expected 1 to 10"),
    ({"n": 11}, "invalid_value", "n", "expected 1 to 10"),
    ({"n": 2, "stream": True}, "invalid_value", "n", "a stream is of one image"),
    ({"partial_images": 2}, "invalid_value", "partial_images", "belong to a stream"),
    ({"partial_images": 6, "stream": True}, "invalid_value", "partial_images", "expected 0 to 5"),
    ({"size": "1024x1024"}, "invalid_value", "size", "this model draws 32x32"),
    ({"quality": "high"}, "invalid_value", "quality", "raise n_draft"),
    ({"background": "transparent"}, "invalid_value", "background", "expected auto or opaque"),
    ({"response_format": "url"}, "invalid_value", "response_format", "expected b64_json"),
    ({"output_format": "gif"}, "invalid_value", "output_format", "expected png, jpeg, webp"),
    ({"output_compression": 50}, "invalid_value", "output_compression", "for jpeg and webp"),
    ({"style": "vivid"}, "unknown_parameter", "style", "'style' is not known here"),
    ({"extra_body": {"seeds": 1}}, "unknown_parameter", "seeds", "'seeds' is not known here"),
    ({"extra_body": {"seed": 2**64}}, "invalid_value", "seed", "2^64"),
    ({"extra_body": {"seed": 2**64 - 1}, "n": 2}, "invalid_value", "seed", "2^64"),
    ({"extra_body": {"seed": 1.5}}, "invalid_value", "seed", "float"),
    ({"extra_body": {"n_draft": 7}}, "invalid_value", "n_draft", "n_draft is 7"),
    ({"extra_body": {"n_draft": {"min": 1}}}, "invalid_value", "n_draft", "max"),
    ({"extra_body": {"cfg": -1}}, "invalid_value", "cfg", "cfg is -1"),
    ({"extra_body": {"cfg": 1, "guidance_scale": 1}}, "invalid_value", "cfg", "one setting"),
    ({"extra_body": {"top_k": 257}}, "invalid_value", "top_k", "top_k is 257"),
    ({"extra_body": {"top_p": 2}}, "invalid_value", "top_p", "top_p is 2"),
    ({"extra_body": {"temperature": [1, 2]}}, "invalid_value", "temperature", "expected 1 or 6"),
    ({"extra_body": {"guided_scales": 7}}, "invalid_value", "guided_scales", "guided_scales is 7"),
    ({"extra_body": {"scales": 7}}, "invalid_value", "scales", "scales is 7"),
    ({"extra_body": {"preset": "none"}}, "invalid_value", "preset", "'none'"),
]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def client(service: Any, asynchronous: bool) -> OpenAI:
    return OpenAI(service.url, asynchronous, max_retries=0)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A file of two keys."""
    path = tmp_path / "keys"
    path.write_text(f"# of the tests\nsomeone {KEY}\nother {OTHER}\n")
    path.chmod(0o600)
    return str(path)


def refused(kind: type[Exception], client: OpenAI, method: str = "images.generate", **given: Any) -> Any:
    with pytest.raises(kind) as caught:
        client(method, **({"prompt": "3"} if method == "images.generate" and "prompt" not in given else {}), **given)
    return caught.value


@pytest.mark.parametrize(("given", "code", "param", "text"), MEANT, ids=[str(given) for given, *_ in MEANT])
def test_what_cannot_be_meant(client: OpenAI, given: dict[str, Any], code: str, param: str, text: str) -> None:
    error = refused(openai.BadRequestError, client, **given)
    assert (error.status_code, error.code, error.param, error.type) == (400, code, param, "invalid_request_error")
    assert text in error.message, error.message


@pytest.mark.parametrize(
    ("files", "param", "text"),
    [
        ({"image": png(PICTURE)}, "mask", "expected the files image and mask"),
        ({"image": png(PICTURE), "mask": png(PICTURE)}, "mask", "transparent where the image is redrawn"),
        ({"image": png(PICTURE), "mask": b"no picture"}, None, "mask is no PNG"),
        ({"image": b"", "mask": png(PICTURE, PICTURE[:, :, 0] == 0)}, None, "image"),
        ({"image": png(PICTURE), "mask": png(np.zeros((16, 20, 3), np.uint8), np.ones((16, 20), bool))}, None, "20×16"),
        ({"image": [png(PICTURE)] * 2, "mask": png(PICTURE, PICTURE[:, :, 0] == 0)}, None, "files"),
    ],
    ids=["no mask", "opaque mask", "mask no picture", "image empty", "mask of another size", "two images"],
)
def test_files_that_cannot_be_meant(client: OpenAI, files: dict[str, Any], param: str | None, text: str) -> None:
    error = refused(openai.BadRequestError, client, "images.edit", prompt="3", **files)
    assert (error.status_code, error.type) == (400, "invalid_request_error") and text in error.message, error.message
    assert param in (error.param, None) and "/tmp" not in error.message


def test_requests_have_names(client: OpenAI) -> None:
    given = {name: {"extra_headers": {"X-Request-ID": name}} for name in ("mine-1.a_B", "no name!")}
    errors = {name: refused(openai.BadRequestError, client, prompt="?", **headers) for name, headers in given.items()}
    assert errors["mine-1.a_B"].request_id == "mine-1.a_B"
    assert errors["no name!"].request_id != "no name!" and len(errors["no name!"].request_id) == 24
    assert all(error.response.headers["x-request-id"] == error.request_id for error in errors.values())


def test_what_is_not_there(client: OpenAI) -> None:
    for error in (
        refused(openai.NotFoundError, client, "models.retrieve", model="gpt-image-1"),
        refused(openai.NotFoundError, client, model="gpt-image-1"),
        refused(openai.NotFoundError, client, model="gpt-image-1", stream=True),
    ):
        assert (error.code, error.param, "'digits'" in error.message) == ("model_not_found", "model", True)
    assert refused(openai.NotFoundError, client, "get", path="/embeddings", cast_to=object).code == "not_found"


def test_other_refusals(client: OpenAI) -> None:
    error = refused(openai.APIStatusError, client, "get", path="/images/generations", cast_to=object)
    assert (error.status_code, error.code, error.response.headers["allow"]) == (405, "method_not_allowed", "POST")
    error = refused(openai.APIStatusError, client, prompt="3" * 2**20)
    assert (error.status_code, error.code) == (413, "request_too_large")
    for path in ("/images/generations", "/images/edits"):
        headers = {"headers": {"Content-Type": "text/plain"}}
        error = refused(
            openai.APIStatusError, client, "post", path=path, cast_to=object, body={"prompt": "3"}, options=headers
        )
        assert (error.status_code, error.code) == (415, "unsupported_media_type")
    error = refused(openai.PermissionDeniedError, client, extra_headers={"Host": "elsewhere.example"})
    assert (error.code, error.type) == ("unknown_host", "permission_error")
    error = refused(openai.PermissionDeniedError, client, extra_headers={"Origin": "https://elsewhere.example"})
    assert error.code == "foreign_origin"


def test_keys(start: Callable[..., Any], keys: str, asynchronous: bool) -> None:
    served = start("--api-key-file", keys)
    stranger = OpenAI(served.url, asynchronous, api_key="sk-no-such-key-here")
    for method, given in (("images.generate", {"stream": True}), ("images.generate", {}), ("models.list", {})):
        error = refused(openai.AuthenticationError, stranger, method, **given)
        assert (error.code, error.type) == ("invalid_api_key", "authentication_error")
        assert "Bearer" in error.response.headers["www-authenticate"] and "sk-no" not in error.message
    for key in (KEY, OTHER):
        assert OpenAI(served.url, asynchronous, api_key=key)("models.list").data[0].id == "digits"
    basic = {"Authorization": "Basic " + base64.b64encode(f"anyone:{KEY}".encode()).decode()}
    assert OpenAI(served.url, asynchronous, api_key="none")("images.generate", prompt="3", extra_headers=basic).data


def test_a_keys_rate(start: Callable[..., Any], keys: str, asynchronous: bool) -> None:
    """The client waits as long as it is told to, then has its picture; another key's never knows."""
    served = start("--api-key-file", keys, "--key-rate", "0.5")
    hasty, patient = OpenAI(served.url, asynchronous, max_retries=0), OpenAI(served.url, asynchronous)
    extra = {"n_draft": 6}
    hasty("images.generate", prompt="3", extra_body=extra)
    error = refused(openai.RateLimitError, hasty, extra_body=extra)
    assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert error.response.headers["retry-after"] in ("1", "2")
    OpenAI(served.url, asynchronous, api_key=OTHER, max_retries=0)("images.generate", prompt="3", extra_body=extra)
    began = time.monotonic()
    raw = patient("images.with_raw_response.generate", prompt="3", extra_body=extra)
    assert raw.parse().data[0].label == 3 and raw.retries_taken == 1
    assert time.monotonic() - began > 0.9


async def together(url: str, count: int, **options: Any) -> list[tuple[Any, float]]:
    """So many requests of one image at once; what came of each, and after how many seconds."""

    async def one(client: Any) -> tuple[Any, float]:
        began = time.monotonic()
        try:
            found = await client.images.with_raw_response.generate(prompt="3", extra_body={"n_draft": 0})
        except openai.APIStatusError as error:
            return error, time.monotonic() - began
        return found, time.monotonic() - began

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, **options) as client:
        return await asyncio.gather(*(one(client) for _ in range(count)))


def test_a_keys_images_under_way(start: Callable[..., Any], keys: str) -> None:
    served = start("--api-key-file", keys, "--key-images", "1")
    errors = [found for found, _ in asyncio.run(together(served.url, 2, max_retries=0)) if isinstance(found, Exception)]
    assert [type(error) for error in errors] == [openai.RateLimitError]
    assert errors[0].code == "rate_limit_exceeded" and errors[0].response.headers["retry-after"] == "1"
    found = asyncio.run(together(served.url, 2))
    assert sorted(raw.retries_taken for raw, _ in found) == [0, 1]
    assert max(seconds for _, seconds in found) > 1


@pytest.mark.parametrize("limit", ["--key-images", "--max-waiting"])
def test_more_than_there_will_ever_be_room_for(start: Callable[..., Any], keys: str, limit: str) -> None:
    served = start("--api-key-file", keys, limit, "2")
    error = refused(openai.BadRequestError, OpenAI(served.url, max_retries=0), n=3)
    assert (error.code, error.param) == ("invalid_value", "n")


def test_a_full_queue(start: Callable[..., Any]) -> None:
    """Some are refused; asked by a client that waits as it is told, all are drawn."""
    served = start("--batch", "1", "--max-waiting", "1")
    found = asyncio.run(together(served.url, 6, max_retries=0))
    errors = [error for error, _ in found if isinstance(error, Exception)]
    assert 1 <= len(errors) <= 5 and {type(error) for error in errors} == {openai.InternalServerError}
    for error in errors:
        assert (error.status_code, error.code, error.type) == (503, "server_overloaded", "server_error")
        assert "ask again later" in error.message and 1 <= int(error.response.headers["retry-after"]) <= 10
    found = asyncio.run(together(served.url, 3))
    assert all(raw.parse().data[0].label == 3 for raw, _ in found)
    waited = [seconds for raw, seconds in found if raw.retries_taken]
    assert waited and min(waited) > 1
    assert served.metric('trt_var_rejected_total{reason="full"}') >= len(errors) + len(waited)


def test_no_time_for_it(client: OpenAI) -> None:
    error = refused(openai.InternalServerError, client, n=10, extra_headers={"X-Request-Timeout": "0.001"})
    assert (error.status_code, error.code) == (504, "deadline_exceeded") and "longer timeout" in error.message
    for wrong in ("0", "soon", "-1", "inf", "nan"):
        error = refused(openai.BadRequestError, client, extra_headers={"X-Request-Timeout": wrong})
        assert error.code == "invalid_value" and "X-Request-Timeout" in error.message


@pytest.mark.one_process("the proxies end, not the command")
def test_an_end_that_is_announced(start: Callable[..., Any], asynchronous: bool) -> None:
    served = start("--drain-delay", "3")
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    error = refused(openai.InternalServerError, OpenAI(served.url, asynchronous, max_retries=0))
    assert (error.status_code, error.code) == (503, "draining")
    assert int(error.response.headers["retry-after"]) >= 1 and error.response.headers["connection"] == "close"
    assert served.process.wait(30) == 0, served.log.read_text()


@pytest.mark.one_process("engines run side by side as replicas, in other processes than the one that is stopped")
def test_a_deadline_that_has_passed_is_not_asked_again(start: Callable[..., Any]) -> None:
    """The service stands still until it is too late for ten images, and for a stream that waits behind them."""
    served = start("--batch", "1", "--side-by-side", "1")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client, ThreadPoolExecutor(1) as pool:
        timeout = 2 + 30 * client.models.retrieve("digits").seconds["4"]
        given: dict[str, Any] = {"prompt": "3", "extra_headers": {"X-Request-Timeout": f"{timeout:.3f}"}}
        whole = pool.submit(client.images.generate, n=10, extra_body={"n_draft": 0}, **given)
        while not served.metric("trt_var_running_images"):
            assert not whole.done(), whole.exception()
        events = client.images.generate(stream=True, **given)
        served.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(timeout)
        finally:
            served.process.send_signal(signal.SIGCONT)
        error = whole.exception(60)
        with pytest.raises(openai.APIError) as caught:
            list(events)
    assert isinstance(error, openai.InternalServerError) and error.status_code == 504, error
    assert (error.code, error.response.headers["x-should-retry"]) == ("deadline_exceeded", "false")
    assert served.metric(f'trt_var_requests_total{{route="{GENERATIONS}",status="504"}}') == 1
    assert (caught.value.code, caught.value.type) == ("deadline_exceeded", "server_error")
    assert not isinstance(caught.value, openai.APIStatusError)


@pytest.mark.one_process("the replicas count what they draw and what is cancelled")
def test_who_gives_up_is_drawn_no_further(start: Callable[..., Any], asynchronous: bool) -> None:
    served = start("--batch", "1", "--max-images", "200")
    client = OpenAI(served.url, asynchronous, max_retries=0, timeout=0.3)
    refused(openai.APITimeoutError, client, n=200, extra_body={"n_draft": 0})
    end = time.monotonic() + 10
    while not served.metric(f'trt_var_requests_total{{route="{GENERATIONS}",status="499"}}') and time.monotonic() < end:
        time.sleep(0.05)
    assert served.metric('trt_var_cancelled_total{stage="queued"}') >= 1
    assert served.metric('trt_var_images_total{n_draft="0"}') < 200
