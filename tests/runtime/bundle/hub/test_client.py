"""What the hub's client raises, in one line: without passwords and tokens, and told as what it is."""

from __future__ import annotations

import sys
import warnings

import pytest

from hubs import Hub, Repository
from trt_var import BundleError
from trt_var.bundle.hub import client
from trt_var.bundle.opening import PACKAGED, Bundle

NAME = "me/digits"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("for http://user:pa55@word@LOCALHOST:9/x?y", "for http://…@LOCALHOST:9/x?y"),
        ("for url 'https://user:pa%35word@host/x' and http://b:c@d", "for url 'https://…@host/x' and http://…@d"),
        ("no password in https://host/a@b or me@here", "no password in https://host/a@b or me@here"),
        ("at http://us er:a/b@host:1/x", "at http://…@host:1/x"),
        ("Illegal header value b'Bearer hf SECRET\\x0b'", "Illegal header value b'Bearer …"),
        (f"token hf_{'a1B2' * 8}, see", "token …, see"),
        ("hf_hub_download() and hf_transfer", "hf_hub_download() and hf_transfer"),
    ],
)
def test_no_password_is_said(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://us er:a/b@host:1")
    assert client.cleaned(text) == expected


@pytest.mark.parametrize("state", ["", "GatedRepo", "RepoNotFound"])
def test_nor_by_an_endpoint(hub: Hub, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    if state:
        hub.repositories[NAME] = Repository(state=state)
    given = hub.url.replace("://", "://user:pa55word@")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", given)
    with pytest.raises(BundleError) as caught:
        Bundle.open(f"hf://{NAME}")
    assert f"{hub.url.replace('://', '://…@')}/{NAME}" in str(caught.value)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (403, "Access to this resource is disabled.", "is disabled on the hub"),
        (403, "no", "may not do this: check the owner's name and the rights of the token"),
        (401, "Invalid credentials in Authorization header", "does not know who asks .*; log in with hf auth login"),
        (404, "no", "404"),
    ],
)
def test_a_refusal_is_none_of_the_network(hub: Hub, status: int, text: str, said: str) -> None:
    hub.add(NAME, PACKAGED / "digits")
    Bundle.open(f"hf://{NAME}")
    hub.refusals = {"/manifest.json": (status, text, 0)}
    with pytest.raises(BundleError, match=f"cannot load hf://{NAME}@main: .*{said}"):
        Bundle.open(f"hf://{NAME}")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_hub_that_cannot_answer_now(hub: Hub, caplog: pytest.LogCaptureFixture, status: int) -> None:
    commit = hub.add(NAME, PACKAGED / "digits")
    Bundle.open(f"hf://{NAME}")
    hub.refusals = {"/manifest.json": (status, "busy", 0)}
    assert Bundle.open(f"hf://{NAME}").source == f"hf://{NAME}@{commit}"
    assert any("the hub does not answer" in one for one in caplog.messages)


@pytest.mark.parametrize("setting", [True, False])
def test_progress_bars_that_are_settled(hub: Hub, monkeypatch: pytest.MonkeyPatch, setting: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", setting)
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", setting)
    hub.add(NAME, PACKAGED / "digits")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*progress bars.*")
        Bundle.open(f"hf://{NAME}")
