"""Bulk sampling: balanced, the same for every batch size, resumable after any kill, refused where it would mix runs."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import assert_close, assert_tokens
from trt_var import OutputError, Pipeline, Sampling, UsageError
from trt_var.bulk.shards import Bulk, sample
from trt_var.cli.main import main
from trt_var.quality.samples import write_images

KILLS = 20
NUM = 600
# slow enough for twenty kills: a batch of 4 takes 20 ms at least
CHILD = f"""
import sys, time
from pathlib import Path
from trt_var import Pipeline
from trt_var.bulk import Bulk, sample
with Pipeline.load("digits", "onnxruntime") as pipeline:
    pipeline.generate(0)
    print("ready", flush=True)
    sample(pipeline, Bulk({NUM}, seed=3, batch_size=4, shard=8), Path(sys.argv[1]), lambda n: time.sleep(float(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_killed_twenty_times(tmp_path: Path, pipeline: Pipeline) -> None:
    sample(pipeline, Bulk(NUM, seed=3, batch_size=4, shard=8), tmp_path / "unbroken")
    moments = random.Random(0)
    cut = 0
    for kill in range(KILLS):
        before = len(list((tmp_path / "killed").glob("shard-*.npz")))
        command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), "0.02"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            while kill % 4 == 0 and len(list((tmp_path / "killed").glob("shard-*.npz"))) == before and child.poll() is None:
                time.sleep(0.01)  # now and then something is finished, however slow the machine is
            time.sleep(moments.uniform(0, 0.3))
            cut += child.poll() is None
            child.kill()
    assert cut == KILLS, f"only {cut} of {KILLS} kills came before the end"
    there = len(list((tmp_path / "killed").glob("shard-*.npz")))
    assert 0 < there < NUM // 8, f"{there} shards"
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "killed"), "0"], check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")


