"""The order in which many images lie, and folders that an earlier version sorted. Kind: published evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_var import Pipeline, UsageError
from trt_var.bulk import Bulk, read_images, read_mixed, sample
from trt_var.cli.main import main
from trt_var.errors import OutputError

WANTED = Bulk(60, seed=5, batch_size=20, shard=8)
COMMAND = ["sample", "--engines", "digits", "--backend", "onnxruntime", "--num", "60", "--seed", "5", "--shard", "8"]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime")


@pytest.fixture
def sorted_folder(tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the first version wrote it."""
    out = tmp_path / "old"
    with monkeypatch.context() as patched:
        patched.setattr("trt_var.bulk.recipe.mixed", lambda num, classes: np.arange(num))
        sample(pipeline, WANTED, out)
    recipe = json.loads((out / "recipe.json").read_text())
    del recipe["order"], recipe["form"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    return out


def labels(folder: Path) -> list[int]:
    return np.concatenate([np.load(path)["labels"] for path in sorted(folder.glob("shard-*.npz"))]).tolist()


def joined(pieces: object) -> NDArray[np.uint8]:
    return np.concatenate(list(pieces))  # type: ignore[call-overload]


def test_a_half_finished_sorted_folder_stays_sorted(
    sorted_folder: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path.name: path.read_bytes() for path in sorted_folder.iterdir()}
    for name in ("shard-00001.npz", "shard-00005.npz"):
        (sorted_folder / name).unlink()
    sample(pipeline, WANTED, sorted_folder)
    assert "begun by an earlier version" in caplog.text
    assert "damaged" not in caplog.text
    assert {path.name: path.read_bytes() for path in sorted_folder.iterdir()} == before


def test_the_file_of_a_sorted_folder_is_that_of_a_new_one(sorted_folder: Path, tmp_path: Path) -> None:
    for out in (sorted_folder, tmp_path / "new"):
        assert main([*COMMAND, "--batch-size", "20", "--out", str(out), "--adm-npz", str(tmp_path / f"{out.name}.npz")]) == 0
    old, new = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in ("old", "new"))
    assert np.abs(old.astype(int) - new).max() <= 1, "pixels round by the batch"
    assert labels(sorted_folder) == sorted(labels(sorted_folder))
    assert labels(tmp_path / "new") != sorted(labels(tmp_path / "new"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "packed"])
def test_pieces_of_a_sorted_folder(sorted_folder: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]) -> None:
    """Gathered from many shards a piece, whatever the size of a piece."""
    shards = sorted(sorted_folder.glob("shard-*.npz"))
    expected = joined(read_images(shards))[Bulk(60).positions(10)]
    for path in shards:
        save(path, **dict(np.load(path)))
    for piece in (1, 7, 256):
        monkeypatch.setattr("trt_var.bulk.reading.PIECE", piece)
        assert np.array_equal(joined(read_mixed(shards, 10)), expected)


def test_a_new_folder_is_written_as_it_lies(tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    shards = sample(pipeline, WANTED, tmp_path)
    with caplog.at_level(logging.WARNING):
        sample(pipeline, WANTED, tmp_path)
    assert not caplog.text
    assert labels(tmp_path) == WANTED.labels(10).tolist()
    assert np.array_equal(joined(read_mixed(shards, 10)), joined(read_images(shards)))


def test_orders_of_later_versions_are_refused(sorted_folder: Path, pipeline: Pipeline) -> None:
    recipe = json.loads((sorted_folder / "recipe.json").read_text())
    (sorted_folder / "recipe.json").write_text(json.dumps(recipe | {"order": "spiral"}))
    with pytest.raises(UsageError, match="not a valid recipe"):
        sample(pipeline, WANTED, sorted_folder)


def test_pictures_in_a_folder(tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    """Resumable as shards are, and never both in one folder."""
    from trt_var.bulk import sample_pictures

    assert sample_pictures(pipeline, Bulk(12), tmp_path) == 12
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    some = sorted(tmp_path.glob("*.png"))
    some[3].write_bytes(some[3].read_bytes()[:-200])
    for left in (".unfinished-x", f".{tmp_path.name}.unfinished-0123abcd"):  # of killed runs
        (tmp_path / left).mkdir()
    assert sample_pictures(pipeline, Bulk(12), tmp_path) == 12
    assert "drawn again" in caplog.text
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == before
    assert not list(tmp_path.glob("*unfinished-*"))
    with pytest.raises(UsageError, match="holds other images"):
        sample(pipeline, Bulk(12), tmp_path)
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(OutputError, match="holds 13 pictures, 12 were drawn"):
        sample_pictures(pipeline, Bulk(12), tmp_path)
