"""Bundles onto a hub on this machine, through the hub's own client, and back.

Commits, branches and large files (git-lfs, basic transfer) are spoken as the client speaks them. The hub's newer storage,
Xet, is not: the client has it switched off here, as HF_HUB_DISABLE_XET=1 does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hubs import Hub, Repository
from trt_var import BundleError, BundleExistsError, UsageError
from trt_var.bundle.manifest import identity
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.bundle.sharing.card import card
from trt_var.bundle.sharing.pushing import push
from trt_var.cli.main import main

DIGITS = PACKAGED / "digits"
NAME = "me/digits"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The digits, to be altered."""
    return Path(shutil.copytree(DIGITS, tmp_path / "copy"))


def writes(hub: Hub) -> list[str]:
    return [one for one in hub.asked if one.startswith(("POST", "PUT")) and "paths-info" not in one]


def test_there_and_back(hub: Hub) -> None:
    bundle = Bundle.open("digits")
    address = push(bundle, NAME, private=True)
    repository = hub.repositories[NAME]
    assert repository.private
    assert address.pinned and repository.branches["main"] == address.revision
    tree = repository.commits[address.revision]
    assert sorted(tree) == sorted([*bundle.manifest.files, "manifest.json", "README.md", ".gitattributes"])
    assert tree["README.md"].decode() == card(bundle, f"hf://{NAME}")
    back = Bundle.open(str(address))
    back.verify()
    assert identity(back.manifest) == identity(bundle.manifest)


def test_a_bundle_is_replaced_with_what_it_named(hub: Hub, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["extra.bin"] = {"size": 1, "sha256": "0" * 64}
    repository = hub.repositories.setdefault(NAME, Repository())
    old = dict.fromkeys(manifest["files"], b"x")
    repository.commit({**old, "manifest.json": json.dumps(manifest).encode(), "README.md": b"# Mine", "notes.txt": b"kept"})
    address = push(Bundle.open(copy), f"hf://{NAME}", message="Better")
    tree = repository.commits[address.revision]
    assert "extra.bin" not in tree
    assert (tree["README.md"], tree["notes.txt"]) == (b"# Mine", b"kept")
    Bundle.open(str(address)).verify()
    hub.asked.clear()
    again = push(Bundle.open(copy), NAME)
    assert again == address, "nothing has changed"
    assert not [one for one in writes(hub) if "/commit/" in one or one.startswith("PUT")]


def test_what_shall_be_private_does_not_become_public(hub: Hub) -> None:
    push(Bundle.open("digits"), NAME)
    hub.asked.clear()
    for revision in ("main", "new"):
        with pytest.raises(UsageError, match=f"{NAME} is there, and public; leave --private out"):
            push(Bundle.open("digits"), NAME, private=True, revision=revision)
    assert not writes(hub)
    hub.repositories[NAME].private = True
    push(Bundle.open("digits"), NAME, private=True)


def test_another_branch(hub: Hub) -> None:
    first = push(Bundle.open("digits"), NAME)
    second = push(Bundle.open("digits"), NAME, revision="int8")
    assert hub.repositories[NAME].branches == {"main": first.revision, "int8": second.revision}
    assert Bundle.open(f"hf://{NAME}@int8").source == str(second)
    third = push(Bundle.open("digits"), "me/new", revision="small")
    assert hub.repositories["me/new"].branches["small"] == third.revision


def test_an_own_card_goes_along(hub: Hub, copy: Path) -> None:
    (copy / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    address = push(Bundle.open(copy), NAME)
    assert hub.repositories[NAME].commits[address.revision]["README.md"].endswith(b"# Mine\n")


def test_a_card_tells_of_the_bundle_beside_it(hub: Hub, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    def there() -> str:
        repository = hub.repositories[NAME]
        return repository.commits[repository.branches["main"]]["README.md"].decode()

    push(Bundle.open(copy), NAME)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "generator": "other 9"}))
    push(Bundle.open(copy), NAME)
    assert there() == card(Bundle.open(copy), f"hf://{NAME}")
    assert "other 9" in there()
    (copy / "README.md").write_text("# Mine")
    push(Bundle.open(copy), NAME)
    assert there() == "# Mine"
    assert not caplog.messages
    (copy / "README.md").unlink()
    push(Bundle.open("digits"), NAME)
    assert there() == "# Mine"
    assert [one for one in caplog.messages if "is somebody's own, and may tell of another bundle; it stays" in one]


def test_what_any_repository_has_stays(hub: Hub) -> None:
    manifest = json.loads((DIGITS / "manifest.json").read_text())
    manifest["files"] |= dict.fromkeys(["README.md", ".gitattributes", "x.bin"], manifest["files"]["classes.txt"])
    repository = hub.repositories.setdefault(NAME, Repository())
    repository.commit({**dict.fromkeys(manifest["files"], b"x"), "manifest.json": json.dumps(manifest).encode()})
    address = push(Bundle.open("digits"), NAME)
    tree = repository.commits[address.revision]
    assert (tree["README.md"], tree[".gitattributes"]) == (b"x", b"x")
    assert "x.bin" not in tree


