"""``trt-var load``: requests to a running service, on a schedule that waits for nothing."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

from trt_var.backends.installed import needed
from trt_var.cli import options as arguments
from trt_var.errors import DataError, UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.serving.load.mix import Mix, NDraft
    from trt_var.serving.load.plan import Arrivals
    from trt_var.serving.load.run import Going, Run
    from trt_var.serving.load.service import Model, Target
    from trt_var.serving.load.verify import Verification

DURATION, GRACE, MAX_PATIENCE, MAX_KEEP = 10.0, 30.0, 3600.0, 65_536.0


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Send requests to a trt-var service when they are due, whatever became of those before (open loop). "
        "Latency counts from when a request was due. Several rates run one after another. Prints Markdown.",
        "load http://127.0.0.1:8080 --rate 2,4,8 --duration 30 --objective 2 --out load.json",
        "load http://127.0.0.1:8080 --requests 200 --n-draft auto --stream 0.2 --against digits",
    )
    parser.add_argument("url", metavar="URL", help="http://HOST:PORT of trt-var serve")
    _add_arrivals(parser)
    _add_mix(parser)
    parser.add_argument("--api-key-file", type=expanded, metavar="FILE", help="holds the key, or 'name key', on a line")
    parser.add_argument("--timeout", type=float, metavar="s", help="sent with each request as its deadline")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="s",
        help=f"seconds until a request is given up as lost (default: 60, or --timeout and {GRACE:g})",
    )
    parser.add_argument("--objective", type=float, metavar="s", help="latency within which an answer counts for goodput")
    kept = "megabytes of answers that are read after the run alone, and compared by --against (default: 1024)"
    parser.add_argument("--keep", type=float, default=1024.0, metavar="MB", help=kept)
    parser.add_argument(
        "--against",
        "--verify",
        dest="verify",
        type=expanded,
        metavar="DIR",
        help="afterwards, draw every returned picture with this bundle, which must be the one that is served, and compare",
    )
    parser.add_argument(
        "--backend", choices=arguments.BACKENDS, default="auto", help="that --against draws on (default: the service's)"
    )
    parser.add_argument("--out", type=expanded, metavar="FILE", help="all numbers as JSON")
    plots = "latency and goodput over the rate, or of a single rate its course; needs trt-var[bench]"
    parser.add_argument("--plot", type=expanded, metavar="FILE", help=plots)
    parser.set_defaults(command=_load)


def _add_arrivals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate", type=_rates, default=(10.0,), metavar="R,R,…", help="requests a second, one after another (default: 10)"
    )
    parser.add_argument("--duration", type=float, metavar="s", help=f"seconds of each rate (default: {DURATION:g})")
    parser.add_argument("--requests", type=int, metavar="n", help="so many of each rate, instead of --duration")
    bursts = "shape of the gamma distribution of intervals; 1: Poisson, less: in bursts, more: evenly (default: 1)"
    parser.add_argument("--burstiness", type=float, default=1.0, metavar="k", help=bursts)


def _add_mix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--n-draft",
        type=_n_drafts,
        default=((None, 1.0),),
        metavar="N[:w],…",
        help="numbers, auto, or ranges such as 2-5, with weights: 4:3,2-5:1 (default: what the service takes)",
    )
    arguments.add_seed(parser, "of schedule and mix; image i has seed S + i")
    parser.add_argument(
        "--sampling",
        action="append",
        metavar="JSON",
        help="""settings, such as '{"cfg": 0, "temperature": 1.1}' or '{"preset": "code"}'; of several, each as often""",
    )
    parser.add_argument(
        "--images", type=_counts, default=((1, 1.0),), metavar="n[:w],…", help="a request, with weights (default: 1)"
    )
    parser.add_argument("--stream", type=float, default=0.0, metavar="SHARE", help="of requests that stream, one image each")
    parser.add_argument("--partial-images", type=int, default=2, metavar="n", help="previews of a stream (default: 2)")
    parser.add_argument(
        "--disconnect", type=float, default=0.0, metavar="SHARE", help="of clients that go before the answer"
    )
    after = "seconds after which they go at most (default: twice what an image takes)"
    parser.add_argument("--disconnect-after", type=float, metavar="s", help=after)
    parser.add_argument("--rubbish", type=float, default=0.0, metavar="SHARE", help="of invalid bodies; expected answer 4xx")
    parser.add_argument("--format", choices=("png", "jpeg", "webp"), default="png", help="of the pictures (default: png)")


def _load(options: argparse.Namespace) -> None:
    import msgspec
    from tqdm import tqdm

    from trt_var.files.outputs import check_targets

    with needed("load needs aiohttp, which", ("aiohttp",), "pip install 'trt-var[load]'"):
        import aiohttp  # noqa: F401
    from trt_var.serving.load import counting, plot, report, run
    from trt_var.serving.load.plan import plans

    arrivals, mix = _arrivals(options), _mix(options)
    target, going = _target(options), _going(options)
    check_targets([options.plot], files=[options.out])
    if options.plot:
        plot.check_plots()
    model = run.ask(target)
    planned = plans(arrivals, mix, model)
    if options.verify:
        _check_bundle(options, mix, model)
    with tqdm(total=sum(len(plan.requests) for plan in planned), unit="request", disable=None) as bar:
        runs = run.go(target, planned, going, bar.update)
    rows = [counting.row(one, options.objective) for one in runs]
    command = shlex.join(["trt-var", *sys.argv[1:]])
    found = report.Report(target.url, model, command, _settings(options), options.objective, rows)
    if options.plot:
        plot.plot(found, options.plot)
    if options.out:
        report.write(found, options.out)  # already now: verifying takes longer than offering, and may be interrupted
    if options.verify:
        found = msgspec.structs.replace(found, verification=_verified(options, mix, model, runs))
        if options.out:
            report.write(found, options.out)
    print(report.markdown(found), end="")
    if found.verification and found.verification.outside:
        outside, promised = found.verification.outside, found.verification.promised
        raise DataError(f"{outside} of {promised} pictures are not those that {options.verify} draws")


def _check_bundle(options: argparse.Namespace, mix: Mix, model: Model) -> None:
    from trt_var.bundle.opening import Bundle
    from trt_var.serving.load import verify

    verify.check(Bundle.open(options.verify).manifest, model, mix)


def _verified(options: argparse.Namespace, mix: Mix, model: Model, runs: list[Run]) -> Verification:
    """Draw and compare: on the service's backend, and each image alone where the service draws it so."""
    from tqdm import tqdm

    from trt_var.pipeline import Pipeline
    from trt_var.serving.load import verify

    backend = verify.backend_of(model) if options.backend == "auto" else options.backend
    alone = model.reproducible == verify.IMAGES
    with (
        Pipeline.load(options.verify, backend, batch_invariant=alone) as pipeline,
        tqdm(total=verify.count(runs), unit="image", desc="verifying", disable=None) as bar,
    ):
        return verify.verify(pipeline, str(options.verify), mix, runs, bar.update)


