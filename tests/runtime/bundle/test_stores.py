"""Bundles whose files are links into a store of contents. Kind: where a bundle or output lives."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers import assert_close
from trt_var import BundleError, Pipeline
from trt_var.bundle import external
from trt_var.bundle.opening import PACKAGED, Bundle

DIGITS = PACKAGED / "digits"


def _hugging_face(bundle: Path, base: Path) -> Path:
    """A snapshot whose files, the manifest too, lead to ``../../blobs`` under their hashes."""
    blobs, snapshot = base / "models--a--b" / "blobs", base / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in bundle.iterdir():
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blobs / name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / name)
    return snapshot


def _dvc(bundle: Path, base: Path) -> Path:
    """Large files alone are links, each into a folder of its own, and protected."""
    out, cache = base / "bundle", base / ".dvc" / "cache" / "files" / "md5"
    out.mkdir()
    for path in bundle.iterdir():
        if path.suffix not in (".weights", ".npy"):
            shutil.copyfile(path, out / path.name)
            continue
        name = hashlib.md5(path.read_bytes()).hexdigest()
        (cache / name[:2]).mkdir(parents=True, exist_ok=True)
        stored = cache / name[:2] / name[2:]
        shutil.copyfile(path, stored)
        stored.chmod(0o444)
        (out / path.name).symlink_to(stored)
    return out


def _kubernetes(bundle: Path, base: Path) -> Path:
    """A projected volume: files lead through ``..data``, which leads to a folder with a date for a name."""
    out = base / "volume"
    out.mkdir()
    shutil.copytree(bundle, out / "..2026_01_01")
    (out / "..data").symlink_to("..2026_01_01")
    for path in bundle.iterdir():
        (out / path.name).symlink_to(Path("..data") / path.name)
    return out


def _renamed(bundle: Path, base: Path) -> Path:
    """A link to the folder itself."""
    shutil.copytree(bundle, base / "v1")
    (base / "current").symlink_to("v1")
    return base / "current"


STORES = [_hugging_face, _dvc, _kubernetes, _renamed]
Store = Callable[[Path, Path], Path]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def drawn(request: pytest.FixtureRequest) -> tuple[str, np.ndarray]:  # type: ignore[type-arg]
    """A backend, and what it draws from the plain bundle."""
    with Pipeline.load(DIGITS, request.param) as pipeline:
        return request.param, pipeline.generate([3, 5], n_draft=4).images


@pytest.mark.parametrize("store", STORES)
def test_a_bundle_in_a_store_draws_the_same(store: Store, tmp_path: Path, drawn: tuple[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    backend, expected = drawn
    bundle = Bundle.open(store(DIGITS, tmp_path))
    bundle.verify()
    with Pipeline.load(bundle.path, backend) as pipeline:
        assert_close(pipeline.generate([3, 5], n_draft=4).images, expected)


@pytest.mark.parametrize("name", ["drafter.weights", "decoder.onnx"])
def test_another_content_is_refused(tmp_path: Path, name: str) -> None:
    snapshot = _hugging_face(DIGITS, tmp_path)
    stored = (snapshot / name).resolve()
    data = stored.read_bytes()
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name} was altered"):
        Bundle.open(snapshot).verify()
    (snapshot / name).unlink()
    (snapshot / name).symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match=f"{name} has .* bytes, expected"):
        Bundle.open(snapshot)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to("nowhere")
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(snapshot)


def test_a_link_to_a_bundle_is_followed_once(tmp_path: Path) -> None:
    """What is loaded late is of the bundle that was opened, though the link leads to another one meanwhile."""
    current = _renamed(DIGITS, tmp_path)
    with Pipeline.load(current, "onnxruntime") as pipeline:
        current.unlink()
        current.symlink_to("v2")
        assert len(pipeline.generate([3], n_draft=4).images) == 1


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DIGITS, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    with Pipeline.load("bundle", "onnxruntime") as pipeline:
        monkeypatch.chdir("/")
        assert len(pipeline.generate([3], n_draft=4).images) == 1


def test_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DIGITS, tmp_path / "bundle")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/bundle", Path("~/bundle")):
        assert Bundle.open(given).path == (tmp_path / "bundle").resolve()


@pytest.mark.parametrize("name", ["a b", "a\nb", "ü" * 100])
def test_odd_names(tmp_path: Path, name: str) -> None:
    shutil.copytree(DIGITS, tmp_path / name)
    for backend in ("onnxruntime", "openvino"):
        with Pipeline.load(tmp_path / name, backend) as pipeline:
            assert len(pipeline.generate([3], n_draft=6).images) == 1


@pytest.mark.parametrize("location", ["x", "y" * 300])
def test_relocated_graphs_differ_in_nothing_else(location: str) -> None:
    data = (DIGITS / "drafter.onnx").read_bytes()
    model = onnx.load_from_string(external.relocated(data, location))
    assert external.locations(model.SerializeToString()) == {location}
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "drafter.weights"
    assert model == onnx.load_from_string(data)


def test_plain_bundles_are_read_by_path() -> None:
    assert external.through_link(DIGITS / "drafter.onnx") is None