@pytest.mark.parametrize(
    ("end", "status", "text", "said"),
    [
        (
            "/create",
            401,
            "Invalid username or password.",
            r"does not know who asks .*; log in with hf auth login or set HF_TOKEN$",
        ),
        ("/create", 403, "You have no rights", "may not do this: check the owner's name and the rights of the token$"),
        ("/commit/main", 403, "storage limit", f"; {NAME} was made for it, and is empty: push again, or delete it$"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, end: str, status: int, text: str, said: str) -> None:
    hub.refusals = {end: (status, text, 0)}
    with pytest.raises(BundleError, match=f"cannot push to hf://{NAME}@main: .*{said}") as caught:
        push(Bundle.open("digits"), NAME)
    assert "\n" not in str(caught.value)


def test_only_a_card_of_the_folder_itself_goes_along(hub: Hub, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    (copy / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"README.md is no file of this folder, and would be uploaded; put a copy there"):
        push(Bundle.open(copy), NAME)
    (copy / "README.md").unlink()
    (copy / "README.md").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(BundleError, match="larger than 1048576 bytes: not a model card"):
        push(Bundle.open(copy), NAME)
    assert not hub.asked
    (copy / "README.md").unlink()
    (copy / "card.md").write_bytes(b"# Mine")
    (copy / "README.md").symlink_to("card.md")
    address = push(Bundle.open(copy), NAME)
    assert hub.repositories[NAME].commits[address.revision]["README.md"] == b"# Mine"


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"config.json": b"{}", "model.safetensors": b""}, r"holds something else \(config.json, model.safetensors\)"),
        ({"manifest.json": b'{"name": "a web page"}'}, "is none that this version reads, and is not replaced"),
        ({"manifest.json": b"<html>"}, "is none that this version reads"),
    ],
)
def test_something_else_is_not_overwritten(hub: Hub, there: dict[str, bytes], said: str) -> None:
    hub.repositories[NAME] = Repository()
    commit = hub.repositories[NAME].commit(there)
    with pytest.raises(BundleExistsError, match=said):
        push(Bundle.open("digits"), NAME)
    assert hub.repositories[NAME].branches == {"main": commit}
    assert not writes(hub)


def test_a_damaged_bundle_is_not_pushed(hub: Hub, copy: Path) -> None:
    (copy / "classes.txt").write_bytes((copy / "classes.txt").read_bytes().upper())
    with pytest.raises(BundleError, match="classes.txt was altered"):
        push(Bundle.open(copy), NAME)
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("digits", {}, "is no address on the hub"),
        ("me/digits/int8", {}, "is no repository; expected owner/name"),
        (NAME, {"revision": "x y\n"}, "is no address"),
        ("me/digits@v1", {}, "is no repository"),
        ("../digits", {}, "is no address"),
        (NAME, {"revision": "0" * 40}, "a commit cannot be written to"),
        (NAME, {"revision": ""}, "is no"),
        (NAME, {"message": "a\nb"}, "takes one line"),
    ],
)
def test_what_cannot_be_meant(hub: Hub, name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        push(Bundle.open("digits"), name, **options)  # type: ignore[arg-type]
    assert not hub.asked


def test_a_branch_that_moved_meanwhile(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(Bundle.open("digits"), NAME)
    from huggingface_hub import HfApi

    preupload = HfApi.preupload_lfs_files

    def moved(*given: object, **options: object) -> None:
        preupload(*given, **options)  # type: ignore[arg-type]
        hub.repositories[NAME].commit(dict(tree))

    tree = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]
    del tree["classes.txt"]
    monkeypatch.setattr(HfApi, "preupload_lfs_files", moved)
    with pytest.raises(BundleError, match=f"cannot push to hf://{NAME}@main: "):
        push(Bundle.open("digits"), NAME)


def test_the_command(hub: Hub, capsys: pytest.CaptureFixture[str], copy: Path, tmp_path: Path) -> None:
    assert main(["push", str(copy), NAME, "--private", "--message", "First"]) == 0
    place = f"hf://{NAME}@{hub.repositories[NAME].branches['main']}\n"
    assert capsys.readouterr().out == place
    drawn = tmp_path / "grid.png"
    assert main(["run", "--engines", place.strip(), "--labels", "seven", "--out", str(drawn)]) == 0
    assert main(["info", str(drawn)]) == 0
    assert f'source          "{place.strip()}"' in capsys.readouterr().out
    assert main(["card", place.strip()]) == 0
    assert f"--engines {place.strip()} --labels" in capsys.readouterr().out
    assert main(["push", str(copy), "digits"]) == 2
    assert main(["push", str(tmp_path), NAME]) == 1
    (copy / "decoder.onnx").unlink()
    assert main(["push", str(copy), NAME]) == 1
    hub.repositories[NAME].state = "GatedRepo"
    assert main(["push", "digits", NAME]) == 1
    assert capsys.readouterr().err.count("\n") == 4
