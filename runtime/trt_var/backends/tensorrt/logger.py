"""What TensorRT says while it builds and runs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any

log = logging.getLogger(__name__)
KEPT_MESSAGES = 20
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
_TYPE = re.compile(r"Datatype: (\w+)")


def _kind(line: str) -> str:
    """``attention Half`` and the like from a line of the builder's account: name, types of inputs and outputs."""
    named = line.split(", Inputs:", 1)[0]
    kinds = {"attention": ("_mha", "fmha"), "gemm": ("Fc", "gemm", "gemv", "MatMul"), "conv": ("Conv", "conv")}
    kind = next((kind for kind, parts in kinds.items() if any(part in named for part in parts)), "other")
    types = _TYPE.findall(line)
    return f"{kind} {types[0]}" if types and kind != "other" else kind


def make_logger(trt: Any) -> Any:
    """A logger for TensorRT's objects that keeps what went wrong (``last()``), and the builder's account of an engine."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is found at run time
        _messages: list[str]
        layers: Counter[str]
        scratch: int

        def __init__(self) -> None:
            super().__init__()
            self.clear()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._messages = [*self._messages[-KEPT_MESSAGES:], message]
                return
            if message.startswith("Layers:"):
                self.layers += Counter(_kind(line) for line in message.splitlines() if "LayerType: " in line)
            elif match := _SCRATCH.match(message):
                self.scratch = max(self.scratch, int(match[1]))
            log.debug("%s", message)

        def last(self) -> str:
            return self._messages[-1] if self._messages else "no reason given"

        def clear(self) -> None:
            self._messages = []
            self.layers = Counter()
            self.scratch = 0

    return Logger()