def _arrivals(options: argparse.Namespace) -> Arrivals:
    from trt_var.serving.load.plan import Arrivals

    duration = DURATION if options.duration is None and options.requests is None else options.duration
    return Arrivals(options.rate, duration, options.requests, options.burstiness, options.seed)


def _mix(options: argparse.Namespace) -> Mix:
    from trt_var.serving.load.mix import Mix

    _check("--disconnect-after", options.disconnect_after, MAX_PATIENCE)
    given = [_settings_object(text) for text in options.sampling or ["{}"]]
    return Mix(
        options.n_draft,
        given,
        options.images,
        options.stream,
        options.partial_images,
        options.disconnect,
        options.disconnect_after,
        options.rubbish,
        options.format,
    )


def _target(options: argparse.Namespace) -> Target:
    from trt_var.serving.load.service import Target, checked_url, read_key

    _check("--timeout", options.timeout, MAX_PATIENCE)
    key = None if options.api_key_file is None else read_key(options.api_key_file)
    return Target(checked_url(options.url), key, options.timeout)


def _going(options: argparse.Namespace) -> Going:
    from trt_var.serving.load.run import Going

    _check("--patience", options.patience, MAX_PATIENCE)
    _check("--objective", options.objective, MAX_PATIENCE)
    if not 0 <= options.keep <= MAX_KEEP:
        raise UsageError(f"--keep is {options.keep:g}; expected 0 to {MAX_KEEP:g} megabytes")
    patience = options.patience or (Going.patience if options.timeout is None else options.timeout + GRACE)
    return Going(patience, options.keep)


