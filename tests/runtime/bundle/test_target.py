"""Where a new bundle may go. Kind: where a bundle or output lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_var.bundle.manifest import FILE_NAME
from trt_var.bundle.target import check_bundle_target
from trt_var.errors import BundleExistsError, OutputError


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["nothing", "deep", "empty", "volume", "killed", "link", "dangling"])
def test_places_that_hold_nothing(tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "out"
    if kind in ("empty", "volume", "killed"):
        out.mkdir()
    if kind == "volume":
        (out / "lost+found").mkdir()
    if kind == "killed":
        (out / ".out.unfinished-0123abcd").mkdir()
    if kind in ("link", "dangling"):
        out.symlink_to("real")
    if kind == "link":
        (tmp_path / "real").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_bundle_target(out / "a" / "b" if kind == "deep" else out, force)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "force", "message"),
    [
        ((FILE_NAME,), False, "exists; choose another --out, or --force"),
        (("photo.jpg",), False, "exists; choose another --out"),
        (("photo.jpg",), True, "holds photo.jpg and is no bundle; --force replaces bundles only"),
        ((FILE_NAME,), True, ""),
        ((FILE_NAME, "photo.jpg"), True, ""),
    ],
)
def test_places_that_hold_something(tmp_path: Path, names: tuple[str, ...], force: bool, message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    if not message:
        check_bundle_target(tmp_path, force)
        return
    with pytest.raises(BundleExistsError, match=message):
        check_bundle_target(tmp_path, force)


def test_files_and_circles(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleExistsError, match="exists and is no bundle"):
        check_bundle_target(tmp_path / "file", force=True)
    with pytest.raises(OutputError, match="cannot write"):
        check_bundle_target(tmp_path / "loop", force=True)
    with pytest.raises(OutputError, match="too long"):
        check_bundle_target(tmp_path / ("x" * 300), force=False)
