"""A report of a run: JSON, and Markdown with a row a rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from trt_var.files.writing import replacing
from trt_var.serving.load.rows import Row, Spread
from trt_var.serving.load.service import Model
from trt_var.serving.load.verify import Verification

COLUMNS = (
    "rate | offered/s | requests | served | images/s | goodput/s | attained | whole p50 | p95 | p99 | max "
    "| preview p50 | p99 | queue p50 | p99 | N | 4xx, 5xx | lost"
)


class Report(msgspec.Struct, frozen=True):
    """Everything that there is to tell.

    Attributes:
        url: of the service.
        model: what it serves.
        command: that was typed.
        settings: of arrivals and mix, by name, for people.
        objective: seconds of the whole latency, or None.
        rows: one a rate.
        verification: of the pictures, if it was asked for.
    """

    url: str
    model: Model
    command: str
    settings: dict[str, str]
    objective: float | None
    rows: list[Row]
    verification: Verification | None = None


def write(report: Report, path: Path) -> None:
    """The report as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def markdown(report: Report) -> str:
    """The report as Markdown; times in seconds, from when a request was due."""
    within = f", within {report.objective:g} s" if report.objective else ""
    lines = [
        f"# Load on {report.url}",
        "",
        f"`{report.command}`",
        "",
        f"- model: {report.model.id}, {report.model.backend}",
        *(f"- {name}: {value}" for name, value in report.settings.items()),
        f"- seconds from when a request was due; goodput: requests answered 200{within}, a second",
        "",
        f"| {COLUMNS} |",
        "|" + "---|" * (COLUMNS.count("|") + 1),
        *(f"| {' | '.join(_cells(row))} |" for row in report.rows),
    ]
    for row in report.rows:
        lines += ["", f"## {row.rate:g} a second", "", *(f"- {line}" for line in _told(row))]
    if report.verification:
        lines += ["", "## Pictures", "", *(f"- {line}" for line in _verified(report.verification))]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    whole = row.whole or Spread(*[float("nan")] * 4)
    errors = sum(count for status, count in row.statuses.items() if status >= "4")
    cells = [f"{row.rate:g}", f"{row.offered / row.window:.3g}", str(row.requests), str(row.served)]
    cells += [_short(row.images_per_second), _short(row.goodput), f"{row.attainment:.1%}"]
    cells += map(_short, (whole.p50, whole.p95, whole.p99, whole.max))
    for spread in (row.first, row.queue):
        cells += [_short(spread.p50), _short(spread.p99)] if spread else ["–", "–"]
    return [*cells, "–" if row.mean_n is None else f"{row.mean_n:.2f}", str(errors), str(row.lost)]


def _short(number: float) -> str:
    return "–" if number != number else f"{number:.3g}"


def _told(row: Row) -> list[str]:
    """What the table has no column for; nothing is said of what did not happen."""
    lines = [
        f"{row.requests} requests in {row.window:.3g} s, the last answer after {row.seconds:.3g} s; {row.offered} waited "
        f"for an answer to a valid body ({row.offered_images} images), {row.served} were served ({row.images} images), "
        f"{row.in_time} in time ({row.images_in_time} images, {row.image_goodput:.3g} a second)",
        f"statuses: {_listed(row.statuses)}{f'; codes: {_listed(row.codes)}' if row.codes else ''}",
        f"images by N: {_listed(row.n_draft)}",
    ]
    refused = sum(row.statuses.get(status, 0) for status in ("429", "503"))
    if refused:
        least, most = row.retry_least, row.retry_most
        span = "" if least is None else f", {least:g} s" if least == most else f", {least:g} to {most:g} s"
        lines.append(f"Retry-After: with {row.retry_after} of {refused}{span}")
    if row.unconnected or row.lost or row.broken:
        lines.append(f"without a connection: {row.unconnected}, without any answer: {row.lost}, broken off: {row.broken}")
    if row.failed:
        lines.append(f"streams that ended in an error: {row.failed}")
    if row.unsound:
        lines.append(f"answers of status 200 that are not what was asked for: {row.unsound}")
    if row.problems:
        lines.append(f"problems: {_listed(row.problems)}")
    if row.left or row.stayed:
        lines.append(f"clients that went before their answer was there: {row.left}; that had it before: {row.stayed}")
    if row.rubbish:
        wrong = f": {_listed(row.mistaken_kinds)}" if row.mistaken else ""
        lines.append(f"invalid bodies: {row.rubbish}, of which {row.mistaken} were not answered 4xx{wrong}")
    lines.append(
        f"the generator was late by {row.late_p99 * 1000:.1f} ms (p99), {row.late_max * 1000:.1f} ms (max), and took "
        f"{row.cpu:.0%} of a core"
    )
    return lines


def _verified(found: Verification) -> list[str]:
    lines = [
        f"{found.pictures} compared with what {found.bundle} draws in-process ({found.engine}): {found.unequal} unequal, "
        f"largest difference {found.largest} of 255, mean {found.mean:.2g}",
        f"{found.outside} further off than {found.bound} step of 255, of {found.promised} that are promised",
    ]
    if found.left_out:
        lines.append(f"{found.left_out} pictures served and not compared: their bytes were not kept")
    return [*lines, *found.examples]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in counts.items()) or "none"
