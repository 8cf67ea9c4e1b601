"""``trt-var plan --fleet``: how many devices a load needs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.errors import DeadlineError, UsageError

if TYPE_CHECKING:
    from trt_var.bundle.manifest import Manifest
    from trt_var.serving.batching.times import Times
    from trt_var.serving.fleet import Demand

OBJECTIVE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?):(\d{1,4}(?:\.\d{1,4})?)")
SIZES = tuple(1 << i for i in range(9))
MOST_RATE, MEASURED, HOURS = 1e5, "as measured", 24


def add(parser: argparse.ArgumentParser) -> None:
    """The options of a fleet."""
    group = parser.add_argument_group(
        "fleet", "how many devices serve a load, by simulation of the service (trt-var serve, a device a replica)"
    )
    group.add_argument("--fleet", action="store_true", help="plan for --rate and --objective")
    group.add_argument("--rate", type=float, metavar="R", help="requests a second, of one image each")
    quantile = "p95:2 is 95%% answered within 2 s of arrival (default: %(default)s)"
    group.add_argument("--objective", default="p95:2", metavar="pQ:S", help=quantile)
    group.add_argument("--devices", metavar="GPU,GPU,…", help="as --device, several; or --report with times of your own")
    share = "share of a device's peak rates that is reached (default: %(default)g; TensorRT and torch reach less than all)"
    group.add_argument("--of-peak", type=float, default=0.5, metavar="x", help=share)
    group.add_argument("--n-draft-floor", type=int, metavar="N", help="load may choose N down to this (default: it may not)")
    group.add_argument(
        "--day", action="store_true", help="also devices by the hour, of a load between a quarter and all of it"
    )
    group.add_argument("--price", default="", metavar="GPU=P,…", help="of a device an hour")


def plan(options: argparse.Namespace, manifest: Manifest) -> None:
    """Print what each device needs, or all of it as JSON.

    Raises:
        UsageError: values out of range, or a demand that nothing meets.
    """
    demand = _demand(options)
    levels = _levels(options, manifest)
    prices = dict(_prices(options.price))
    asked = {"engines": str(options.engines), "rate": demand.rate, "quantile": demand.quantile, "seconds": demand.seconds}
    devices = (_device(options, manifest, demand, levels, prices, one) for one in _times(options, manifest, levels))
    if options.json:
        arguments.print_json({**asked, "devices": list(devices)})
        return
    share = f"{100 * demand.quantile:.4g} % of them within {demand.seconds:g} s"
    print(f"{options.engines}: {demand.rate:g} images a second, {share}")
    print("device          devices  N     batch  p50 s  p95 s  p99 s  busy  | one lost for 60 s: late, resent, spare")
    for one in devices:
        _print(one)


def _device(
    options: argparse.Namespace,
    manifest: Manifest,
    demand: Demand,
    levels: tuple[int, ...],
    prices: dict[str, float],
    given: tuple[str, str, Times],
) -> dict[str, Any]:
    """What one kind of device needs; docs/reference/shell.md says what the fields mean."""
    from trt_var.serving import fleet

    name, origin, times = given
    try:
        found = fleet.least(manifest, times, demand, levels)
    except (UsageError, DeadlineError) as error:
        return {"device": name, "origin": origin, "error": str(error)}
    lost = fleet.failure(manifest, times, demand, found)
    hours = fleet.day(manifest, times, demand, found) if options.day else None
    costs = None
    if name in prices:
        costs = {
            "day": prices[name] * sum(hours or [found.devices] * HOURS),
            "thousand_images": 1000 * prices[name] * found.devices / (3600 * demand.rate),
        }
    return {
        "device": name,
        "origin": origin,
        "error": None,
        "devices": found.devices,
        "mean_n": found.mean_n,
        "batch": found.batch,
        "latency": {f"p{100 * share:g}": _finite(seconds) for share, seconds in found.latency.items()},
        "busy": found.busy,
        "lost": {"late": lost.late, "resent": lost.resent, "spare": lost.spare},
        "hours": hours,
        "costs": costs,
    }


def _finite(seconds: float) -> float | None:
    """JSON has no infinity; it is what refused requests wait."""
    return seconds if math.isfinite(seconds) else None


def _print(one: dict[str, Any]) -> None:
    from trt_var.serving import fleet

    if one["error"]:
        print(f"{one['device']:15} {one['error']}")
        return
    latency = "  ".join(f"{math.inf if seconds is None else seconds:5.3g}" for seconds in one["latency"].values())
    row = f"{one['device']:15} {one['devices']:7}  {one['mean_n']:<4.3g}  {one['batch']:5}  {latency}  {one['busy']:4.0%}"
    lost = one["lost"]
    spare = f"more than {fleet.SPARES}" if lost["spare"] is None else lost["spare"]
    print(f"{row}  | {lost['late']:.1%}, {lost['resent']}, {spare}")
    print(f"{'':15} {one['origin']}")
    if hours := one["hours"]:
        told = f"{sum(hours)} device-hours a day, {HOURS * one['devices']} if all stay on"
        print(f"{'':15} by the hour: {' '.join(map(str, hours))}: {told}")
    if costs := one["costs"]:
        print(f"{'':15} {costs['day']:.2f} a day; {costs['thousand_images']:.4g} a thousand images at full load")


def _demand(options: argparse.Namespace) -> Demand:
    from trt_var.serving.fleet import Demand

    if options.rate is None or not 0 < options.rate <= MOST_RATE:
        raise UsageError(f"--rate is {options.rate}; expected requests a second, more than 0 and at most {MOST_RATE:g}")
    found = OBJECTIVE.fullmatch(options.objective)
    if not found or not 50 <= float(found[1]) < 100 or not 0 < float(found[2]) <= 3600:
        raise UsageError(f"--objective is {options.objective[:40]!r}; expected a quantile and seconds, such as p95:2")
    return Demand(options.rate, float(found[1]) / 100, float(found[2]))


def _levels(options: argparse.Namespace, manifest: Manifest) -> tuple[int, ...]:
    """N, falling."""
    from trt_var.bundle.manifest import default_n_draft

    ceiling = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    floor = ceiling if options.n_draft_floor is None else options.n_draft_floor
    if floor not in manifest.serves or floor > ceiling:
        raise UsageError(f"--n-draft-floor is {floor}; expected an N that the bundle serves, at most {ceiling}")
    return tuple(n for n in sorted(manifest.serves, reverse=True) if floor <= n <= ceiling)


def _times(options: argparse.Namespace, manifest: Manifest, levels: tuple[int, ...]) -> Iterator[tuple[str, str, Times]]:
    """By device: its name, where its times are from, and they."""
    from trt_var.bench import choose
    from trt_var.bench import plan as bounds
    from trt_var.serving.batching.times import Times

    if bool(options.report) == bool(options.devices):
        raise UsageError("a fleet needs times: --report FILE of trt-var bench, or --devices for what peak rates allow")
    if not 0 < options.of_peak <= 1:
        raise UsageError(f"--of-peak is {options.of_peak:g}; expected more than 0 and at most 1")
    if options.report:
        rows = [row for path in options.report for row in choose.read_rows(path, manifest)]
        measured: dict[str, dict[int, dict[int, float]]] = {}
        for one in choose.measured(rows, manifest):
            measured.setdefault(one.backend, {}).setdefault(one.n_draft, {})[one.batch] = one.seconds
        for backend, seconds in measured.items():
            if missing := [n for n in levels if n not in seconds]:
                raise UsageError(f"the report has no times of N = {', '.join(map(str, missing))} on {backend}; measure them")
            yield backend, MEASURED, Times.of(seconds)
        return
    for name in options.devices.split(","):
        gpu = bounds.device(name.strip())
        fits = bounds.largest_batch(manifest, gpu, levels[0])
        sizes = [size for size in SIZES if size <= fits]
        if not sizes:
            raise UsageError(f"a single image does not fit on {name}")
        seconds = {
            n: {size: bounds.plan(manifest, gpu, n, size).seconds / options.of_peak for size in sizes} for n in levels
        }
        yield (
            name.strip(),
            f"at {100 * options.of_peak:.3g} % of peak rates, decoder left out: measure before relying on it",
            Times.of(seconds),
        )


def _prices(given: str) -> Iterator[tuple[str, float]]:
    for text in filter(None, given.split(",")):
        name, _, price = text.partition("=")
        if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", price):
            raise UsageError(f"--price has {text[:40]!r}; expected a device and its price an hour, such as h100=2.5")
        yield name.strip(), float(price)
