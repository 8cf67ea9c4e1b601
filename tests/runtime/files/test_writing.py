"""Files and folders that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_var.files import writing as files


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_interrupted_replacing_keeps_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    out, rename = tmp_path / "bundle", Path.rename
    out.mkdir()
    (out / "old").touch()

    def interrupted(path: Path, target: Path) -> Path:
        first = path == out
        if (moment == "before" and first) or (moment == "between" and path.name.startswith(".bundle.building")):
            raise KeyboardInterrupt
        rename(path, target)
        if moment == "after" and target == out:
            raise KeyboardInterrupt
        return target

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.appearing(out) as folder:
        (folder / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new" if moment == "after" else "old"]
    assert list(tmp_path.iterdir()) == [out]


def test_long_names(tmp_path: Path) -> None:
    with files.replacing(tmp_path / ("x" * 255)) as file:
        file.write(b"1")
    with files.appearing(tmp_path / ("ä" * 127)) as folder:
        (folder / "a").touch()
    assert len(list(tmp_path.iterdir())) == 2
