"""A report of measurements: the tables and figures of the CoDe paper (arXiv 2411.17787) on the machine at hand."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.backends.installed import needed
from trt_var.bench.measure import EAGERS, Row, models
from trt_var.bundle.manifest import Manifest
from trt_var.errors import OutputError
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline

ENDS = 3
BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.7"


@dataclass(frozen=True)
class Spectrum:
    """Radially averaged log10 amplitude by frequency [f, cycles a pixel] of what the first and the last scales add."""

    frequencies: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """Everything that goes into the folder; ``manifests`` by the folder of the bundle, as the rows' settings have it."""

    machine: dict[str, str]
    command: str
    manifests: Mapping[str, Manifest]
    rows: Sequence[Row]
    spectrum: Spectrum | None

    def manifest(self, row: Row) -> Manifest:
        """Of the bundle that was measured."""
        return self.manifests[row.setting.engines]

    def name(self, row: Row) -> str:
        """``CoDe N=8``, or the plain model by its depth; the bundle's name before it where there are several."""
        manifest, n_draft = self.manifest(row), row.setting.n_draft
        if n_draft == len(manifest.schedule):
            model = f"VAR-d{manifest.models['drafter'].depth}"
        else:
            model = f"CoDe N={n_draft}" if n_draft else f"VAR-d{manifest.models['refiner'].depth}"
        if len(self.manifests) == 1 or row.setting.backend in EAGERS:
            return model
        names = [Path(folder).name for folder in self.manifests]
        own = Path(row.setting.engines).name
        return f"{own if names.count(own) == 1 else row.setting.engines}: {model}"

    def label(self, row: Row) -> str:
        """The name, and the backend: what tells one row from all others of its batch."""
        return f"{self.name(row)}, {row.setting.backend}"


