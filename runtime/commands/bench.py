"""``trt-var bench``: the paper's tables and figures on the machine at hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.commands import arguments
from trt_var.errors import UsageError

if TYPE_CHECKING:
    from trt_var.manifest import Manifest
    from trt_var.measure import Setting

LAST_N = 4


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="measure latency, throughput and memory; a report with tables and plots",
        description="Measure a bundle as the CoDe paper does: every N and batch in a process of its own, medians over the "
        "repeats, with the decoder and without. Writes report.md, report.json and plots into a folder. Leave the machine "
        "alone meanwhile.",
    )
    parser.add_argument("--engines", type=Path, default=Path("engines/d30-d16"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--backend", default="auto", metavar="A[,B…]", help=f"of {', '.join(arguments.BACKENDS)}")
    parser.add_argument(
        "--n-draft", type=_numbers, metavar="N[,N…]", help="default: the last four of what is served, and both plain models"
    )
    parser.add_argument("--batch", type=_numbers, default="1", metavar="B[,B…]", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, metavar="n", help="after a first request (default: 3)")
    parser.add_argument("--compare", choices=("eager",), help="also eager PyTorch doing what the published code does")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of eager PyTorch (default: cpu)")
    parser.add_argument("--spectrum", type=int, default=8, metavar="n", help="images of the Fourier figure, 0 for none")
    parser.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR", help="folder (default: %(default)s)")
    parser.set_defaults(command=_bench, name=name)


def _bench(options: argparse.Namespace) -> None:
    from tqdm import tqdm
    from trt_var import Pipeline, measure, report
    from trt_var.bundle import Bundle

    report.check_plots()
    manifest = Bundle.open(options.engines).manifest
    settings = _settings(options, manifest)
    _make(options.out)
    rows = []
    with tqdm(settings, unit="row", disable=None) as bar:
        for setting in bar:
            rows.append(measure.in_process(setting))
            bar.write(_line(rows[-1]))
    curves = None
    if options.spectrum:
        with Pipeline.load(options.engines, options.backend.split(",")[0]) as pipeline:
            curves = report.spectrum(pipeline, max(settings[0].n_draft, min(manifest.serves)), options.spectrum)
    command = shlex.join(["trt-var", *sys.argv[1:]])
    written = report.write(report.Report(measure.machine(), command, manifest, rows, curves), options.out)
    print("\n".join(map(str, written)))


def _settings(options: argparse.Namespace, manifest: Manifest) -> list[Setting]:
    from trt_var.measure import EAGER, Setting
    from trt_var.requests import MAX_BATCH

    served = manifest.serves
    chosen = options.n_draft or sorted({*served[-LAST_N - 1 :], *({0} & set(served))}, reverse=True)
    unknown = sorted(set(chosen) - set(served))
    if unknown:
        raise UsageError(f"--n-draft lists {unknown}; this bundle serves {', '.join(map(str, served))}")
    if not all(1 <= batch <= MAX_BATCH for batch in options.batch):
        raise UsageError(f"--batch lists {options.batch}; expected 1 to {MAX_BATCH}")
    if options.repeats < 1 or not 0 <= options.spectrum <= MAX_BATCH:
        raise UsageError(f"--repeats is {options.repeats}, --spectrum {options.spectrum}; expected 1, and 0 to {MAX_BATCH}")
    backends = options.backend.split(",")
    strangers = sorted(set(backends) - set(arguments.BACKENDS))
    if strangers:
        raise UsageError(f"--backend lists {', '.join(strangers)}; expected {', '.join(arguments.BACKENDS)}")
    backends += [EAGER] if options.compare else []
    return [
        Setting(str(options.engines), backend, n_draft, batch, options.repeats, options.device)
        for batch in options.batch
        for n_draft in chosen
        for backend in backends
    ]


def _make(folder: Path) -> None:
    from trt_var.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error


def _line(row: Any) -> str:
    setting = row.setting
    return (
        f"{setting.backend:12} N={setting.n_draft:<2} batch {setting.batch:<3} {row.total:7.2f} s, "
        f"{row.total / setting.batch:.2f} each, decoder {row.decoder:.2f} s, "
        f"first {row.first:.2f} s, peak {row.peak / 1e9:.1f} GB"
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
