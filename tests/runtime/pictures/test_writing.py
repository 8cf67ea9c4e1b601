"""Picture files of drawn images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_var.errors import OutputError
from trt_var.pictures import writing as images

# images, labels and seeds of three
DRAWN = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3), np.arange(3).astype(np.uint64)


def test_sizes_of_formats(tmp_path: Path) -> None:
    images.check_size(tmp_path / "a.jpg", (65500, 1))
    for name, side in (("a.jpg", 65501), ("a.webp", 16384), ("a.gif", 65536)):
        with pytest.raises(OutputError, match="a side"):
            images.check_size(tmp_path / name, (1, side))
    sheet = images.grid(np.zeros((7, 4, 4, 3), np.uint8))
    assert sheet.shape[1::-1] == images.grid_size(7, 4)
    assert images.grid(np.zeros((7, 4, 4, 3), np.uint8), 2).shape[1::-1] == images.grid_size(7, 4, 2)
    with pytest.raises(OutputError, match="WebP limit"):
        images.save_picture(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(OutputError, match="cannot write"):
        images.save_steps(tmp_path / "a.gif", [np.zeros((1, 1, 65536, 3), np.uint8)] * 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    folder, save = tmp_path / "each", images.save_picture
    if there:
        folder.mkdir()
        (folder / "old.txt").touch()

    def second_fails(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
        if path.name.startswith("00001"):
            raise KeyboardInterrupt
        save(path, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(images, "save_picture", second_fails)
        with pytest.raises(KeyboardInterrupt):
            images.save_folder(folder, *DRAWN)
    assert [path.name for path in folder.iterdir()] == ["old.txt"] if there else not folder.exists()
    images.save_folder(folder, *DRAWN)
    assert len(list(folder.glob("*.png"))) == 3
    assert not list(tmp_path.glob("**/.*"))
