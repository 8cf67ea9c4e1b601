"""Bundles from a hub on this machine, through the hub's own client: what is fetched, pinned, refused and said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hubs import Hub, Tree
from trt_var import BundleError, Pipeline
from trt_var.bundle.hub import fetching
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main

DIGITS = PACKAGED / "digits"
NAME = "me/digits"


def fetched(hub: Hub) -> list[str]:
    """The files that were asked for."""
    return sorted({one.rpartition("/")[2] for one in hub.asked if one.startswith("GET /me/") or "/large/" in one})


def added(hub: Hub) -> Tree:
    """The digits on the hub, to be altered there."""
    commit = hub.add(NAME, DIGITS)
    return hub.repositories[NAME].commits[commit]


def refused(match: str, address: str = f"hf://{NAME}") -> None:
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.open(address)
    assert "\n" not in str(caught.value)


def test_a_branch_is_told_with_its_commit(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add(NAME, DIGITS)
    hub.repositories[NAME].commits[commit] |= {"README.md": b"# Digits\n", "other.bin": b"large"}
    bundle = Bundle.open(f"hf://{NAME}")
    bundle.verify()
    assert bundle.source == f"hf://{NAME}@{commit}"
    assert fetched(hub) == sorted(["manifest.json", *bundle.manifest.files])
    assert [path.name for path in bundle.path.iterdir() if path.read_bytes() != (DIGITS / path.name).read_bytes()] == []
    Bundle.open(f"hf://{NAME}")
    told = [one for one in caplog.messages if "may be another tomorrow" in one]
    assert told == [f"hf://{NAME}@main is {commit[:12]} now, and may be another tomorrow; pin it: hf://{NAME}@{commit}"]


def test_a_commit_in_the_cache_is_taken_without_a_word(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add(NAME, DIGITS)
    Bundle.open(f"hf://{NAME}@{commit}")
    hub.asked.clear()
    with Pipeline.load(Path(f"hf://{NAME}@{commit}"), "onnxruntime") as pipeline:
        made = pipeline.generate(7, n_draft=4).provenance
        again = pickle.loads(pickle.dumps(pipeline))
        assert again.generate(7, n_draft=4).provenance == made
        again.close()
    assert made is not None and made.source == f"hf://{NAME}@{commit}"
    assert hub.asked == []
    assert not caplog.messages


def test_a_branch_moves(hub: Hub) -> None:
    first = hub.add(NAME, DIGITS)
    assert Bundle.open(f"hf://{NAME}").source == f"hf://{NAME}@{first}"
    second = hub.add(NAME, DIGITS)
    assert Bundle.open(f"hf://{NAME}").source == f"hf://{NAME}@{second}"


@pytest.mark.parametrize("after", [1, 2])
def test_what_a_branch_was_before_is_not_taken_for_what_it_is(hub: Hub, after: int) -> None:
    hub.add(NAME, DIGITS)
    Bundle.open(f"hf://{NAME}")
    second = hub.add(NAME, DIGITS)
    hub.refusals = {"/manifest.json": (403, "", after)}  # the client does not try again at once
    if after == 1:
        refused(f"cannot load hf://{NAME}@main: .*; check")
    else:
        assert Bundle.open(f"hf://{NAME}").source == f"hf://{NAME}@{second}"


def test_a_folder_of_a_branch(hub: Hub) -> None:
    hub.add(NAME, DIGITS)
    repository = hub.repositories[NAME]
    tree = {f"small/int8/{path.name}": path.read_bytes() for path in DIGITS.iterdir() if path.is_file()}
    commit = repository.commit(tree, "feature/x")
    bundle = Bundle.open(f"hf://{NAME}@feature%2Fx/small/int8")
    bundle.verify()
    assert bundle.source == f"hf://{NAME}@{commit}/small/int8"
    assert bundle.path.parts[-2:] == ("small", "int8")


def test_what_is_not_there(hub: Hub) -> None:
    refused(rf"cannot load hf://{NAME}@main: there is no {hub.url}/{NAME}, or it is private; .*HF_TOKEN")
    commit = hub.add(NAME, DIGITS)
    refused("has no revision 'v2'; give a branch, a tag or a whole commit", f"hf://{NAME}@v2")
    refused("there is no manifest.json in the folder int8; expected what trt-var push uploads", f"hf://{NAME}/int8")
    del hub.repositories[NAME].commits[commit]["decoder.weights"]
    refused("has no decoder.weights, which its manifest names; it was not uploaded whole")
    hub.repositories[NAME].state = "GatedRepo"
    refused(rf"it is gated; accept its conditions at {hub.url}/{NAME}", f"hf://{NAME}@v3")


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda data: data[:-1], "1605663 bytes"), (lambda data: b"x" + data[1:], "sha256 .*, expected 1605664")],
    ids=["truncated", "changed"],
)
def test_what_the_hub_lists_is_compared_first(hub: Hub, change: object, said: str) -> None:
    tree = added(hub)
    tree["decoder.weights"] = change(tree["decoder.weights"])  # type: ignore[operator]
    refused(f"decoder.weights in hf://.* is not what the manifest says: .*{said}.*; upload the bundle again")
    assert fetched(hub) == ["manifest.json"]


def test_bytes_changed_under_way(hub: Hub) -> None:
    hub.add(NAME, DIGITS)
    whole = (DIGITS / "decoder.weights").read_bytes()
    hub.sent["decoder.weights"] = whole[:1000] + b"?" + whole[1001:]
    bundle = Bundle.open(f"hf://{NAME}")
    with pytest.raises(BundleError, match=r"decoder.weights was altered: .*; remove (/\S+) and load hf://") as caught:
        bundle.verify()
    del hub.sent["decoder.weights"]
    Path(str(caught.value).partition("remove ")[2].split()[0]).unlink()
    Bundle.open(f"hf://{NAME}").verify()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "a/b", "C:x", "..\\x"])
def test_names_stay_in_the_folder(hub: Hub, name: str) -> None:
    tree = added(hub)
    manifest = json.loads(tree["manifest.json"])
    manifest["files"][name] = manifest["files"]["classes.txt"]
    tree["manifest.json"] = json.dumps(manifest).encode()
    refused("which may lie outside the bundle; expected plain file names; refused")
    assert fetched(hub) == ["manifest.json"]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"{}", "is not a valid manifest"),
        (b"<html>", "is not a valid manifest"),
        (b'{"schema": 99}', "update trt-var"),
        (b" " * ((4 << 20) + 1), "manifest.json has 4194305 bytes, expected at most 4194304; refused"),
    ],
)
def test_other_manifests(hub: Hub, manifest: bytes, said: str) -> None:
    added(hub)["manifest.json"] = manifest
    refused(said)
    assert fetched(hub) in (["manifest.json"], [])


def test_ceilings(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, DIGITS)
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "MAX_FILES", 3)
        refused("names 30 files of 0 GB together, expected at most 3 of")
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "MAX_TOTAL", 1 << 20)
        refused("expected at most 1000 of 0 GB; refused")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
        refused("GB are free; make room or set HF_HOME")
    assert fetched(hub) == ["manifest.json"]


def test_an_interrupted_transfer_goes_on(hub: Hub) -> None:
    hub.add(NAME, DIGITS)
    hub.cut = {"decoder.weights": 1, "classes.txt": 1}
    Bundle.open(f"hf://{NAME}").verify()
    assert hub.cut == {"decoder.weights": 0, "classes.txt": 0}


def test_a_broken_transfer_is_told_and_begun_again(hub: Hub) -> None:
    hub.add(NAME, DIGITS)
    hub.cut = {"decoder.weights": 1000}
    refused(f"cannot load hf://{NAME}@main: ")
    assert hub.cut["decoder.weights"] < 1000
    hub.cut = {}
    Bundle.open(f"hf://{NAME}").verify()


@pytest.mark.skipif(sys.platform == "win32", reason="interrupts are other there")
def test_an_interrupt_waits_for_no_file(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, DIGITS)
    hub.slow = dict.fromkeys(["decoder.weights", "drafter.weights"], 60.0)
    command = [sys.executable, "-m", "trt_var", "info", f"hf://{NAME}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any("/large/" in one for one in hub.asked):
            assert process.poll() is None
            time.sleep(0.05)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=50)
    assert time.monotonic() - begun < 30
    assert process.returncode == 130 and "Traceback" not in told


def test_a_file_of_another_size_in_the_cache_is_fetched_again(hub: Hub) -> None:
    commit = hub.add(NAME, DIGITS)
    (Bundle.open(f"hf://{NAME}").path / "classes.txt").resolve().write_bytes(b"cut")
    Bundle.open(f"hf://{NAME}@{commit}").verify()


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add(NAME, DIGITS)
    Bundle.open(f"hf://{NAME}")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert Bundle.open(f"hf://{NAME}").source == f"hf://{NAME}@{commit}"
    assert any("the hub does not answer" in one and "taken from the cache" in one for one in caplog.messages)
    refused("check the network", "hf://me/other")


def ran(hub: Hub, tmp_path: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a process that has its settings from the environment, as people do."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **settings}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_commands_take_addresses(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(NAME, DIGITS)
    info = [sys.executable, "-m", "trt_var", "info", f"hf://{NAME}"]
    assert "HF_HUB_OFFLINE=1" in (early := ran(hub, tmp_path, *info, HF_HUB_OFFLINE="1")).stderr
    assert early.returncode == 1 and early.stderr.count("\n") == 1
    made = ran(hub, tmp_path, *info)
    assert made.returncode == 0, made.stderr
    assert f"pin it: hf://{NAME}@{commit}" in made.stderr
    assert "30 files as built" in made.stdout
    hub.asked.clear()
    offline = ran(hub, tmp_path, *info, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, made.stdout), offline.stderr
    assert not hub.asked
    wrong = ran(hub, tmp_path, *info[:-1], "hf://me")
    assert wrong.returncode == 2 and "is no address on the hub" in wrong.stderr


def test_a_failure_waits_for_no_other_file(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, DIGITS)
    hub.slow, hub.refusals = {"decoder.weights": 60.0, "drafter.weights": 60.0}, {"/classes.txt": (403, "no", 0)}
    begun = time.monotonic()
    failed = ran(hub, tmp_path, sys.executable, "-m", "trt_var", "info", f"hf://{NAME}")
    assert failed.returncode == 1 and "403 Forbidden" in failed.stderr
    assert time.monotonic() - begun < 40


def test_engines_lie_in_no_cache(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", f"hf://{NAME}@v1/int8", "--kind", "rtx", "--target", "sm89"]) == 2
    load = f"hf download {NAME} --revision v1 --local-dir engines/mine, then trt-var engines engines/mine/int8\n"
    assert capsys.readouterr().err.endswith(load)
    assert not hub.asked


def test_a_failure_leaves_no_other_file_half(hub: Hub, tmp_path: Path) -> None:
    tree = added(hub)
    hub.slow = {name: 1.0 for name in tree if name.endswith(".weights")}
    hub.refusals = {name: (403, "no", 0) for name in tree if name.endswith(".onnx")}
    refused("403 Forbidden")
    assert any("/large/" in one for one in hub.asked)
    left = [path for path in (tmp_path / "cache").rglob("blobs/*") if path.stat().st_size > 1_000_000]
    assert not left


def test_without_the_client(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from trt_var import Pipeline, TrtVarError\n"
        "Pipeline.load('digits', 'onnxruntime').close()\n"
        "try: Pipeline.load('hf://me/digits')\n"
        "except TrtVarError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.rstrip().endswith('which is not installed: pip install "trt-var[hub]"')


def test_nothing_of_it_is_imported_without_an_address() -> None:
    code = "import sys; from trt_var import Pipeline; Pipeline.load('digits', 'onnxruntime').close(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"huggingface_hub", "httpx", "httpx2", "requests", "trt_var.bundle.hub.client"} & set(ran.stdout.split())
