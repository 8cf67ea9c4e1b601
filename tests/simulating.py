"""What tests on the simulated device share."""

from __future__ import annotations

from helpers import assert_close, assert_tokens
from trt_var import Pipeline
from trt_var.backends.tensorrt.runtime import TensorRT
from trt_var.backends.tensorrt.simulated.device import SimulatedDevice
from trt_var.requests.results import Generation

FOLDER = "tensorrt/simulated-1-host"


def device(pipeline: Pipeline) -> SimulatedDevice:
    """The device of a pipeline on the backend ``tensorrt``."""
    backend = pipeline._backend
    assert isinstance(backend, TensorRT)
    assert isinstance(backend.device, SimulatedDevice)
    return backend.device


def assert_same(found: Generation, expected: Generation) -> None:
    """Compare tokens and images."""
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images)
