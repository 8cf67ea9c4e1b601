"""The simulated device refuses what a GPU would punish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulating import FOLDER, device
from trt_var import Pipeline
from trt_var.backends.tensorrt.logger import make_logger
from trt_var.backends.tensorrt.runtime import TensorRT
from trt_var.backends.tensorrt.simulated import engine as simulated
from trt_var.backends.tensorrt.simulated.device import POISON, SimulatedDevice, SimulationError


class TestSimulatedDevice:
    """What it refuses."""

    def test_reading_what_nobody_wrote(self) -> None:
        gpu = SimulatedDevice()
        memory, host = gpu.allocate(64), gpu.pinned(64)
        gpu.to_device(memory.address, host[:32])
        gpu.to_host(host, memory.address)
        with pytest.raises(SimulationError, match="nobody wrote 32"):
            gpu.synchronize()

    def test_freed_and_foreign_memory(self) -> None:
        gpu = SimulatedDevice()
        memory = gpu.allocate(64)
        memory.free()
        for address, size in ((memory.address, 8), (gpu.allocate(64).address + 60, 8), (3, 1)):
            gpu.to_device(address, gpu.pinned(size))
            with pytest.raises(SimulationError, match="lie in no allocation"):
                gpu.synchronize()

    def test_work_is_late(self) -> None:
        """Pinned memory that changes before the host has waited is what the copy takes; results are poison until then."""
        gpu = SimulatedDevice()
        memory, host, back = gpu.allocate(4), gpu.pinned(4), gpu.pinned(4)
        host[:] = 1
        gpu.to_device(memory.address, host)
        gpu.to_host(back, memory.address)
        host[:] = 2
        assert (back == POISON).all()
        gpu.synchronize()
        assert (back == 2).all()

    def test_captures(self) -> None:
        gpu = SimulatedDevice()
        memory, host = gpu.allocate(4), gpu.pinned(4)
        for call in (
            gpu.synchronize,
            lambda: gpu.allocate(4),
            lambda: gpu.pinned(4),
            lambda: gpu.to_device(memory.address, np.zeros(4, np.uint8)),
        ):
            with pytest.raises(SimulationError, match="captur"):
                gpu.capture(call)
        launch = gpu.capture(lambda: gpu.to_device(memory.address, host))
        gpu.synchronize()
        gpu.to_host(gpu.pinned(4), memory.address)
        with pytest.raises(SimulationError, match="nobody wrote"):
            gpu.synchronize()
        launch()
        gpu.to_host(gpu.pinned(4), memory.address)
        gpu.synchronize()

    def test_two_streams(self) -> None:
        """Work on the same memory is refused unless one stream waits for the other; reading is free."""
        gpu = SimulatedDevice()
        memory, host, back = gpu.allocate(4), gpu.pinned(4), gpu.pinned(4)

        def work(join: bool) -> None:
            gpu.to_device(memory.address, host)
            with gpu.aside():
                gpu.to_host(back, memory.address)
                assert gpu.by_stream[gpu.stream] is gpu
            gpu.to_host(gpu_back, memory.address)
            if join:
                gpu.join()
            gpu.to_device(memory.address, host)

        gpu_back = gpu.pinned(4)
        work(join=True)
        gpu.synchronize()
        work(join=False)
        with pytest.raises(SimulationError, match="two streams use the same memory at once"):
            gpu.synchronize()
        gpu.join()
        launch = gpu.capture(lambda: work(join=True))
        for _ in range(3):
            launch()
        gpu.to_device(memory.address, host)
        gpu.synchronize()
        with pytest.raises(SimulationError, match="work aside that nothing waits for"):
            gpu.capture(lambda: work(join=False))

    def test_one_scratch_buffer_for_two_streams(
        self, digits: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The refiner's scratch memory aside must not be the drafter's."""
        with Pipeline.load(digits, "tensorrt") as pipeline:
            held = device(pipeline).allocate(1 << 24)
            monkeypatch.setattr(TensorRT, "ensure_scratch", lambda self, size: held)
            for _ in range(3):
                pipeline.generate([1], n_draft=3)
        assert "two streams use the same memory at once" in caplog.text

    def test_memory_freed_while_capturing(self) -> None:
        gpu = SimulatedDevice()
        memory = gpu.allocate(4)
        gpu.capture(memory.free)
        with pytest.raises(SimulationError, match="freed while capturing"):
            gpu.synchronize()

    def test_contexts(self, digits: Path) -> None:
        """Shapes outside the profile, no address, misaligned or short scratch memory, an unknown stream."""
        gpu, logger = SimulatedDevice(), make_logger(simulated)
        plan = np.memmap(digits / FOLDER / "decoder.plan", mode="r")
        engine = simulated.Runtime(logger).deserialize_cuda_engine(plan)
        assert engine is not None
        context = engine.create_execution_context(simulated.ExecutionContextAllocationStrategy.USER_MANAGED)
        assert not context.set_input_shape("f_hat", (1, 8, 8, 8)), "no profile yet"
        assert context.set_optimization_profile_async(0, gpu.stream)
        assert not context.set_input_shape("f_hat", (9, 8, 8, 8))
        assert "outside profile 0" in logger.last()
        assert context.set_input_shape("f_hat", (1, 8, 8, 8))
        assert context.get_tensor_shape("images") == (1, 32, 32, 3)
        for address, scratch, size, why in (
            (0, 1024, 1 << 20, "no address for f_hat"),
            (520, 1024, 1 << 20, "misaligned f_hat"),
            (512, 1000, 1 << 20, "scratch memory of 0 bytes"),
            (512, 1024, 16, "scratch memory of 16 bytes"),
        ):
            context.set_tensor_address("f_hat", address)
            context.set_tensor_address("images", 4096)
            context.set_device_memory(scratch, size)
            assert not context.execute_async_v3(gpu.stream)
            assert why in logger.last()
        context.set_device_memory(1024, 1 << 20)
        assert not context.execute_async_v3(7)
        assert "unknown stream" in logger.last()
        assert simulated.Runtime(logger).deserialize_cuda_engine(np.zeros(9, np.uint8)) is None