def _check(option: str, seconds: float | None, most: float) -> None:
    if seconds is not None and not 0 < seconds <= most:
        raise UsageError(f"{option} is {seconds:g}; expected more than 0, and at most {most:g} seconds")


def _settings_object(text: str) -> dict[str, Any]:
    import msgspec

    from trt_var.serving.load.service import UNREADABLE

    try:
        found: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE as error:
        raise UsageError(f"--sampling is {text[:40]!r}, no JSON object: {error}") from error
    return found


def _settings(options: argparse.Namespace) -> dict[str, str]:
    """What was offered, for the report; what was left out is not in it."""
    shape = "a Poisson process" if options.burstiness == 1 else f"gamma intervals of shape {options.burstiness:g}"
    n_draft = ", ".join(
        f"{'the default' if n is None else '-'.join(map(str, n)) if isinstance(n, tuple) else n} ({weight:g})"
        for n, weight in options.n_draft
    )
    found = {
        "arrivals": f"{shape}, seed {options.seed}",
        "N (weight)": n_draft,
        "settings": " | ".join(options.sampling or ["the default"]),
        "images a request (weight)": ", ".join(f"{count} ({weight:g})" for count, weight in options.images),
    }
    if options.stream:
        found["streams"] = f"{options.stream:.0%}, {options.partial_images} previews"
    if options.disconnect:
        found["clients that go"] = f"{options.disconnect:.0%}"
    if options.rubbish:
        found["invalid bodies"] = f"{options.rubbish:.0%}"
    if options.timeout is not None:
        found["deadline"] = f"{options.timeout:g} s"
    return found


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected numbers separated by commas") from None


def _weighted(text: str, hint: str) -> list[tuple[str, float]]:
    """Values with their weights, 1 where none is given."""
    found = []
    for part in text.split(","):
        value, _, weight = part.strip().partition(":")
        if not re.fullmatch(r"([0-9]{1,6}(\.[0-9]{1,6})?)?", weight) or (weight and not float(weight)):
            raise argparse.ArgumentTypeError(f"{part[:40]!r} has no positive weight; expected {hint}")
        found.append((value, float(weight or 1)))
    return found


def _counts(text: str) -> list[tuple[int, float]]:
    hint = "whole numbers, with weights or not: 1:9,4:1"
    found = _weighted(text, hint)
    if not all(re.fullmatch("[0-9]{1,6}", value) for value, _ in found):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected {hint}")
    return [(int(value), weight) for value, weight in found]


def _n_drafts(text: str) -> list[tuple[NDraft, float]]:
    hint = "numbers, auto or ranges, with weights or not: 4:3,2-5:1,auto"
    found: list[tuple[NDraft, float]] = []
    for value, weight in _weighted(text, hint):
        numbers = re.fullmatch("([0-9]{1,3})(?:-([0-9]{1,3}))?", value)
        if value != "auto" and not numbers:
            raise argparse.ArgumentTypeError(f"{value[:40]!r}; expected {hint}")
        if not numbers:
            found.append((value, weight))
        elif numbers[2] is None:
            found.append((int(numbers[1]), weight))
        else:
            found.append(((int(numbers[1]), int(numbers[2])), weight))
    return found
