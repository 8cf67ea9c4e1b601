"""``trt-var eval``: how good the images are, how far two ways of drawing agree, and files for published evaluators."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.errors import OutputError, UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.pipeline import Pipeline
    from trt_var.quality.evaluation import Agreement
    from trt_var.quality.samples import Series

ROUNDS, MAX_ROUNDS = 3, 100


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Without a choice: draw images of every class and have the bundle's judge, a classifier of real pictures, say how "
        "many show their class, and how far they are from real ones (Fréchet distance). With --against or "
        "--against-backend: compare tokens and pictures with another bundle or backend. With --adm-npz: write the samples "
        "file of the ADM evaluator. With --fidelity: FID and Inception Score through torch-fidelity.",
        "eval --engines digits --n-draft 0,4,6",
        "eval --engines engines/d30-d16-int8 --against engines/d30-d16 --per-class 1 --out agreement.json",
        "eval --per-class 50 --fidelity imagenet/val --resize --drawings drawings",
    )
    arguments.add_engines(parser)
    parser.add_argument("--per-class", type=int, default=20, metavar="n", help="images a class (default: %(default)s)")
    parser.add_argument("--rounds", type=int, metavar="n", help=f"repetitions with other seeds (default: {ROUNDS})")
    parser.add_argument(
        "--n-draft", type=arguments.whole_numbers, metavar="N,N,…", help="one or several (default: all scales but two)"
    )
    arguments.add_seed(parser)
    arguments.add_sampling(parser)
    arguments.add_batch_size(parser, 50)
    parser.add_argument("--judge", type=expanded, metavar="DIR", help="a bundle whose judge to ask instead of its own")
    parser.add_argument("--against", type=expanded, metavar="DIR", help="another bundle, e.g. of another precision")
    parser.add_argument("--against-backend", choices=arguments.BACKENDS, help="another backend")
    parser.add_argument("--fidelity", type=expanded, metavar="DIR", help="real pictures to compare with (trt-var[metrics])")
    parser.add_argument(
        "--drawings",
        type=expanded,
        metavar="DIR",
        help="for --fidelity: keep the drawn pictures here, and go on with those (default: until the figures are there)",
    )
    parser.add_argument("--resize", action="store_true", help="for --fidelity: cut real pictures to the drawn ones' size")
    figures = "all figures as JSON"
    parser.add_argument("--out", "--json", type=expanded, dest="json", metavar="FILE", help=figures)
    parser.add_argument(
        "--adm-npz", type=expanded, metavar="FILE", help="arr_0, uint8 [classes · per class, H, W, 3], mixed"
    )
    parser.set_defaults(command=_eval)


def _eval(options: argparse.Namespace) -> None:
    from trt_var.bundle.manifest import identity
    from trt_var.files.outputs import check_targets

    _check(options)
    check_targets(files=[options.adm_npz, options.json], folders=[options.drawings])
    with arguments.pipeline(options) as pipeline:
        print(f"{options.engines} on {pipeline.backend}")
        for n_draft in _drafts(options, pipeline):
            _series(options, pipeline, n_draft).check(pipeline, options.rounds)
        report = _work(options)(options, pipeline)
        told = {"engines": str(options.engines), "bundle": identity(pipeline.manifest), "backend": pipeline.backend}
    if options.json:
        _write(options.json, report | told)


def _write(path: Path, report: dict[str, Any]) -> None:
    from trt_var.files.writing import replacing

    try:
        text = json.dumps(report, indent=2, allow_nan=False)
    except ValueError as error:
        raise OutputError(f"cannot write {path}: a figure is not finite, which JSON has no number for") from error
    with replacing(path) as file:
        file.write(text.encode() + b"\n")


def _check(options: argparse.Namespace) -> None:
    chosen = [name for name in ("adm_npz", "fidelity", "judge") if getattr(options, name)]
    chosen += ["against"] if options.against or options.against_backend else []
    if len(chosen) > 1:
        raise UsageError(f"--{' and --'.join(chosen)} do not go together; run them one by one".replace("_", "-"))
    if (options.drawings or options.resize) and not options.fidelity:
        raise UsageError("--drawings and --resize belong to --fidelity")
    if options.rounds is not None and (options.adm_npz or options.fidelity):
        raise UsageError("--rounds repeats what a judge says; it does not go with --adm-npz or --fidelity")
    options.rounds = ROUNDS if options.rounds is None else options.rounds
    if not 1 <= options.rounds <= MAX_ROUNDS:
        raise UsageError(f"--rounds is {options.rounds}; expected 1 to {MAX_ROUNDS}")


def _work(options: argparse.Namespace) -> Callable[[argparse.Namespace, Pipeline], dict[str, Any]]:
    if options.adm_npz:
        return _samples
    if options.fidelity:
        return _fidelity
    return _agreement if options.against or options.against_backend else _quality


def _quality(options: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    from dataclasses import replace

    from trt_var.bundle.opening import Bundle
    from trt_var.quality.evaluation import Judge, measure, spread

    judge = Judge(Bundle.open(options.judge or options.engines))
    print(f"judge: {judge.accuracy:.1%} of held-out real pictures right; {options.rounds} rounds, mean ± deviation")
    print("   N  judged right    Fréchet distance  ms an image")
    rows: list[dict[str, Any]] = []
    count = options.per_class * judge.classes
    for n_draft in _drafts(options, pipeline):
        series = _series(options, pipeline, n_draft)
        with _bar(options.rounds * count, f"N={n_draft}") as bar:
            found = [
                measure(pipeline, judge, replace(series, seed=seed), bar.update)
                for seed in range(options.seed, options.seed + options.rounds * count, count)
            ]
        row = {name: spread([getattr(quality, name) for quality in found]) for name in ("accuracy", "frechet", "seconds")}
        right, distance, time = row["accuracy"], row["frechet"], row["seconds"]
        print(
            f"{n_draft:4}  {right.mean:6.1%} ± {right.deviation:4.1%}  {distance.mean:8.2f} ± {distance.deviation:5.2f}"
            f"  {time.mean * 1000:11.1f}"
        )
        rows.append({"n_draft": n_draft, **{name: value._asdict() for name, value in row.items()}})
    return {"judge_accuracy": judge.accuracy, "per_class": options.per_class, "rounds": options.rounds, "quality": rows}


def _agreement(options: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    from trt_var.pipeline import Pipeline as Other
    from trt_var.quality.evaluation import agreement
    from trt_var.requests.checking import MAX_IMAGES

    settings = arguments.sampling(options, pipeline.manifest)
    if settings.more_smooth:
        raise UsageError("--more-smooth does not go with --against: its pictures are not made of tokens")
    labels = _series(options, pipeline, 0).labels(pipeline).tolist()
    if len(labels) > MAX_IMAGES:
        raise UsageError(
            f"{len(labels)} images; two ways of drawing are compared in at most {MAX_IMAGES}: lower --per-class"
        )
    rows = []
    bundle, backend = options.against or options.engines, options.against_backend or options.backend
    with Other.load(bundle, backend, batch_invariant=options.batch_invariant) as other:
        for n_draft in _drafts(options, pipeline):
            _series(options, pipeline, n_draft).check(other)
        print(f"against {bundle} on {other.backend}, {len(labels)} images")
        print("   N  drawn freely: tokens  images    PSNR   on equal history: tokens    PSNR")
        for n_draft in _drafts(options, pipeline):
            asked: dict[str, Any] = {"seeds": options.seed, "n_draft": n_draft, "sampling": settings}
            asked["batch_size"] = options.batch_size
            with _bar(3 * len(labels), f"N={n_draft}") as bar:
                expected = other.generate(labels, **asked, progress=bar.update)
                free = agreement(pipeline.generate(labels, **asked, progress=bar.update), expected)
                forced_images = pipeline.generate(labels, **asked, teacher=expected.tokens, progress=bar.update)
            forced = agreement(forced_images, expected)
            print(
                f"{n_draft:4}  {free.tokens:20.2%}  {free.images:6.1%}  {_decibels(free)}  "
                f"{forced.tokens:23.2%}  {_decibels(forced)}"
            )
            rows.append({"n_draft": n_draft, "free": free.as_json(), "equal_history": forced.as_json()})
        against = {"engines": str(bundle), "backend": other.backend}
    return {"against": against, "images": len(labels), "agreement": rows}


def _samples(options: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    from trt_var.quality.samples import write_adm

    series = _series(options, pipeline, _single(options, pipeline))
    total = len(series.labels(pipeline))
    with _bar(total, "samples") as bar:
        write_adm(options.adm_npz, pipeline, series, bar.update)
    print(f"{options.adm_npz}: {total} images of N = {series.n_draft}")
    return {"samples": total, "n_draft": series.n_draft}


def _fidelity(options: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    from trt_var_export.fidelity import fidelity

    series = _series(options, pipeline, _single(options, pipeline))
    with _bar(len(series.labels(pipeline)), "samples") as bar:
        found = fidelity(
            options.fidelity, pipeline, series, bar.update, options.drawings, options.resize, lambda text: bar.write(text)
        )
    for metric, value in found.items():
        print(f"{metric:32} {value:.4f}")
    return {"n_draft": series.n_draft, "metrics": found}


def _series(options: argparse.Namespace, pipeline: Pipeline, n_draft: int) -> Series:
    from trt_var.quality.samples import Series

    settings = arguments.sampling(options, pipeline.manifest)
    return Series(n_draft, options.per_class, options.seed, settings, options.batch_size)


def _drafts(options: argparse.Namespace, pipeline: Pipeline) -> list[int]:
    from trt_var.bundle.manifest import default_n_draft

    return options.n_draft or [default_n_draft(pipeline.manifest)]


def _single(options: argparse.Namespace, pipeline: Pipeline) -> int:
    drafts = _drafts(options, pipeline)
    if len(drafts) != 1:
        raise UsageError(f"--n-draft lists {len(drafts)} values; a samples file is of one")
    return drafts[0]


def _decibels(found: Agreement) -> str:
    return f"{found.psnr:3.0f} dB"


def _bar(total: int, name: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit="image", disable=None, leave=False)