def test_balanced_and_independent_of_batches_and_shards(tmp_path: Path, pipeline: Pipeline) -> None:
    found = {}
    for batch, shard in ((1, 5), (7, 16), (50, 256)):
        shards = sample(pipeline, Bulk(53, 9, 4, batch_size=batch, shard=shard), tmp_path / str(batch))
        arrays = [dict(np.load(path)) for path in shards]
        found[batch] = {name: np.concatenate([piece[name] for piece in arrays]) for name in arrays[0]}
        assert np.bincount(found[batch]["labels"]).tolist() in ([5, 5, 5, 6] * 2 + [5, 6], [6, 5, 5, 6, 5, 5, 6, 5, 5, 5])
        assert sorted(found[batch]["seeds"]) == list(range(9, 62))
        assert (found[batch]["labels"] == (found[batch]["seeds"].astype(np.int64) - 9) * 10 // 53).all()
        assert_tokens(found[batch]["tokens"], found[1]["tokens"])
        assert_close(found[batch]["images"], found[1]["images"], absolute=1)
    expected = pipeline.generate(found[1]["labels"].tolist(), seeds=found[1]["seeds"].tolist(), n_draft=4)
    assert_tokens(found[1]["tokens"], expected.tokens)


def test_damaged_shards_are_drawn_again(tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    wanted = Bulk(40, shard=10)
    shards = sample(pipeline, wanted, tmp_path)
    expected = contents(tmp_path)
    shards[0].write_bytes(shards[0].read_bytes()[:-100])
    changed = bytearray(shards[1].read_bytes())
    changed[5000] ^= 1
    shards[1].write_bytes(changed)
    shards[2].unlink()
    (tmp_path / ".shard-00002.npz.half").write_bytes(b"x")
    sample(pipeline, wanted, tmp_path)
    assert contents(tmp_path) == expected
    assert caplog.text.count("is damaged") == 2


@pytest.mark.parametrize("change", ["shape", "dtype", "labels", "seeds", "missing", "too many"])
def test_shards_of_other_contents_are_drawn_again(
    tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    (shard,) = sample(pipeline, Bulk(6), tmp_path)
    expected, arrays = contents(tmp_path), dict(np.load(shard))
    if change == "shape":
        arrays["images"] = arrays["images"][:, :16]
    elif change == "dtype":
        arrays["tokens"] = arrays["tokens"].astype(np.int64)
    elif change == "missing":
        del arrays["tokens"]
    elif change == "too many":
        arrays["more"] = np.zeros(1)
    else:
        arrays[change] = arrays[change][::-1]
    np.savez(shard, **arrays)
    sample(pipeline, Bulk(6), tmp_path)
    assert contents(tmp_path) == expected
    assert "is damaged" in caplog.text


def test_the_default_n_is_that_n(tmp_path: Path, pipeline: Pipeline) -> None:
    sample(pipeline, Bulk(4, sampling=Sampling(cfg=np.float64(1.5), top_k=np.int64(9))), tmp_path)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "recipe.json").read_text())["n_draft"] == 4
    sample(pipeline, Bulk(4, n_draft=4, sampling=Sampling(cfg=1.5, top_k=9), batch_size=3), tmp_path)


def test_batch_size_where_rounding_depends_on_it(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline._backend, "description", "CPU, bfloat16 arithmetic")
    sample(pipeline, Bulk(4, batch_size=2), tmp_path)
    sample(pipeline, Bulk(4, batch_size=2), tmp_path)
    with pytest.raises(UsageError, match="batch_size 2 there, 3 asked for"):
        sample(pipeline, Bulk(4, batch_size=3), tmp_path)


@pytest.mark.parametrize("pieces", [[3], [3, 3], []])
def test_adm_files_of_another_count_are_refused(tmp_path: Path, pieces: list[int]) -> None:
    images = (np.zeros((count, 4, 4, 3), np.uint8) for count in pieces)
    with pytest.raises(OutputError, match="images came, expected 5"):
        write_images(tmp_path / "a.npz", 5, 4, images)
    with pytest.raises(OutputError, match="images of shape"):
        write_images(tmp_path / "a.npz", 5, 4, iter([np.zeros((5, 4, 2, 3), np.uint8)]))
    assert not list(tmp_path.iterdir())


def test_impossible_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/below", "x" * 300):
        assert main(["sample", "--engines", "digits", "--num", "4", "--out", str(tmp_path / out)]) == 1
        assert "goes on" not in capsys.readouterr().err


def test_other_images_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    sample(pipeline, Bulk(8), tmp_path / "a")
    for other in (
        Bulk(9),
        Bulk(8, seed=1),
        Bulk(8, n_draft=2),
        Bulk(8, sampling=Sampling(cfg=2, top_k=9)),
        Bulk(8, shard=4),
    ):
        with pytest.raises(UsageError, match="holds other images"):
            sample(pipeline, other, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.txt"):
        sample(pipeline, Bulk(8), tmp_path / "b")
    for data in (b"{", b'{"\xff": 1}', b'{"a":' + b"[" * 99999):
        (tmp_path / "a" / "recipe.json").write_bytes(data)
        with pytest.raises(UsageError, match="not a valid recipe"):
            sample(pipeline, Bulk(8), tmp_path / "a")
    for wrong in ({"num": 2.0}, {"num": 4, "seed": 0.5}, {"num": 4, "shard": None}):
        with pytest.raises(UsageError, match="expected a whole number"):
            Bulk(**wrong)


def test_one_process_at_a_time(tmp_path: Path, pipeline: Pipeline) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), "0.1"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        while not (tmp_path / "recipe.json").exists():
            time.sleep(0.01)
        with pytest.raises(OutputError, match="another process"):
            sample(pipeline, Bulk(8), tmp_path)
        child.kill()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "--engines", "digits", "--num", "30", "--shard", "10", "--out", str(tmp_path / "out")]
    save, saved = np.savez, []

    def full(file: object, **arrays: object) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(file)
        save(file, **arrays)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        assert main(command) == 1
    assert "No space left on device; 2 of 3 shards are there, the same command goes on" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".shard*"))
    assert main(command) == 0
    assert len(list((tmp_path / "out").glob("shard-*.npz"))) == 3


def test_adm_file(tmp_path: Path) -> None:
    command = ["sample", "--engines", "digits", "--per-class", "3", "--shard", "8", "--out", str(tmp_path / "out")]
    assert main([*command, "--adm-npz", str(tmp_path / "adm.npz")]) == 0
    images = np.load(tmp_path / "adm.npz")["arr_0"]
    shards = [np.load(path)["images"] for path in sorted((tmp_path / "out").glob("shard-*.npz"))]
    assert images.shape == (30, 32, 32, 3)
    assert_close(images, np.concatenate(shards))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --num or --per-class"),
        (["--num", "31", "--per-class", "3"], "3 × 10 classes = 30"),
        (["--num", "0"], "num is 0"),
        (["--num", "2000000"], "num is 2000000"),
        (["--num", "5", "--shard", "0"], "shard is 0"),
        (["--num", "5", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["sample", "--engines", "digits", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
