"""Engines of the digits on the simulated device."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_var.backends.tensorrt.devices import VARIABLE
from trt_var.backends.tensorrt.record import Batch
from trt_var.backends.tensorrt.replay import Replay
from trt_var.bundle.opening import PACKAGED
from trt_var_export.engines import EngineRecipe, build_engines


@pytest.fixture(autouse=True)
def seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "simulated")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with engines for batches of up to 8."""
    out = shutil.copytree(PACKAGED / "digits", tmp_path_factory.mktemp("digits") / "bundle")
    build_engines(EngineRecipe(out, "simulated", batch=Batch(1, 4, 8)))
    return out


@pytest.fixture
def spoilt(digits: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(digits, tmp_path / "spoilt")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Sets the seconds of the plain chain, and of the one with the refiner beside the drafter."""

    def pretend(plain: float, shadowed: float) -> None:
        times = itertools.cycle([plain, shadowed])
        monkeypatch.setattr(Replay, "seconds", lambda self: next(times))

    return pretend