def spectrum(pipeline: Pipeline, n_draft: int, images: int) -> Spectrum:
    """Figure 3b: of the pictures after every scale, what the first three and the last three add."""
    classes = pipeline.manifest.classes
    labels = [i * classes // images for i in range(images)]
    frames = [np.zeros(())]
    for preview in pipeline.stream(labels, n_draft=n_draft):
        frames.append(preview.images.mean(-1) / 255)
    last = frames[-1] - frames[max(len(frames) - 1 - ENDS, 1)]
    frequencies, added = radial(frames[min(ENDS, len(frames) - 1)])
    return Spectrum(frequencies, added, radial(last)[1])


def radial(images: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Images [n, S, S] → frequencies [S/2] in cycles a pixel, and log10 of the mean amplitude on the ring of each."""
    side = images.shape[-1]
    amplitude = np.abs(np.fft.fft2(images)).mean(0)
    axis = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(axis[:, None], axis)).astype(int)
    inside = (ring > 0) & (ring <= side // 2)
    sums = np.bincount(ring[inside], amplitude[inside])[1:]
    means = sums / np.bincount(ring[inside])[1:]
    return np.arange(1, side // 2 + 1) / side, np.log10(np.maximum(means, 1e-12))


def check_plots() -> None:
    """Raises BackendError where the plotting library is missing, before anything is measured."""
    with needed("plots need matplotlib, which", ("matplotlib",), "pip install 'trt-var[bench]'"):
        import matplotlib  # noqa: F401  # the extra bench


def check_folder(folder: Path) -> None:
    """Raises OutputError for a folder that cannot be made or written, before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error


def write_tables(report: Report, folder: Path, plots: Sequence[str] = ()) -> list[Path]:
    """report.json, and report.md with links to plots.

    Raises:
        OutputError: the folder cannot be written.
    """
    with replacing(folder / "report.json") as file:
        file.write(msgspec.json.format(msgspec.json.encode(_plain(report)), indent=1) + b"\n")
    with replacing(folder / "report.md") as file:
        file.write(markdown(report, plots).encode())
    return [folder / "report.md", folder / "report.json"]


def write(report: Report, folder: Path) -> list[Path]:
    """report.json, report.md and the plots.

    Raises:
        OutputError: the folder cannot be written.
    """
    plots: dict[str, Callable[[Any, Report], None]] = {"latency": _latency, "scales": _scales, "memory": _memory}
    if report.spectrum:
        plots["spectrum"] = _spectrum
    for name, draw in plots.items():
        _plot(folder / f"{name}.png", lambda axes, draw=draw: draw(axes, report))  # type: ignore[misc]
    return [*write_tables(report, folder, list(plots)), *(folder / f"{name}.png" for name in plots)]


def markdown(report: Report, plots: Sequence[str]) -> str:
    """The tables, and the plots as links."""
    titles = {
        "latency": "Latency by batch, decoder apart (Figure 5b)",
        "scales": "Time of every scale, drafter against refiner (Figure 5c)",
        "memory": "Memory by batch (Table 3)",
        "spectrum": "Fourier spectrum of what the first and the last three scales add (Figure 3b)",
    }
    bundles = ", ".join(dict.fromkeys(Path(folder).name for folder in report.manifests))
    batches = ", ".join(map(str, dict.fromkeys(row.setting.batch for row in report.rows)))
    lines = [f"# Measured: {bundles}, batch {batches}", "", f"`{report.command}`", ""]
    lines += [f"- {name}: {value}" for name, value in report.machine.items()]
    lines += [
        "",
        "## Latency and throughput (Table 1)",
        "",
        *table(report),
        "",
        "## Memory (Table 3)",
        "",
        *_memory_table(report),
    ]
    for name in plots:
        lines += ["", f"## {titles[name]}", "", f"![{titles[name]}]({name}.png)"]
    return "\n".join(lines) + "\n"


def table(report: Report) -> list[str]:
    """Table 1: a row a measurement; ``faster`` than the first plain drafter on this backend and batch, decoder left out."""
    plain: dict[tuple[str, int], float] = {}
    for row in report.rows:
        if row.setting.n_draft == len(report.manifest(row).schedule):
            plain.setdefault((row.setting.backend, row.setting.batch), row.total - row.decoder)
    lines = [
        "| | batch | s | s without decoder | images/s | without decoder | faster | parameters | peak GB | on |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        batch, bare = row.setting.batch, row.total - row.decoder
        base = plain.get((row.setting.backend, batch))
        memory = row.peak if row.device_memory is None else row.device_memory
        lines.append(
            f"| {report.label(row)} | {batch} | {row.total:.3g} | {bare:.3g} | {batch / row.total:.3g} "
            f"| {batch / bare:.3g} | {f'{base / bare:.2f}×' if base else '–'} | {row.parameters / 1e6:.0f} M "
            f"| {memory / 1e9:.2f} | {row.description} |"
        )
    return lines


def _memory_table(report: Report) -> list[str]:
    """Table 3: what was computed from the manifest, what was measured; a – for what is not known."""
    lines = [
        "| | batch | weights GB | cache GB | activations GB | measured peak GB | anonymous | from files | requests add |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        memory = row.peak if row.device_memory is None else row.device_memory
        measured = [_gigabytes(size) for size in (row.anonymous, row.files, row.added)]
        cells = [report.label(row), str(row.setting.batch), *_computed(report, row)]
        lines.append(f"| {' | '.join([*cells, f'{memory / 1e9:.2f}', *measured])} |")
    told = "The process's own (anonymous) memory and pages of mapped files, each at its peak; requests add to the former."
    return [*lines, "", told] if any(row.anonymous is not None for row in report.rows) else lines


def _computed(report: Report, row: Row) -> list[str]:
    """Weights, cache and activations of a bundle; eager PyTorch has none of these."""
    if row.setting.backend in EAGERS:
        return ["–"] * 3
    parts = row.setting.need(report.manifest(row), row.drops_outputs)
    return [_gigabytes(part) for part in (parts.weights, parts.cache, parts.activations)]


def _gigabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e9:.3f}"


def _plain(report: Report) -> dict[str, Any]:
    found = report.spectrum
    curves = {name: getattr(found, name).tolist() for name in ("frequencies", "first", "last")} if found else None
    bundles = {folder: models(manifest) for folder, manifest in report.manifests.items()}
    return {
        "machine": report.machine,
        "command": report.command,
        "bundles": bundles,
        "rows": report.rows,
        "spectrum": curves,
    }


def _plot(path: Path, draw: Callable[[Any], None]) -> None:
    from matplotlib.figure import Figure  # the extra bench

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    draw(figure.subplots())
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _latency(axes: Any, report: Report) -> None:
    for i, row in enumerate(report.rows):
        bare = row.total - row.decoder
        axes.barh(i, bare, color=BLUE, label=None if i else "transformers")
        axes.barh(i, row.decoder, left=bare, color=GREY, label=None if i else "decoder")
    axes.set_yticks(
        range(len(report.rows)),
        [f"{report.label(row)}, batch {row.setting.batch}" for row in report.rows],
        fontsize=8,
    )
    axes.invert_yaxis()
    axes.set_xlabel("seconds a batch")
    axes.legend()


def _scales(axes: Any, report: Report) -> None:
    """Of the first bundle, backend and batch: the drafter's scales blue, the refiner's orange."""
    first, sides = report.rows[0].setting, report.manifest(report.rows[0]).schedule
    place = (first.engines, first.backend, first.batch)
    rows = [row for row in report.rows if (row.setting.engines, row.setting.backend, row.setting.batch) == place]
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        positions = np.arange(len(row.scales)) + (i - (len(rows) - 1) / 2) * width
        colours = [BLUE if scale < row.setting.n_draft else ORANGE for scale in range(len(row.scales))]
        axes.bar(positions, row.scales, width * 0.9, color=colours, alpha=0.4 + 0.6 * (i + 1) / len(rows))
    axes.set_xticks(range(len(sides)), [f"{side}×{side}" for side in sides])
    axes.set_ylabel("seconds")
    names = ", ".join(report.name(row) for row in rows)
    title = f"{first.backend}, batch {first.batch}; blue drafter, orange refiner; at each scale: {names}"
    axes.set_title(textwrap.fill(title, 110), fontsize=9)


def _memory(axes: Any, report: Report) -> None:
    rows = [row for row in report.rows if row.setting.backend not in EAGERS]
    for label in dict.fromkeys(map(report.label, rows)):
        points = [
            (row.setting.batch, (row.peak if row.device_memory is None else row.device_memory) / 1e9)
            for row in rows
            if report.label(row) == label
        ]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set_xlabel("batch")
    axes.set_ylabel("peak GB, weights included")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _spectrum(axes: Any, report: Report) -> None:
    if report.spectrum is None:
        return
    axes.plot(report.spectrum.frequencies, report.spectrum.first, label="first three scales", color=BLUE)
    axes.plot(report.spectrum.frequencies, report.spectrum.last, label="last three scales", color=ORANGE)
    axes.set_xlabel("cycles a pixel")
    axes.set_ylabel("log10 amplitude")
    axes.legend()
