"""Pictures of a run: latency and goodput over the offered rate, or one rate over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trt_var.backends.installed import needed
from trt_var.files.outputs import picture_format
from trt_var.files.writing import replacing
from trt_var.serving.load.report import Report
from trt_var.serving.load.rows import Moment, Row, Spread

BLUE, ORANGE, GREEN, GREY = "tab:blue", "tab:orange", "tab:green", "0.7"
NOTHING = float("nan")
DOTS = {"marker": "o", "markersize": 3}


def check_plots() -> None:
    """Raises BackendError where the plotting library is missing, before anything is offered."""
    with needed("plots need matplotlib, which", ("matplotlib",), "pip install 'trt-var[bench]'"):
        import matplotlib  # noqa: F401  # the extra bench


def plot(report: Report, path: Path) -> None:
    """Of several rates latency and goodput over the rate, of one its course.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # the extra bench

    single = len(report.rows) == 1
    figure = Figure(figsize=(9, 8 if single else 4.5), layout="constrained")
    if single:
        _course(figure.subplots(3, 1, sharex=True), report.rows[0], report.objective, report.model.scales)
    else:
        _sweep(figure.subplots(1, 2), report.rows, report.objective)
    figure.suptitle(f"{report.model.id}, {report.model.backend.partition(';')[0]}", fontsize=9)
    with replacing(path) as file:
        figure.savefig(file, format=picture_format(path).lower(), dpi=110)


def _sweep(axes: Sequence[Any], rows: list[Row], objective: float | None) -> None:
    rows = sorted(rows, key=lambda row: row.rate)
    rates = [row.offered / row.window for row in rows]
    latency, throughput = axes
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        latency.plot(rates, _known([row.whole for row in rows], name), style, color=BLUE, **DOTS, label=f"whole, {name}")
    latency.plot(rates, _known([row.queue for row in rows], "p50"), color=ORANGE, **DOTS, label="queue, p50")
    if any(row.first for row in rows):
        latency.plot(rates, _known([row.first for row in rows], "p50"), color=GREEN, **DOTS, label="first preview, p50")
    if objective:
        latency.axhline(objective, color=GREY, label="objective")
    latency.set_yscale("log")
    latency.set_ylabel("seconds from when a request was due")
    throughput.plot(rates, rates, color=GREY, label="offered")
    throughput.plot(rates, [row.served / row.seconds for row in rows], color=ORANGE, **DOTS, label="served")
    throughput.plot(rates, [row.goodput for row in rows], color=BLUE, **DOTS, label="goodput")
    throughput.set_ylabel("requests a second")
    throughput.set_ylim(bottom=0)
    for one in axes:
        one.set_xlabel("offered, requests a second")
        one.legend(fontsize=8)


def _course(axes: Sequence[Any], row: Row, objective: float | None, scales: int) -> None:
    rate, latency, drafted = axes
    times = [moment.at for moment in row.timeline]
    rate.plot(times, [moment.offered for moment in row.timeline], color=GREY, label="offered")
    rate.plot(times, [moment.served for moment in row.timeline], color=BLUE, label="of these served")
    rate.set_ylabel("requests a second")
    rate.set_ylim(bottom=0)
    lines = (("p99", "whole, p99", BLUE, ":"), ("p50", "whole, p50", BLUE, "-"), ("queue", "queue, p50", ORANGE, "-"))
    for name, label, colour, style in lines:
        latency.plot(times, _known(row.timeline, name), style, color=colour, label=label)
    if objective:
        latency.axhline(objective, color=GREY, label="objective")
    latency.set_ylabel("seconds")
    latency.set_ylim(bottom=0)
    drafted.plot(times, _known(row.timeline, "n_draft"), color=GREEN, label="N, mean")
    drafted.set_ylabel("N")
    drafted.set_ylim(0, scales + 0.5)
    drafted.set_xlabel("seconds after the start, when requests were due")
    for one in axes:
        one.legend(fontsize=8, loc="upper left")


def _known(several: Sequence[Moment | Spread | None], name: str) -> list[float]:
    """One value of each, or a gap."""
    values = [None if one is None else getattr(one, name) for one in several]
    return [NOTHING if value is None else value for value in values]
