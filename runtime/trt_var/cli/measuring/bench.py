"""``trt-var bench``: the paper's tables and figures on the machine at hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trt_var.backends.installed import needed
from trt_var.cli import options as arguments
from trt_var.errors import BackendError, UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trt_var.bench.measure import Models, Row, Setting
    from trt_var.bench.report import Spectrum
    from trt_var.bundle.manifest import Manifest

LAST_N, MAX_REPEATS = 4, 1000


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Measure bundles as the CoDe paper does: every N and batch in a process of its own, medians over the repeats, with "
        "the decoder and without. Writes report.md, report.json and plots into a folder. Leave the machine alone meanwhile.",
        "bench --batch 1,4 --compare eager --out report",
        "bench --engines engines/d30-d16 --engines engines/d30-d16-int8 --backend onnxruntime,openvino --n-draft 10,8,6,0",
        "bench --engines digits --repeats 1 --json   # for a program",
    )
    parser.add_argument(
        "--engines",
        type=expanded,
        action="append",
        metavar="DIR",
        help=f"the bundle, or digits; several for one report (default: {arguments.DEFAULT})",
    )
    parser.add_argument("--backend", default="auto", metavar="A,B,…", help=f"of {', '.join(arguments.BACKENDS)}")
    arguments.add_threads(parser, ", and of eager PyTorch (default: its own choice)")
    parser.add_argument(
        "--n-draft",
        type=arguments.whole_numbers,
        metavar="N,N,…",
        help="default: the last four of what is served, and both plain models",
    )
    arguments.add_guidance(parser)
    parser.add_argument("--batch", type=arguments.whole_numbers, default="1", metavar="B,B,…", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, metavar="n", help="after a first request (default: 3)")
    eager = "also eager PyTorch doing what the published code does: eager, or eager-bf16 in bfloat16, or both"
    parser.add_argument("--compare", default="", metavar="A,B", help=eager)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of eager PyTorch (default: cpu)")
    parser.add_argument(
        "--spectrum", type=int, default=8, metavar="n", help="images of the Fourier figure, 0 for none (default: 8)"
    )
    parser.add_argument("--out", type=expanded, default=Path("bench"), metavar="DIR", help="folder (default: %(default)s)")
    arguments.add_json(parser, "also print report.json's object, and nothing else, on standard output")
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> None:
    from trt_var.bench import measure, report
    from trt_var.bundle.opening import Bundle

    report.check_plots()
    manifests = {str(folder): Bundle.open(folder).manifest for folder in options.engines or [arguments.DEFAULT]}
    settings = _settings(options, manifests)
    eager = _eager(options, manifests.values()) if options.compare else ""
    report.check_folder(options.out)
    found = report.Report(measure.machine(), shlex.join(["trt-var", *sys.argv[1:]]), manifests, [], None)
    shown = sys.stderr if options.json else sys.stdout
    rows = _measure(settings, eager, lambda rows: report.write_tables(replace(found, rows=rows), options.out), shown)
    curves = _curves(options, settings[0], next(iter(manifests.values())))
    written = report.write(replace(found, rows=rows, spectrum=curves), options.out)
    if options.json:
        print((options.out / "report.json").read_text("utf-8"), end="")
    else:
        print("\n".join(map(str, written)))


def _eager(options: argparse.Namespace, manifests: Iterable[Manifest]) -> str:
    """The module that measures eager PyTorch, once it has looked at what it is to measure."""
    with needed("to measure eager PyTorch takes PyTorch, which", ("torch",), "pip install 'trt-var[export]'"):
        from trt_var_export.eager import measure as eager
    for manifest in manifests:
        eager.check(manifest, options.device)
    return eager.__name__


def _measure(settings: list[Setting], eager: str, keep: Callable[[list[Row]], list[Path]], shown: TextIO) -> list[Row]:
    """Every row; kept after each, so that one that fails loses none."""
    from tqdm import tqdm

    from trt_var.bench import measure

    rows: list[Row] = []
    kept: list[Path] = []
    with tqdm(settings, unit="row", disable=None) as bar:
        for setting in bar:
            try:
                module = eager if setting.backend in measure.EAGERS else measure.__name__
                rows.append(measure.in_process(setting, module))
            except BackendError as error:
                raise BackendError(f"{error}{f'; the rows before it are in {kept[0]}' if kept else ''}") from error
            kept = keep(rows)
            bar.write(_line(rows[-1]), file=shown)
    return rows


def _curves(options: argparse.Namespace, first: Setting, manifest: Manifest) -> Spectrum | None:
    from trt_var import Pipeline
    from trt_var.bench import report

    if not options.spectrum:
        return None
    with Pipeline.load(first.engines, options.backend.split(",")[0], threads=options.threads) as pipeline:
        return report.spectrum(pipeline, max(first.n_draft, min(manifest.serves)), options.spectrum)


def _settings(options: argparse.Namespace, manifests: Mapping[str, Manifest]) -> list[Setting]:
    """What to measure: every batch, bundle, N that it serves, and backend; eager PyTorch once for bundles of like models."""
    from trt_var.bench.measure import Setting, models

    backends, compared = _checked(options, manifests)
    chosen: dict[str, list[int]] = {}
    eager: dict[str, Models] = {}
    for folder, manifest in manifests.items():
        served = manifest.serves
        chosen[folder] = [n for n in dict.fromkeys(options.n_draft or _usual(served)) if n in served]
        if not chosen[folder]:
            raise UsageError(f"{folder} serves {', '.join(map(str, served))}, none of --n-draft; leave it out, or add one")
        if compared and not any(models(manifest).alike(other) for other in eager.values()):
            eager[folder] = models(manifest)
    return [
        Setting(folder, backend, n_draft, batch, options.repeats, options.device, options.threads, *_guidance(options))
        for batch in dict.fromkeys(options.batch)
        for folder in manifests
        for n_draft in chosen[folder]
        for backend in (*backends, *(compared if folder in eager else ()))
    ]


def _guidance(options: argparse.Namespace) -> tuple[float, int | None, int | None]:
    from trt_var.decoding.sampling import Sampling

    return Sampling.cfg if options.cfg is None else options.cfg, options.guided_scales, options.scales


def _usual(served: tuple[int, ...]) -> list[int]:
    """The last few of what is served, and both plain models."""
    return sorted({*served[-LAST_N - 1 :], *({0} & set(served))}, reverse=True)


def _checked(options: argparse.Namespace, manifests: Mapping[str, Manifest]) -> tuple[list[str], list[str]]:
    """The backends, and what they are compared with.

    Raises:
        UsageError: an option out of range.
    """
    from trt_var.backends.threads import checked
    from trt_var.bench.measure import EAGERS, Setting
    from trt_var.bundle.memory import MAX_BATCH

    checked(options.threads)
    served = sorted({n for manifest in manifests.values() for n in manifest.serves})
    unknown = sorted(set(options.n_draft or ()) - set(served))
    if unknown:
        who = "this bundle serves" if len(manifests) == 1 else "these bundles serve"
        raise UsageError(f"--n-draft lists {', '.join(map(str, unknown))}; {who} {', '.join(map(str, served))}")
    if not all(1 <= batch <= MAX_BATCH for batch in options.batch):
        raise UsageError(f"--batch lists {', '.join(map(str, options.batch))}; expected 1 to {MAX_BATCH}")
    if not 1 <= options.repeats <= MAX_REPEATS:
        raise UsageError(f"--repeats is {options.repeats}; expected 1 to {MAX_REPEATS}")
    if not 0 <= options.spectrum <= MAX_BATCH:
        raise UsageError(f"--spectrum is {options.spectrum}; expected 0 to {MAX_BATCH}")
    compared = _listed("--compare", options.compare, EAGERS) if options.compare else []
    if compared and (options.scales is not None or options.guided_scales is not None):
        raise UsageError("the published code draws all scales, all guided alike: --compare, or --scales and --guided-scales")
    for manifest in manifests.values():
        sampling = Setting("", "", 0, 1, 1, "cpu", None, *_guidance(options)).sampling(manifest.max_top_k)
        sampling.check(len(manifest.schedule), manifest.max_top_k)
    return _listed("--backend", options.backend, arguments.BACKENDS), compared


def _listed(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Names separated by commas, each once."""
    names = list(dict.fromkeys(text.split(",")))
    if strangers := sorted(set(names) - set(known)):
        raise UsageError(f"{option} lists {', '.join(strangers)}; expected {', '.join(known)}")
    return names


def _line(row: Row) -> str:
    setting = row.setting
    return (
        f"{setting.engines} {setting.backend:12} N={setting.n_draft:<2} batch {setting.batch:<3} {row.total:7.2f} s, "
        f"{row.total / setting.batch:.2f} each, decoder {row.decoder:.2f} s, "
        f"first {row.first:.2f} s, peak {row.peak / 1e9:.1f} GB"
        + ("" if row.added is None else f", requests add {row.added / 1e9:.2f}")
    )
