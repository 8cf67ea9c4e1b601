"""Parts of a series: drawn apart, joined to the bytes of an unbroken run, refused where they do not belong together."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trt_var import DataError, OutputError, Pipeline, UsageError
from trt_var.bulk import Bulk, merge, sample, sample_pictures
from trt_var.cli.main import main

NUM, SHARD, PARTS = 50, 8, 3
COMMAND = ["sample", "--engines", "digits", "--backend", "onnxruntime", "--num", str(NUM), "--shard", str(SHARD)]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    """The unbroken series in whole/, its parts in 1/, 2/, 3/."""
    folder = tmp_path_factory.mktemp("drawn")
    sample(pipeline, Bulk(NUM, shard=SHARD), folder / "whole")
    for i in range(1, PARTS + 1):
        sample(pipeline, Bulk(NUM, shard=SHARD, part=(i, PARTS)), folder / str(i))
    return folder


@pytest.fixture
def parts(drawn: Path, tmp_path: Path) -> list[Path]:
    """Copies, to break."""
    return [shutil.copytree(drawn / str(i), tmp_path / str(i)) for i in range(1, PARTS + 1)]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def changed(folder: Path, change: Callable[[dict], object]) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    change(recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def test_parts_are_the_series(drawn: Path) -> None:
    names = [sorted(path.name for path in (drawn / str(i)).glob("shard-*")) for i in range(1, PARTS + 1)]
    assert names[0] == ["shard-00000.npz", "shard-00003.npz", "shard-00006.npz"]
    assert sorted(name for part in names for name in part) == sorted(path.name for path in (drawn / "whole").glob("shard-*"))


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_merged_is_an_unbroken_run(drawn: Path, tmp_path: Path, pipeline: Pipeline, there: bool) -> None:
    out, told = tmp_path / "out", []
    if there:
        out.mkdir()
    shards = merge([drawn / name for name in ("2", "3", "1")], out, told.append)
    assert contents(out) == contents(drawn / "whole")
    assert sum(told) == NUM and [path.name for path in shards] == sorted(path.name for path in out.glob("shard-*"))
    assert sample(pipeline, Bulk(NUM, shard=SHARD), out) == shards, "the command of the whole series goes on there"


def test_the_commands(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(tmp_path / str(i)) for i in (1, 2)]
    for i, folder in enumerate(folders, 1):
        assert main([*COMMAND, "--part", f"{i}/2", "--out", folder]) == 0
    assert "26 images in 4 shards, part 1/2 of 50, ONNX Runtime" in capsys.readouterr().out
    assert main(["merge", *folders, "--out", str(tmp_path / "out")]) == 0
    assert "7 shards of 2 parts" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(drawn / "whole")
    assert main([*COMMAND, "--out", str(tmp_path / "out"), "--adm-npz", str(tmp_path / "adm.npz")]) == 0
    assert np.load(tmp_path / "adm.npz")["arr_0"].shape == (NUM, 32, 32, 3)


def test_a_part_goes_on(drawn: Path, parts: list[Path], pipeline: Pipeline) -> None:
    (parts[1] / "shard-00004.npz").unlink()
    sample(pipeline, Bulk(NUM, shard=SHARD, part=(2, PARTS)), parts[1])
    assert contents(parts[1]) == contents(drawn / "2")


def test_one_part_a_folder(parts: list[Path], drawn: Path, pipeline: Pipeline) -> None:
    for folder, part in ((parts[0], (2, PARTS)), (parts[0], None), (drawn / "whole", (1, PARTS)), (parts[0], (1, 2))):
        with pytest.raises(UsageError, match="holds other images: part"):
            sample(pipeline, Bulk(NUM, shard=SHARD, part=part), folder)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda parts: parts.pop(), UsageError, "missing: part 3/3; give all 3 parts"),
        (lambda parts: parts.clear(), UsageError, "no parts"),
        (lambda parts: parts.append(parts[0]), UsageError, "both part 1/3; give each part once"),
        (lambda parts: changed(parts[1], lambda r: r.update(seed=7)), UsageError, "another series: seed 7 there, 0 in"),
        (lambda parts: changed(parts[1], lambda r: r.update(backend="abacus")), UsageError, "backend abacus there"),
        (lambda parts: changed(parts[1], lambda r: r.update(probe="0" * 64)), UsageError, "round differently"),
        (lambda parts: changed(parts[1], lambda r: r["part"].update(of=4)), UsageError, "not of one division"),
        (lambda parts: changed(parts[1], lambda r: r["part"].update(of=9)), UsageError, "only 7 shards"),
        (lambda parts: changed(parts[1], lambda r: r["part"].update(classes=0)), UsageError, "not a valid recipe"),
        (lambda parts: changed(parts[1], lambda r: r.update(part=None)), UsageError, "a whole series"),
        (lambda parts: (parts[1] / "recipe.json").write_text("{"), UsageError, "not a valid recipe"),
        (lambda parts: (parts[1] / "recipe.json").unlink(), UsageError, "cannot read .*recipe.json"),
        (lambda parts: (parts[1] / "shard-00004.npz").unlink(), DataError, "has no shard-00004.npz; draw the part"),
        (
            lambda parts: shutil.copy(parts[0] / "shard-00003.npz", parts[1]),
            UsageError,
            "holds shard-00003.npz, which is not of this part",
        ),
        (
            lambda parts: shutil.copy(parts[1] / "shard-00001.npz", parts[1] / "shard-00004.npz"),
            DataError,
            "shard-00004.npz is damaged",
        ),
    ],
)
def test_refused_parts(
    parts: list[Path], tmp_path: Path, damage: Callable[[list[Path]], object], error: type[Exception], message: str
) -> None:
    damage(parts)
    with pytest.raises(error, match=message):
        merge(parts, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_every_byte_is_read(parts: list[Path], tmp_path: Path) -> None:
    path = parts[2] / "shard-00005.npz"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="shard-00005.npz is damaged"):
        merge(parts, tmp_path / "out")


def test_a_part_that_is_being_drawn(parts: list[Path], tmp_path: Path) -> None:
    with (parts[1] / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process is writing"):
            merge(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_lies_there_stays(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds thesis.txt; choose an empty or a new folder"):
        merge(parts, tmp_path / "out")
    with pytest.raises(UsageError, match="choose an empty or a new folder"):
        merge(parts, parts[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "0/3"], "part is 0/3; expected i/n with i = 1 to n"),
        (["--part", "4/3"], "part is 4/3"),
        (["--part", "1/9"], "only 7 shards of 8 images; ask for fewer parts"),
        (["--part", "1/2", "--adm-npz", "x.npz"], "merge the parts"),
    ],
)
def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main([*COMMAND, "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unreadable_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("2", "1/", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(SystemExit):
            main([*COMMAND, "--out", str(tmp_path / "out"), f"--part={text}"])
        assert "expected i/n, such as 1/4 to 4/4" in capsys.readouterr().err


def test_pictures_have_no_parts(tmp_path: Path, pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="part is of shards"):
        sample_pictures(pipeline, Bulk(8, shard=2, part=(1, 2)), tmp_path)


def test_another_machine_goes_on_with_a_warning(
    parts: list[Path], pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """Only where something is left to draw, and never of a folder that an earlier version began."""
    wanted = Bulk(NUM, shard=SHARD, part=(1, PARTS))
    changed(parts[0], lambda recipe: recipe.update(probe="0" * 64))
    sample(pipeline, wanted, parts[0])
    assert not caplog.text
    (parts[0] / "shard-00003.npz").unlink()
    sample(pipeline, wanted, parts[0])
    assert "was begun where arithmetic rounds otherwise" in caplog.text
    caplog.clear()
    changed(parts[0], lambda recipe: recipe.pop("probe"))
    (parts[0] / "shard-00003.npz").unlink()
    sample(pipeline, wanted, parts[0])
    assert not caplog.text
