"""Shards drawn on a Ray cluster: the bytes of one process, whatever dies. Kind: a local cluster of several raylets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs trt-var[ray-bulk]")

import rigged
from rigged import Rigged
from trt_var import BackendError, OutputError, Pipeline, UsageError
from trt_var.bulk import Bulk, sample
from trt_var.bulk.cluster import Source, driving, sample_on
from trt_var.cli.main import main

WANTED = Bulk(192, seed=1000, batch_size=8, shard=8)
FEW = Bulk(32, seed=1000, batch_size=8, shard=8)
COMMAND = ["sample", "--engines", "digits", "--backend", "onnxruntime", "--num", "32", "--seed", "1000", "--shard", "8"]


@pytest.fixture(scope="module", autouse=True)
def startable() -> None:
    if why := rigged.trouble():
        pytest.skip(why)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """By number of images, what one process writes."""
    folder = tmp_path_factory.mktemp("unbroken")
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        for bulk in (WANTED, FEW):
            sample(pipeline, bulk, folder / str(bulk.num))
    return {bulk.num: contents(folder / str(bulk.num)) for bulk in (WANTED, FEW)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    made = rigged.cluster(2)
    yield made
    made.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Rigged:
    (tmp_path / "control").mkdir()
    return Rigged(None, "onnxruntime", control=tmp_path / "control").tell()


def shards(folder: Path) -> int:
    return len(list(folder.glob("shard-*.npz")))


def test_the_command(
    cluster: Any, tmp_path: Path, unbroken: dict[int, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but its own line is printed, and the process is afterwards what it was."""
    before = signal.getsignal(signal.SIGTERM), logging.getLogger("ray").level, dict(os.environ)
    for _ in range(2):  # the second time nothing is left to draw
        assert main([*COMMAND, "--ray", cluster.address, "--out", str(tmp_path / "out")]) == 0
        said = capfd.readouterr()
        assert "32 images in 4 shards, ONNX Runtime" in said.out and said.out.count("\n") == 1
        assert not said.err
    assert contents(tmp_path / "out") == unbroken[FEW.num]
    assert (signal.getsignal(signal.SIGTERM), logging.getLogger("ray").level) == before[:2]
    assert set(os.environ.items()) ^ set(before[2].items()) == set()


DRIVER = """
import sys
from pathlib import Path
import rigged
from trt_var.bulk import Bulk
from trt_var.bulk.cluster import sample_on
source = rigged.Rigged(None, "onnxruntime", control=Path(sys.argv[2]))
sample_on(sys.argv[1], source, Bulk(192, seed=1000, batch_size=8, shard=8), Path(sys.argv[3]))
"""


def test_whatever_dies(cluster: Any, tmp_path: Path, source: Rigged, unbroken: dict[int, dict[str, str]]) -> None:
    """The driver, a worker, a machine; and one that joins is used. Nothing is drawn twice but what they had."""
    out, chance = tmp_path / "out", random.Random(0)
    source.tell(sleep=0.25)
    command = [sys.executable, "-c", DRIVER, cluster.address, str(source.control), str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(rigged.__file__).parent)}
    with subprocess.Popen(command, env=environment) as driver:
        while shards(out) < 3 and driver.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.25))
        driver.kill()
    begun, before = shards(out), len(source.drawn())
    source.tell(sleep=0.8)
    failed: list[BaseException] = []
    second = threading.Thread(target=caught, args=(failed, sample_on, cluster.address, source, WANTED, out))
    second.start()  # here, since only the main thread may add a machine
    while shards(out) < begun + 2 and second.is_alive():
        time.sleep(0.02)
    os.kill(source.drawn()[-1][1], signal.SIGKILL)
    gone = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[chance.randrange(2)]
    rigged.add(cluster)
    time.sleep(chance.uniform(0, 0.8))
    cluster.remove_node(gone, allow_graceful=False)
    second.join(120)
    assert not failed and not second.is_alive()
    assert contents(out) == unbroken[WANTED.num]
    times = Counter(seed for seed, _, _ in source.drawn())
    assert len(times) == 24 and times.total() <= 24 + 2 + 1 + 1, times
    assert len({node for _, _, node in source.drawn()[before:]}) == 3, "the machine that joined drew, too"


