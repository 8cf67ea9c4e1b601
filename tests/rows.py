"""Measurements as reports have them."""

from __future__ import annotations

from trt_var.bench.measure import Row, Setting


def row(n_draft: int, total: float, batch: int = 1, engines: str = "fp32", peak: int = 10**9) -> Row:
    """A row of ten scales, drafted ones twice as slow as the others."""
    scales = [0.2] * n_draft + [0.1] * (10 - n_draft)
    return Row(Setting(engines, "openvino", n_draft, batch, 3), "OpenVINO", total, total, scales, 0.5, peak, None, 10**6)
