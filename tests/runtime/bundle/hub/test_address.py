"""Addresses on the hub: what they may look like, and that none leads out of its repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_var.bundle.hub.address import Address, is_address, parsed, short_name
from trt_var.errors import UsageError
from trt_var.serving.ray.settings import Args

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/digits", Address("me/digits")),
        ("hf://me/digits/", Address("me/digits")),
        ("hf://me/my.digits-2_x@v1.0", Address("me/my.digits-2_x", "v1.0")),
        (f"hf://me/digits@{COMMIT}/int8/small", Address("me/digits", COMMIT, "int8/small")),
        ("hf://me/digits/int8", Address("me/digits", "main", "int8")),
        ("hf://me/digits@refs/pr/3/int8", Address("me/digits", "refs/pr/3", "int8")),
        ("hf://me/digits@feature%2Fx/int8", Address("me/digits", "feature/x", "int8")),
        ("hf://me/digits@a%252Fb%40c", Address("me/digits", "a%2Fb@c")),
    ],
)
def test_forms(text: str, expected: Address) -> None:
    for given in (text, Path(text), text.replace("//", "\\", 1).replace("/", "\\")):
        assert is_address(given)
        assert parsed(given) == expected
    assert parsed(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://digits",
        "hf:///digits",
        "hf://me/../x",
        "hf://me/digits/../x",
        "hf://me/digits/./x",
        "hf://me/digits//x",
        "hf://me/digits@",
        "hf://me/digits@..",
        "hf://me/digits@a%2F..%2Fb",
        "hf://me/digits@a%00",
        "hf://me/digits@a/x\n",
        "hf://me/digits@a/x?y",
        "hf://me/digits@a/x:y",
        "hf://../digits",
        "hf://me/digits@a@b",
    ],
)
def test_others_are_refused(text: str) -> None:
    assert is_address(text)
    with pytest.raises(UsageError, match=r"is no address on the hub; expected hf://owner/name"):
        parsed(text)


@pytest.mark.parametrize("text", ["digits", "engines/d30-d16", "hf", "hf/x", "/hf://x", "~/hf:", "C:\\hf"])
def test_folders_are_none(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("given", "name"),
    [(f"hf://me/d30@{COMMIT}/int8", "d30"), ("hf:/me/d30", "d30"), ("a/b/../d", "d"), ("digits", "digits")],
)
def test_what_clients_call_it(given: str, name: str) -> None:
    assert short_name(given) == short_name(Path(given)) == name
    assert Args(engines=given).settings().model == name


def test_pinned() -> None:
    assert parsed(f"hf://me/digits@{COMMIT}").pinned
    assert not parsed(f"hf://me/digits@{COMMIT[:12]}").pinned
