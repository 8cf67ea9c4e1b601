"""Large files are hashed once, and again as soon as anything about them changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from helpers import edit, record
from trt_var import BundleError
from trt_var.bundle import opening, verified
from trt_var.bundle.opening import Bundle
from trt_var.files import arrays

WEIGHTS = "drafter.weights"


@pytest.fixture(autouse=True)
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "LARGE", 1)
    monkeypatch.setattr(verified, "SETTLED", 0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []
    sha256 = opening.file_sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr(opening, "file_sha256", counted)
    return names


def test_second_start_hashes_nothing(copy: Path, hashed: list[str]) -> None:
    Bundle.open(copy).verify()
    assert sorted(hashed) == sorted(Bundle.open(copy).manifest.files)
    hashed.clear()
    Bundle.open(copy).verify()
    assert not hashed
    Bundle.open(copy, verify=True).verify()
    assert WEIGHTS in hashed


def test_altered_with_its_times_put_back(copy: Path) -> None:
    path = copy / WEIGHTS
    before = path.stat()
    Bundle.open(copy).file(WEIGHTS)
    with path.open("r+b") as file:
        file.write(b"\1\2\3\4")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="was altered"):
        Bundle.open(copy).file(WEIGHTS)


def test_replaced_by_another_file(copy: Path) -> None:
    Bundle.open(copy).file(WEIGHTS)
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / "new").write_bytes(data)
    (copy / "new").replace(copy / WEIGHTS)
    with pytest.raises(BundleError, match="was altered"):
        Bundle.open(copy).file(WEIGHTS)


def test_other_hash_in_the_manifest(copy: Path) -> None:
    Bundle.open(copy).file(WEIGHTS)
    edit(copy, lambda manifest: manifest["files"][WEIGHTS].update(sha256="0" * 64))
    with pytest.raises(BundleError, match="was altered"):
        Bundle.open(copy).file(WEIGHTS)


def test_written_to_a_moment_ago(copy: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        Bundle.open(copy).file(WEIGHTS)
    assert hashed == [WEIGHTS, WEIGHTS]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256 drafter.weights": [1]}', b"\xff" * 40, b"[" * 99999])
def test_damaged_record(copy: Path, hashed: list[str], content: bytes) -> None:
    Bundle.open(copy).file(WEIGHTS)
    kept = Bundle.open(copy)._verified._file
    assert kept.is_file()
    kept.write_bytes(content)
    Bundle.open(copy).file(WEIGHTS)
    assert hashed == [WEIGHTS, WEIGHTS]


def test_cache_that_cannot_be_written(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Bundle.open(copy).verify()


def test_finite_is_looked_at_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Bundle.open(copy).conditions("drafter")
    monkeypatch.setattr(arrays, "all_finite", lambda *given: pytest.fail("read again"))
    Bundle.open(copy).conditions("drafter")


def test_what_is_not_finite_is_never_remembered(copy: Path) -> None:
    table = np.load(copy / "drafter.conditions.npy")
    table[0, 0, 0] = np.nan
    np.save(copy / "drafter.conditions.npy", table)
    edit(copy, lambda manifest: record(copy, manifest, "drafter.conditions.npy"))
    for _ in range(2):
        with pytest.raises(BundleError, match="not finite"):
            Bundle.open(copy).conditions("drafter")
