"""Bodies of requests for images that no client would send: an answer of 400, or a picture, never anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from talking import Served, ask, assert_right, grown, talk, unharmed
from talking import request as http
from trt_var import Pipeline

DIGITS = "9" * 400
TEXTS: dict[str, tuple[str | bytes, int]] = {
    "a name twice": ('{"prompt":3,"prompt":4}', 400),
    "another name twice": ('{"prompt":3,"x":1,"x":1}', 400),
    "NaN": ('{"prompt":3,"cfg":NaN}', 400),
    "Infinity": ('{"prompt":3,"cfg":Infinity}', 400),
    "-Infinity": ('{"prompt":3,"cfg":-Infinity}', 400),
    "1e400": ('{"prompt":3,"cfg":1e400}', 400),
    "-1e400": ('{"prompt":3,"temperature":-1e400}', 400),
    "an integer of 400 digits": (f'{{"prompt":3,"n":{DIGITS}}}', 400),
    "an integer of 4300 digits": (f'{{"prompt":3,"seed":{"9" * 4300}}}', 400),
    "an integer of 10,000 digits": (f'{{"prompt":3,"n":{"9" * 10_000}}}', 400),
    "a fraction of 100,000 digits": (f'{{"prompt":3,"cfg":0.{"9" * 100_000}}}', 200),
    "100,000 brackets": ("[" * 100_000, 400),
    "100,000 braces": ('{"a":' * 100_000, 400),
    "100,000 brackets, closed": (f'{{"prompt":3,"user":{"[" * 100_000}{"]" * 100_000}}}', 400),
    "900 brackets": (f'{{"prompt":3,"temperature":{"[" * 900}{"]" * 900}}}', 400),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt":3,"seed":1}', 200),
    "UTF-16": ('{"prompt":3,"seed":1}'.encode("utf-16"), 200),
    "UTF-32": ('{"prompt":3,"seed":1}'.encode("utf-32"), 200),
    "invalid UTF-8": (b'{"prompt":"\xff\xfe"}', 400),
    "half a letter": (b'{"prompt":"3\xe2\x82"}', 400),
    "nothing": (b"", 400),
    "spaces": (b"   ", 400),
    "null": ("null", 400),
    "a list": ("[]", 400),
    "a text": ('"3"', 400),
    "a number": ("3", 400),
    "bytes": (bytes(range(256)) * 10, 400),
    "text behind": ('{"prompt":3}x', 400),
    "two objects": ('{"prompt":3}{"prompt":3}', 400),
    "a comment": ('{"prompt":3}//', 400),
    "a trailing comma": ('{"prompt":3,}', 400),
    "single quotes": ("{'prompt':3}", 400),
    "half a surrogate pair as a prompt": ('{"prompt":"\\ud800"}', 400),
    "half a surrogate pair as a model": ('{"prompt":3,"model":"\\ud800"}', 404),
    "half a surrogate pair as a size": ('{"prompt":3,"size":"\\udfff"}', 400),
    "half a surrogate pair as a preset": ('{"prompt":3,"preset":"\\udfff"}', 400),
    "half a surrogate pair twice": ('{"\\ud800":1,"\\ud800":1}', 400),
    "half a surrogate pair in UTF-8": (b'{"prompt":"\xed\xa0\x80"}', 400),
    "a null byte": (b'{"prompt":"3\x00"}', 400),
    "a null byte as an escape": ('{"prompt":"3\\u0000"}', 400),
    "control characters": ('{"prompt":"3\\n\\u001b[31m"}', 400),
    "a right-to-left mark": ('{"prompt":"\\u202ethree"}', 400),
    "an emoji": ('{"prompt":"\U0001f600"}', 400),
    "another script's digit": ('{"prompt":"３"}', 400),
    "capitals": ('{"prompt":"THREE","seed":1}', 200),
    "30,000 spaces": ('{"prompt":"' + " " * 30_000 + '3"}', 200),
    "a name of 31,000 letters": (f'{{"prompt":"{"x" * 31_000}"}}', 400),
    "a name of 40,000 letters": (f'{{"prompt":"{"x" * 40_000}"}}', 400),
    "a model of 600 letters": (f'{{"prompt":3,"model":"{"x" * 600}"}}', 400),
    "a field of 100,000 letters": (f'{{"prompt":3,"{"x" * 100_000}":1}}', 400),
    "a field without a name": ('{"prompt":3,"":1}', 400),
    "a million bytes of one text": (f'{{"prompt":3,"user":"{"x" * 1_000_000}"}}', 400),
    "a hundred thousand numbers": (f'{{"prompt":3,"temperature":[{"1," * 100_000}1]}}', 400),
}
VALUES: list[tuple[dict[str, Any], int]] = [
    *(({"n": n}, 400) for n in (10**9, 0, -1, -(10**30), True, False, 1.0, 1e300, "1", [1])),
    *(({"seed": seed}, 400) for seed in (2**64, 2**64 + 1, -(2**64) - 1, -(2**64), -(2**64) + 1, -2, True, 1.0, 1e19)),
    *(({"seed": seed}, 200) for seed in (2**64 - 1, 2**63, 0, -1, None)),
    ({"n": 2, "seed": 2**64 - 1}, 400),
    *(({"prompt": label}, 400) for label in (11, -2, 2**63, -(2**63), 10**30, 3.0, None, True, [], {}, "", " ", "3.0", "+")),
    *(({"prompt": label}, 200) for label in (-1, 10, "-1", "+3", " 3 ", "03")),
    *(({"cfg": number}, 400) for number in (-1e-300, 1e308, -1e308, 101, 10**400, "1", True)),
    *(({"cfg": number}, 200) for number in (-0.0, 0, 5e-324, 100)),
    *(({"temperature": number}, 400) for number in (0, -1, 1e-300, 1e300, 10**400, [], [1], [1, 2], [0] * 6, [None] * 6)),
    *(({"top_k": number}, 400) for number in (-1, 257, 10**400, 1.0)),
    *(({"top_p": number}, 400) for number in (-1, 2, 1e-320, 10**400)),
    *(({"scales": number}, 400) for number in (0, -1, 7, 10**30)),
    *(({"guided_scales": number}, 400) for number in (-1, 7, 10**30)),
    *(({"n_draft": n}, 400) for n in (-1, 7, 10**400, "x", "", [1], {"min": 1}, {"min": 5, "max": 2}, {"min": 7, "max": 9})),
    *(
        ({"n_draft": {"min": 1, "max": 2, **other}}, 400)
        for other in ({"x": 3}, {"min": None}, {"min": 10**400}, {"max": 1.5})
    ),
    *(({"stream": True, "partial_images": count}, 400) for count in (-1, 6, 10**9, 10**30, True, "1")),
    *(({"stream": True, "scales": scales, "partial_images": 0}, 400) for scales in (-1, 7, 10**30)),
    ({"stream": True, "n": 2}, 400),
    ({"partial_images": 1}, 400),
    *(({"output_format": "jpeg", "output_compression": number}, 400) for number in (-1, 101, 10**30, 1.5)),
    *(({"output_format": form, "output_compression": 0}, 200) for form in ("jpeg", "webp")),
]
WRONG = [None, True, False, 0, -1, 1.5, "", "x", [], {}, [[]], [None], {"a": 1}, 10**30, -(10**30), 1e308, 5e-324]
TEXT_FIELDS = ["prompt", "model", "size", "quality", "background", "output_format", "response_format", "moderation", "user"]
TEXT_FIELDS += ["safety_identifier", "preset"]
FIELDS = [*TEXT_FIELDS, "n", "output_compression", "stream", "partial_images", "seed", "n_draft", "cfg", "guidance_scale"]
FIELDS += ["top_k", "top_p", "temperature", "guided_scales", "scales", "more_smooth"]


@pytest.mark.parametrize("name", TEXTS)
def test_texts(service: Served, name: str) -> None:
    body, expected = TEXTS[name]
    with unharmed(service):
        found = ask(service.url, body)
        assert found.status == expected, found
        if expected != 200:
            error = found.json["error"]
            assert error["type"] == "invalid_request_error" and error["code"]
            assert len(error["message"]) <= 2000 and error["message"].isprintable()


def ids(values: list[tuple[dict[str, Any], int]]) -> Iterator[str]:
    for given, _ in values:
        yield json.dumps(given)[:60]


@pytest.mark.parametrize(("given", "expected"), VALUES, ids=ids(VALUES))
def test_values(service: Served, given: dict[str, Any], expected: int) -> None:
    with unharmed(service):
        found = ask(service.url, {"prompt": 3, **given})
        assert found.status == expected, found


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_every_type(service: Served, field: str) -> None:
    with unharmed(service):
        for value in WRONG:
            found = ask(service.url, {"prompt": 3, field: value})
            assert found.status in (200, 400, 404), (value, found)


@pytest.mark.parametrize("field", FIELDS)
def test_half_a_surrogate_pair_in_every_field(service: Served, field: str) -> None:
    found = ask(service.url, json.dumps({"prompt": 3, field: "\ud800"}))
    assert found.status in (200, 400, 404), found


def test_half_a_surrogate_pair_as_a_fields_name(service: Served) -> None:
    assert ask(service.url, '{"prompt":3,"\\ud800":1}').status == 400


def test_a_missing_prompt_is_named(service: Served) -> None:
    assert ask(service.url, {}).json["error"]["param"] == "prompt"


def test_previews_of_scales_that_there_are_not(service: Served) -> None:
    """Two million are enough to see it, and few enough to outlive it."""
    given = {"prompt": 3, "stream": True, "scales": 2_000_000, "partial_images": 1_999_999}
    assert grown(service, lambda: ask(service.url, given)) < 50e6


def test_a_megabyte_of_names_the_last_twice() -> None:
    """In another process, which may take five seconds of a processor for it."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
        "from trt_var.serving.app.protocols import wire; from trt_var.serving.app.faults import Refusal\n"
        "names = [f'{i:x}' for i in range(100_000)]; names.append(names[-1])\n"
        "body = ('{' + ','.join(f'\"{name}\":1' for name in names) + '}').encode(); assert len(body) < 1 << 20\n"
        "try: wire.parse(body, wire.Generate)\n"
        "except Refusal as refusal: sys.exit(7 if 'twice' in refusal.message else 8)"
    )
    found = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert found.returncode == 7


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonx", "multipart/form-data", "*/*", "application/xml"])
def test_other_content_types(service: Served, kind: str) -> None:
    with unharmed(service):
        assert talk(service.url, http("/v1/images/generations", f"Content-Type: {kind}", body=b'{"prompt":3}')).status == 415


def test_pictures_after_all_that(service: Served, digits: Pipeline) -> None:
    for seed in range(3):
        assert_right(ask(service.url, {"prompt": 7, "seed": seed, "n": 3}), digits, 7, seed, 3)
