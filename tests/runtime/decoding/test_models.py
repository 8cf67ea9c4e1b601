"""Graphs are loaded side by side where the backend bears it, and once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trt_var import BackendError, Pipeline
from trt_var.backends.base import Graph
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.bundle.opening import Bundle


class Watched(OnnxRuntime):
    """Remembers who loads what; the first loading of ``broken`` fails."""

    def __init__(self, aside: bool, broken: str = "") -> None:
        super().__init__()
        self.loads_aside = aside
        self.loaded: list[tuple[str, str]] = []
        self.broken = broken

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        self.loaded.append((path.stem, threading.current_thread().name))
        if path.stem == self.broken:
            self.broken = ""
            raise BackendError(f"cannot load {path.stem}")
        return super().load(path, exact=exact, images=images)


@pytest.mark.parametrize("aside", [True, False])
def test_loaded_once(toy_bundle: Path, aside: bool) -> None:
    backend = Watched(aside)
    with Pipeline(Bundle.open(toy_bundle), backend) as pipeline:
        first, second = pipeline.generate(1), pipeline.generate(1)
        assert (first.tokens == second.tokens).all()
    names = [name for name, _ in backend.loaded]
    assert len(names) == len(set(names)) == 7
    here = [thread for _, thread in backend.loaded if thread == threading.current_thread().name]
    assert len(here) == (0 if aside else 7)


@pytest.mark.parametrize("aside", [True, False])
@pytest.mark.parametrize("broken", ["drafter", "quantise_02", "decoder"])
def test_failed_and_loaded_again(toy_bundle: Path, aside: bool, broken: str) -> None:
    backend = Watched(aside, broken)
    with Pipeline(Bundle.open(toy_bundle), backend) as pipeline:
        with pytest.raises(BackendError, match=f"cannot load {broken}"):
            pipeline.generate(1)
        assert len(pipeline.generate(1).images) == 1
    assert [name for name, _ in backend.loaded].count(broken) == 2


def test_many_threads_at_once(toy_bundle: Path) -> None:
    backend, found = Watched(True), []
    with Pipeline(Bundle.open(toy_bundle), backend) as pipeline:
        threads = [threading.Thread(target=lambda: found.append(pipeline.generate(1).tokens)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 6
    assert all((tokens == found[0]).all() for tokens in found)
    assert len(backend.loaded) == 7


def test_warm(toy_bundle: Path) -> None:
    backend = Watched(True)
    with Pipeline(Bundle.open(toy_bundle), backend) as pipeline:
        pipeline.warm(4, 2)
        assert "refiner" not in {name for name, _ in backend.loaded}
        pipeline.warm()
        assert "refiner" in {name for name, _ in backend.loaded}
    with Pipeline.load(toy_bundle, "onnxruntime", warm=(None, 1)) as pipeline:
        assert "refiner.onnx" in pipeline._models._graphs
