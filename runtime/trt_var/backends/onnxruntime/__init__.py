"""ONNX Runtime: its CPU provider, and its CUDA provider for NVIDIA GPUs.

Its package notes a device's identity in the user's cache and may report to its makers, unless it is told not to before it is
imported; who wants that sets the variable to 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
