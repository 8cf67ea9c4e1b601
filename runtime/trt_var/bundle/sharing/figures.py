"""Figures of quality for cards: what a bundle records, and what ``trt-var eval --json`` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from trt_var.bundle.opening import Bundle
from trt_var.errors import DataError, printable
from trt_var.files.paths import AnyPath, expanded

MAX_BYTES = 4 << 20


class Spread(msgspec.Struct, frozen=True):
    """Mean and sample deviation over rounds."""

    mean: float
    deviation: float

    def shown(self, factor: float, digits: int, unit: str = "") -> str:
        """Both, times a factor."""
        return f"{self.mean * factor:.{digits}f}{unit} ± {self.deviation * factor:.{digits}f}"


class Row(msgspec.Struct, frozen=True):
    """Of one N, and what else tells it from others."""

    n_draft: int
    accuracy: Spread
    frechet: Spread
    seconds: Spread
    pair: str | None = None
    backend: str | None = None
    cfg: float | None = None


class Figures(msgspec.Struct, frozen=True):
    """As ``trt-var eval --json`` writes them: by a judge, or by the metrics of ``--fidelity``.

    Attributes:
        bundle: the ``identity`` of what was measured; None in older files.
    """

    bundle: str | None = None
    backend: str | None = None
    judge_accuracy: float | None = None
    per_class: int | None = None
    rounds: int | None = None
    quality: tuple[Row, ...] = ()
    n_draft: int | None = None
    metrics: dict[str, float] = {}


class _Scale(msgspec.Struct):
    model: str
    logits_max: float
    tokens_equal: float


class _Report(msgspec.Struct):
    """What the export compared; of a quantised bundle there is another one."""

    compared: bool = False
    scales: tuple[_Scale, ...] = ()


def read(path: AnyPath) -> Figures:
    """Figures from a file.

    Raises:
        DataError: none there, or of another kind.
    """
    path = expanded(path)
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_BYTES), type=Figures)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(f"{path} is no report of trt-var eval --json: {printable(str(error))}") from error
    if not (found.quality or found.metrics):
        raise DataError(f"{path} holds no figures of quality; expected what trt-var eval --json writes of a judge's figures")
    return found


def compared(bundle: Bundle) -> Iterator[str]:
    """What the export found against PyTorch."""
    name = bundle.manifest.report
    try:
        report = msgspec.json.decode(bundle.file(name).read_bytes(), type=_Report) if name else _Report()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        report = _Report()
    if not (report.compared and report.scales):
        yield "A comparison of the graphs with PyTorch is not recorded."
        return
    yield "Against PyTorch, on every scale:\n\n" + columns(
        ("model", "largest difference of logits", "equal tokens, at least"),
        (
            (role, f"{max(one.logits_max for one in scales):.2g}", f"{min(one.tokens_equal for one in scales):.2%}")
            for role in dict.fromkeys(one.model for one in report.scales)
            if (scales := [one for one in report.scales if one.model == role])
        ),
    )


def measured(bundle: Bundle, figures: Figures | None) -> Iterator[str]:
    """Of pictures."""
    if figures is None or not (figures.quality or figures.metrics):
        judge = bundle.manifest.judge
        reads = f"; the bundle's judge reads {judge.accuracy:.1%} of held-out real pictures right" if judge else ""
        yield f"Figures of pictures are not recorded{reads}."
        return
    if figures.quality:
        said = {
            "Pictures": True,
            f"{figures.per_class} a class": figures.per_class,
            f"mean ± deviation of {figures.rounds} rounds": figures.rounds,
            f"on {cell(figures.backend)}": figures.backend,
            f"by a judge that reads {figures.judge_accuracy or 0:.1%} of held-out real ones right": figures.judge_accuracy,
        }
        keys = [key for key in ("pair", "cfg") if any(getattr(row, key) is not None for row in figures.quality)]
        yield f"{', '.join(text for text, known in said.items() if known)}:\n\n{table(figures.quality, *keys)}"
    if figures.metrics:
        of = "" if figures.n_draft is None else f" at N = {figures.n_draft}"
        rows = ((name, f"{value:.4f}") for name, value in figures.metrics.items())
        yield f"Metrics of torch-fidelity{of}:\n\n{columns(('metric', 'value'), rows)}"


def table(rows: Sequence[Row], *keys: str) -> str:
    """Judged quality by N, behind columns of what else tells the rows apart, e.g. ``pair``."""
    head = (*keys, "N", "judged right", "Fréchet distance", "ms an image")
    return columns(
        head,
        (
            (
                *(getattr(row, key) for key in keys),
                row.n_draft,
                row.accuracy.shown(100, 1, "%"),
                row.frechet.shown(1, 2),
                row.seconds.shown(1000, 1),
            )
            for row in rows
        ),
    )


def columns(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; what manifests say cannot break it, nor become HTML."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """As text: no HTML, link, picture, code or column comes of it."""
    text = printable(str(value))
    for one, written in {"&": "&amp;", "<": "&lt;", "|": "\\|", "[": "&#91;", "`": "&#96;"}.items():
        text = text.replace(one, written)
    return text
