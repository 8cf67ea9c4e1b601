"""OpenVINO on CPUs.

Its package reports every import to its makers, through a process that it forks from a thread of this one. Imported from here
it does not; a program that has imported it before has decided that for itself.
"""

from __future__ import annotations

import importlib
import sys

_REPORTS = "openvino_telemetry"

if "openvino" not in sys.modules:
    known = sys.modules.get(_REPORTS)
    sys.modules[_REPORTS] = None  # type: ignore[assignment]  # as if it were not installed, which OpenVINO is prepared for
    try:
        importlib.import_module("openvino")
    finally:
        del sys.modules[_REPORTS]
        if known is not None:
            sys.modules[_REPORTS] = known
