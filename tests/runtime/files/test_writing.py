"""Files and folders that are there whole or not at all. Kind: where a bundle or output lives."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_var.errors import OutputError
from trt_var.files import writing as files

Refusal = Callable[[Path, Path], bool]


def _refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int, which: Refusal = lambda path, target: True) -> None:
    """Have a method of Path refuse some renames."""
    real = getattr(Path, name)

    def refusing(path: Path, target: Path) -> Path:
        if which(path, Path(target)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, target)

    monkeypatch.setattr(Path, name, refusing)


@pytest.fixture
def umask() -> object:
    """A umask that is not the usual one."""
    set_umask = os.umask  # a test may take it away
    before = set_umask(0o027)
    yield
    set_umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("moment", range(5))
def test_interrupted_exchange_keeps_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    out, rename, calls = tmp_path / "bundle", Path.rename, []
    out.mkdir()
    for name in ("manifest.json", "old"):
        (out / name).write_text("old")

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == moment + 1:
            raise KeyboardInterrupt
        rename(path, target)
        if moment == 4 and len(calls) == 4:
            raise KeyboardInterrupt  # all are there
        return target

    with pytest.raises(KeyboardInterrupt), files.appearing(out, last="manifest.json") as folder:
        for name in ("manifest.json", "new"):
            (folder / name).write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    what = "new" if moment == 4 else "old"
    assert {path.name: path.read_text() for path in out.iterdir()} == {"manifest.json": what, what: what}
    assert list(tmp_path.iterdir()) == [out]


def test_a_bundle_is_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, seen = Path.rename, []
    for name in ("manifest.json", "weights"):
        (tmp_path / name).write_text("old")

    def watched(path: Path, target: Path) -> Path:
        rename(path, target)
        manifest, weights = tmp_path / "manifest.json", tmp_path / "weights"
        seen.append(not manifest.exists() or manifest.read_text() == weights.read_text())
        return target

    with files.appearing(tmp_path, last="manifest.json") as folder:
        for name in ("manifest.json", "weights"):
            (folder / name).write_text("new")
        monkeypatch.setattr(Path, "rename", watched)
    assert seen == [True] * 4


def test_an_existing_folder_stays_the_same_one(tmp_path: Path) -> None:
    """A mount point cannot be renamed, nor can its parent always be written."""
    out = tmp_path / "volume"
    out.mkdir()
    (out / "lost+found").mkdir()
    before = out.stat().st_ino
    for content in ("first", "second"):
        with files.appearing(out) as folder:
            assert folder.parent == out
            (folder / content).touch()
        assert sorted(path.name for path in out.iterdir()) == sorted([content, "lost+found"])
        assert out.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [out]


def test_finished_work_is_kept_where_it_cannot_be_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    (out / "mounted").mkdir(parents=True)
    _refuse(monkeypatch, "rename", errno.EBUSY, lambda path, target: path.name == "mounted")
    with pytest.raises(OutputError, match=r"busy; what was made is whole in") as error, files.appearing(out) as folder:
        (folder / "new").write_text("hours of work")
    kept = Path(str(error.value).rpartition(" in ")[2])
    assert (kept / "new").read_text() == "hours of work"
    assert sorted(path.name for path in out.iterdir()) == sorted([kept.name, "mounted"])


def test_a_stranger_that_came_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(OutputError, match="what was made is whole in"), files.appearing(out) as folder:
        (folder / "new").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert [path.name for path in out.iterdir()] == ["theirs"]


def test_folders_of_a_container_image_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "plan").touch()
    _refuse(monkeypatch, "rename", errno.EXDEV, lambda path, target: path == tmp_path / "tensorrt")
    with files.appearing(tmp_path) as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_file_that_is_a_mount_point_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_text("old and longer")
    before = path.stat().st_ino
    _refuse(monkeypatch, "replace", errno.EBUSY)
    with files.replacing(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert path.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [path]


def test_finished_files_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse(monkeypatch, "replace", errno.EXDEV)
    with pytest.raises(OutputError, match="its whole content is in") as error, files.replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert Path(str(error.value).rpartition(" in ")[2]).read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_nothing(tmp_path: Path, number: int) -> None:
    for kind in (files.replacing, files.appearing):
        with pytest.raises(OutputError, match=f"cannot write .*: {os.strerror(number)}$"), kind(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("refused", [False, True])
def test_permissions_without_touching_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: object, refused: bool
) -> None:
    def forbidden(*arguments: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    private = tmp_path / "private"
    private.touch()
    private.chmod(0o600)
    monkeypatch.setattr(os, "umask", forbidden)  # other threads would make their files with another
    if refused:
        monkeypatch.setattr(os, "chmod", forbidden)
        monkeypatch.setattr(Path, "chmod", forbidden)
    for path in (tmp_path / "file", private):
        with files.replacing(path) as file:
            file.write(b"1")
    with files.appearing(tmp_path / "folder") as folder:
        (folder / "a").touch()
    assert (_mode(tmp_path / "file"), _mode(tmp_path / "folder"), _mode(private)) == (0o640, 0o750, 0o600)


def test_the_mode_of_a_replaced_file_stays(tmp_path: Path, umask: object) -> None:
    path = tmp_path / "shared"
    path.touch()
    path.chmod(0o666)
    with files.replacing(path) as file:
        file.write(b"1")
    assert _mode(path) == 0o666


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("there.png", "missing.png"):
        (tmp_path / name).symlink_to(tmp_path / "data" / name)
    (tmp_path / "data" / "there.png").write_text("old")
    for name in ("there.png", "missing.png"):
        with files.replacing(tmp_path / name) as file:
            file.write(b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "data" / name).read_text() == "new"
    with files.replacing(tmp_path / "there.png", follow=False) as file:
        file.write(b"own")
    assert not (tmp_path / "there.png").is_symlink()


@pytest.mark.parametrize("there", [False, True])
def test_links_to_folders_are_followed(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "v1", tmp_path / "current"
    link.symlink_to("v1")
    if there:
        real.mkdir()
        (real / "old").touch()
    with files.appearing(link) as folder:
        (folder / "new").touch()
    assert link.is_symlink()
    assert [path.name for path in real.iterdir()] == ["new"]


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "store").write_text("object")
    (tmp_path / "store").chmod(0o444)
    (tmp_path / "tracked").symlink_to("store")
    for kind in (files.replacing, files.appearing):
        with pytest.raises(OutputError, match="symbolic links"), kind(tmp_path / "loop"):
            pass
    with pytest.raises(OutputError, match="write-protected; remove the link"), files.replacing(tmp_path / "tracked"):
        pass
    assert (tmp_path / "store").read_text() == "object"


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "a b", "a\nb", "-a", os.fsdecode(b"\xff\xfe")])
def test_odd_names(tmp_path: Path, name: str) -> None:
    with files.replacing(tmp_path / name) as file:
        file.write(b"1")
    (tmp_path / name).unlink()
    with files.appearing(tmp_path / name) as folder:
        (folder / "a").touch()
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [os.fsencode(name)]


def test_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with files.replacing("~/a") as file:
        file.write(b"1")
    with files.appearing("~/b") as folder:
        (folder / "a").touch()
    with files.replacing("~no-such-user") as file:
        file.write(b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "~no-such-user"]


def test_threads_write_at_once(tmp_path: Path) -> None:
    def write(content: bytes) -> None:
        for _ in range(20):
            with files.replacing(tmp_path / "a") as file:
                file.write(content * 1000)

    threads = [threading.Thread(target=write, args=(bytes([i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert content == content[:1] * 1000
    assert len(list(tmp_path.iterdir())) == 1
