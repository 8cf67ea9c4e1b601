"""On a real GPU: the seam to CUDA, and the chain through engines against the golden vectors and the digits.

Skipped where there is none. ``TRT_VAR_CUDA=simulated pytest tests/gpu`` runs the same on the simulated device.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import GOLDEN, assert_close, assert_tokens
from trt_var import BackendError, Pipeline, Sampling
from trt_var.backends.tensorrt import devices as cuda
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.device import Device
from trt_var.backends.tensorrt.record import Batch, Kind
from trt_var.bundle.opening import PACKAGED
from trt_var_export.engines import EngineRecipe, build_engines

golden = np.load(GOLDEN / "tiny.npz")


@pytest.fixture(scope="module", params=cuda.SEAMS)
def seam(request: pytest.FixtureRequest) -> str:
    if request.param == "simulated" and os.environ.get(cuda.VARIABLE) != "simulated":
        pytest.skip("asked for by TRT_VAR_CUDA=simulated alone")
    return str(request.param)


@pytest.fixture(scope="module")
def device(seam: str) -> Device:
    try:
        return cuda.SEAMS[seam]()
    except (BackendError, ImportError) as error:
        pytest.skip(f"{seam}: {error}")


@pytest.fixture
def kind(seam: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """The first kind of engines that can be built for this device; pipelines then use the same seam."""
    monkeypatch.setenv(cuda.VARIABLE, seam)
    for name in device.kinds:
        try:
            importlib.import_module(engines.MODULES[name])
            return name
        except (ImportError, OSError):
            continue
    pytest.skip(f"none of {', '.join(device.kinds)} is installed")


def build(bundle: Path, kind: Kind, device: Device, batch: Batch) -> None:
    build_engines(EngineRecipe(bundle, kind, device.target if kind == "rtx" else None, batch))


def test_copies_and_captures(device: Device) -> None:
    with device.active():
        memory, there, back = device.allocate(1 << 20), device.pinned(1 << 20), device.pinned(1 << 20)
        assert memory.address % 256 == 0

        def round_trip() -> None:
            device.to_device(memory.address, there)
            device.to_host(back, memory.address)

        there[:] = 1
        round_trip()
        device.synchronize()
        assert (back == 1).all()
        launch = device.capture(round_trip)
        for value in (2, 3):
            there[:] = value
            launch()
            device.synchronize()
            assert (back == value).all()
        free = device.free_memory()
        memory.free()
        assert device.free_memory() >= free


def test_more_memory_than_there_is(device: Device) -> None:
    with device.active(), pytest.raises(BackendError, match="CUDA failed"):
        device.allocate(1 << 50)


def test_golden_vectors(device: Device, kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = shutil.copytree(request.getfixturevalue("golden_bundle"), tmp_path / "golden")
    build(bundle, kind, device, Batch(1, 2, 2))
    with Pipeline.load(bundle, "tensorrt") as pipeline:
        for n_draft in range(1, 11):
            for _ in range(3):
                found = pipeline.generate(
                    golden["labels"].tolist(), seeds=100000, n_draft=n_draft, sampling=Sampling(cfg=1.5, top_k=1)
                )
                assert_tokens(found.tokens, golden[f"greedy_N{n_draft}_tokens"])
        assert_close(found.images.transpose(0, 3, 1, 2), golden["greedy_N10_image"], absolute=2)


def test_digits(device: Device, kind: Kind, tmp_path: Path) -> None:
    bundle = shutil.copytree(PACKAGED / "digits", tmp_path / "digits")
    build(bundle, kind, device, Batch(1, 8, 16))
    labels = [n % 10 for n in range(21)]
    with Pipeline.load(bundle, "tensorrt") as pipeline, Pipeline.load(bundle, "onnxruntime") as reference:
        for n_draft in range(7):
            for turn in range(3):
                asked = {"seeds": 100 * turn, "n_draft": n_draft, "sampling": Sampling(top_k=1 + 20 * turn, cfg=0.5 * turn)}
                expected = reference.generate(labels, **asked)
                found = pipeline.generate(labels, teacher=expected.tokens, **asked)
                equal = (found.tokens == expected.tokens).mean()
                assert equal > 0.98, f"N = {n_draft}: {equal:.4f} of the tokens are equal"
