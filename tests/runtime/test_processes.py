"""Kind: processes. A pipeline after a fork, and sent to another process."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trt_var import BundleError, Pipeline, UsageError
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.requests.results import Generation

FORKS = """
import gc, logging, os, signal, sys, threading
from trt_var import BackendError, Pipeline

name, used, busy = sys.argv[1], sys.argv[2] == "used", len(sys.argv) > 3
pipeline = Pipeline.load("digits", name)
other = Pipeline.load("digits", "onnxruntime")
expected = pipeline.generate(3, seeds=5).tokens.tolist() if used else None
stream = pipeline.stream([3]) if used else None
if used:
    next(stream)

def leave():
    pass

def close():
    pipeline.close()

def delete():
    global pipeline, stream
    del pipeline, stream
    gc.collect()

def generate():
    if used and name == "openvino":
        for work in (lambda: pipeline.generate(3), lambda: Pipeline.load("digits", name)):
            try:
                work()
            except BackendError as error:
                assert "cannot work in it" in str(error)
            else:
                raise AssertionError("no error")
        assert Pipeline.load("digits").backend.startswith("ONNX Runtime")
    else:
        found = pipeline.generate(3, seeds=5).tokens.tolist()
        assert expected is None or found == expected
        pipeline.close()

def go_on():
    try:
        list(stream or [])
    except BackendError as error:
        assert "before the process was forked" in str(error)
    else:
        assert stream is None

def grandchild():
    child = os.fork()
    if child == 0:
        generate()
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5

if busy:  # threads that draw, and one that holds the lock for good
    for _ in range(2):
        threading.Thread(target=lambda: [pipeline.generate([1, 2]) for _ in range(1000)], daemon=True).start()
    threading.Thread(target=lambda: [pipeline._models._lock.acquire(), threading.Event().wait()], daemon=True).start()
for action in (leave, close, delete, generate, go_on, grandchild):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        action()
        print(action.__name__)  # buffered: what is left to the end is written too
        sys.exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 3:
        print(action.__name__, "ended with", code, file=sys.stderr)
if used and not busy:
    assert pipeline.generate(3, seeds=5).tokens.tolist() == expected
sys.stdout.flush()
os._exit(0)
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@needs_fork
@pytest.mark.parametrize("arguments", [["used"], ["unused"], ["used", "busy"]], ids=" ".join)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_forked_children_end(name: str, arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", FORKS, name, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "ended with" not in result.stderr, result.stderr
    assert result.stdout.split() == ["leave", "close", "delete", "generate", "go_on", "grandchild"]


@needs_fork
def test_a_child_ends_where_an_engine_was_only_looked_at() -> None:
    script = "import os, sys; from trt_var.backends.choosing import statuses; statuses(); child = os.fork()\n"
    script += "if child == 0: sys.exit(4)\nsys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    # a process that OpenVINO starts for a moment may make Python's own multiprocessing complain in the child, no more
    assert result.returncode == 4, result.stderr


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the digits."""
    return shutil.copytree(PACKAGED / "digits", tmp_path / "bundle")


def test_pickle_and_copies_open_the_bundle_again(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(bundle.parent)
    pipeline = Pipeline.load("bundle", "onnxruntime")
    expected = pipeline.generate([1, 2], seeds=7)
    sent = pickle.dumps(pipeline)
    assert len(sent) < 2000  # no models
    monkeypatch.chdir("/")
    for other in (pickle.loads(sent), copy.copy(pipeline), copy.deepcopy(pipeline)):
        assert other.backend == pipeline.backend
        assert (other.generate([1, 2], seeds=7).tokens == expected.tokens).all()
        other.close()
    assert pipeline.generate(1).images.shape == (1, 32, 32, 3)  # closing a copy leaves it alone
    shutil.rmtree(bundle)
    with pytest.raises(BundleError, match=f"no bundle at {bundle}"):
        pickle.loads(sent)


def test_pickle_of_the_packaged_digits_names_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = pickle.dumps(Pipeline.load("digits"))
    assert str(PACKAGED).encode() not in sent
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name is not taken for them
    assert pickle.loads(sent).generate(4).labels.tolist() == [4]


def test_what_cannot_be_pickled_says_so(bundle: Path) -> None:
    with pytest.raises(UsageError, match="cannot be pickled or copied; make it with Pipeline.load"):
        pickle.dumps(Pipeline(Bundle.open(bundle), OpenVino(bfloat16=False)))
    closed = Pipeline.load(bundle)
    closed.close()
    with pytest.raises(UsageError, match="closed and cannot be pickled"):
        copy.copy(closed)


def test_subclasses_stay_what_they_are() -> None:
    assert type(pickle.loads(pickle.dumps(Loud.load("digits", "onnxruntime")))) is Loud


class Loud(Pipeline):
    """A subclass."""


def draw(pipeline: Pipeline, label: int) -> Generation:
    return pipeline.generate(label, seeds=label)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_every_start_method(method: str) -> None:
    script = "import sys; from test_processes import pool; pool(sys.argv[1])"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", f"if __name__ == '__main__':\n {script}", method]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[[3], [4]]\n"


def pool(method: str) -> None:
    pipeline = Pipeline.load("digits", "onnxruntime")
    here = pipeline.generate(3, seeds=3)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as workers:
        there = [task.result() for task in [workers.submit(draw, pipeline, label) for label in (3, 4)]]
    assert np.array_equal(here.images, there[0].images)
    sys.stdout.write(f"{[result.labels.tolist() for result in there]}\n")