def caught(failed: list[BaseException], function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except BaseException as error:
        failed.append(error)


@pytest.mark.parametrize("how", ["die", "fail"])
def test_a_shard_that_always_fails_is_named(cluster: Any, tmp_path: Path, source: Rigged, how: str) -> None:
    first = int(sample_seeds(2)[0])
    source.tell(**{how: [first]})
    with pytest.raises(BackendError, match=r"shard-00002\.npz failed 3 times, the last time on "):
        sample_on(cluster.address, source, FEW, tmp_path / "out")
    assert [seed for seed, _, _ in source.drawn()].count(first) == 3
    assert not list((tmp_path / "out").glob("*unfinished*"))
    source.tell()
    assert len(sample_on(cluster.address, source, FEW, tmp_path / "out")) == 4, "the same command goes on"


def sample_seeds(index: int) -> Any:
    from trt_var.bulk.recipe import Series

    return Series(FEW, 10)[index][1]


def test_a_hung_worker_is_noticed(
    cluster: Any,
    tmp_path: Path,
    source: Rigged,
    unbroken: dict[int, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(driving, "LEAST", 2.0)
    source.tell(hang=[int(sample_seeds(1)[0])])
    sample_on(cluster.address, source, FEW, tmp_path / "out")
    assert contents(tmp_path / "out") == unbroken[FEW.num]
    assert "ends: it hangs: " in caplog.text


def test_a_machine_that_rounds_otherwise_is_refused(
    cluster: Any,
    tmp_path: Path,
    source: Rigged,
    unbroken: dict[int, dict[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sample_on(cluster.address, source, replace(FEW, num=8), tmp_path / "first")  # a probe of the sound ones
    odd = rigged.add(cluster, ODD="1")
    (tmp_path / "out").mkdir()
    begin(tmp_path / "out", unbroken_probe(tmp_path / "first"))
    source.tell(held=True)
    with watched(source.control / "go"):
        sample_on(cluster.address, source, FEW, tmp_path / "out")
    lines = [record.message for record in caplog.records if "is not used" in record.message]
    cluster.remove_node(odd)
    assert len(lines) == 1 and "its arithmetic differs: probe " in lines[0]
    assert contents(tmp_path / "out") == unbroken[FEW.num]


def begin(out: Path, probe: str, **changes: object) -> None:
    """A folder as a run leaves it that was killed right after its first worker had proved itself."""
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        from trt_var.bulk.probing import drawer_of
        from trt_var.bulk.recipe import recipe_of, write_recipe
        from trt_var.bulk.shards import check_bulk

        recipe = recipe_of(pipeline.manifest, drawer_of(pipeline), FEW, check_bulk(pipeline.manifest, FEW), "shards")
    write_recipe(out, recipe)
    path = out / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"probe": probe} | changes, indent=2) + "\n")


def unbroken_probe(folder: Path) -> str:
    probe: str = json.loads((folder / "recipe.json").read_text())["probe"]
    return probe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "its arithmetic differs: probe "),
        ({"backend": "abacus"}, "its backend is ONNX Runtime .*, that of the series abacus"),
    ],
)
def test_a_series_that_was_begun_elsewhere(
    cluster: Any, tmp_path: Path, source: Rigged, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "out").mkdir()
    begin(tmp_path / "out", "0" * 64, **changes)
    with pytest.raises(BackendError, match=f"no machine of the cluster can draw this: .*{message}"):
        sample_on(cluster.address, source, FEW, tmp_path / "out")


def test_a_bundle_that_is_not_there(cluster: Any, tmp_path: Path, source: Rigged) -> None:
    source.tell(lost=True)
    with pytest.raises(BackendError, match=r"no bundle at /there \(the bundle must be in the package on every machine\)"):
        sample_on(cluster.address, source, FEW, tmp_path / "out")
    assert not (tmp_path / "out" / "recipe.json").exists()


def test_a_machine_without_the_package(
    cluster: Any, tmp_path: Path, source: Rigged, caplog: pytest.LogCaptureFixture
) -> None:
    """The others draw; it is tried three times, and then said in one line."""
    (tmp_path / "trt_var").mkdir()
    (tmp_path / "trt_var" / "__init__.py").write_text("raise ModuleNotFoundError('not here')\n")
    bare = rigged.add(cluster, PYTHONPATH=str(tmp_path))
    source.tell(held=True)
    with watched(source.control / "go"):
        sample_on(cluster.address, source, FEW, tmp_path / "out")
    cluster.remove_node(bare)
    lines = [record.message for record in caplog.records if "is not used" in record.message]
    assert "it could not be made, ModuleNotFoundError: not here; this package must be installed there" in lines[-1]


class Watch(logging.Handler):
    """Makes a file when a machine is left alone."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        if "is not used" in record.getMessage():
            self._file.touch()


@contextmanager
def watched(file: Path) -> Iterator[None]:
    """Makes a file, for which the workers wait, when a machine is left alone."""
    handler = Watch(file)
    logging.getLogger("trt_var").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("trt_var").removeHandler(handler)


def test_refused_before_a_cluster_is_joined(tmp_path: Path) -> None:
    source = Source(None, "onnxruntime")
    (tmp_path / "a").mkdir()
    begin(tmp_path / "a", "")
    with pytest.raises(UsageError, match="holds other images: seed 1000 there, 0 asked for"):
        sample_on("127.0.0.1:1", source, replace(FEW, seed=0), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds thesis.txt"):
        sample_on("127.0.0.1:1", source, FEW, tmp_path / "b")
    with pytest.raises(OutputError, match="cannot write"):
        sample_on("127.0.0.1:1", source, FEW, tmp_path / "b" / "thesis.txt")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("somewhere", "expected auto, local, host:port or ray://host:port"),
        ("", "the cluster's address is ''"),
    ],
)
def test_no_cluster_there(tmp_path: Path, capfd: pytest.CaptureFixture[str], address: str, message: str) -> None:
    assert main([*COMMAND, "--ray", address, "--out", str(tmp_path / "out")]) in (1, 2)
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("asked", [False, True])
def test_ray_is_imported_for_ray_alone(tmp_path: Path, asked: bool) -> None:
    """And where it is missing, one line says what to install."""
    more = ["--ray", "auto"] if asked else []
    code = f"""import sys
sys.modules["ray"] = None if {asked} else sys.modules.pop("ray", None) or None
if not {asked}: del sys.modules["ray"]
from trt_var.cli.main import main
code = main({[*COMMAND, *more, "--out", str(tmp_path)]!r})
print([name for name in sys.modules if name.partition(".")[0] == "ray" and sys.modules[name]])
sys.exit(code)"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == int(asked), ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
    if asked:
        assert 'pip install "trt-var[ray-bulk]"' in ran.stderr and ran.stderr.count("\n") == 1
