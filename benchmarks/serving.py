"""What the service costs and bears: ``python benchmarks/serving.py --out docs/serving``.

Starts ``trt-var serve`` on a bundle and offers it load, beside ``Pipeline.generate`` in the same run: the time that HTTP and
batching add when idle, the rate at saturation, twice that with deadlines, previews, and N under load against a simulation
with the batch times that were measured. Writes serving.json, and with --plot a picture. Service, generator and pipeline
share the machine: let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trt_var import Pipeline
from trt_var.serving.batching.policy import Policy
from trt_var.serving.load.counting import row
from trt_var.serving.load.mix import Mix
from trt_var.serving.load.plan import Arrivals, plans
from trt_var.serving.load.plot import plot
from trt_var.serving.load.report import Report
from trt_var.serving.load.rows import Row, Spread
from trt_var.serving.load.run import ask, go
from trt_var.serving.load.service import Target
from trt_var.serving.simulation import simulate

SIZES = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 7
ROOM = ("--max-waiting", "4000")  # so that what is offered beyond what can be drawn is not refused meanwhile
FEW = 5  # batches of an N that say how long they take


def main() -> None:
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"bundle": str(options.engines), "backend": options.backend}
    with Pipeline.load(options.engines, options.backend) as pipeline:
        found["engine"] = pipeline.backend
        for name, measure in (("idle", idle), ("saturation", saturation), ("overload", overload), ("auto", auto)):
            if name in options.parts:
                found[name] = measure(pipeline, options, found)
                print(json.dumps({name: found[name]}, indent=1), flush=True)
    (options.out / "serving.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


@contextmanager
def serving(options: argparse.Namespace, *more: str) -> Iterator[Target]:
    given = ["--engines", str(options.engines), "--backend", options.backend, "--port", "0", *more]
    with subprocess.Popen(
        [sys.executable, "-m", "trt_var", "serve", *given], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Target(process.stdout.readline().strip() if process.stdout else "")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def described(target: Target) -> dict[str, Any]:
    """What the service says of itself."""
    with urllib.request.urlopen(f"{target.url}/v1/models") as answer:
        found: dict[str, Any] = json.load(answer)["data"][0]
    return found


def offer(target: Target, rate: float, seconds: float, objective: float | None = None, **mix: Any) -> Row:
    """One rate of requests; what the service takes to get going is behind it."""
    model = ask(target)
    warm = plans(Arrivals((rate,), duration=min(2.0, seconds)), Mix(**mix), model)
    go(target, warm)
    offered = plans(Arrivals((rate,), duration=seconds, seed=1), Mix(**mix), model)
    return row(go(target, offered)[0], objective)


def idle(pipeline: Pipeline, options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Single images, a few a second, by turns through the service and in this process."""
    with serving(options, "--batch", "8") as target:
        plain = offer(target, 4, options.seconds)
        streamed = offer(target, 4, options.seconds, stream=1.0, partial_images=3)
    alone = timed(lambda: pipeline.generate(3), REPEATS * 20, 0.2)
    served, first, whole = median(plain.whole), median(streamed.first), median(streamed.whole)
    return {
        "pipeline_p50_ms": 1000 * alone,
        "service_p50_ms": 1000 * served,
        "added_ms": 1000 * (served - alone),
        "stream_first_preview_ms": 1000 * first,
        "stream_whole_ms": 1000 * whole,
        "first_of_whole": first / whole,
    }


def saturation(pipeline: Pipeline, options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """As much as goes, in the pipeline and through the service."""
    before = best(pipeline, None)
    top = max(before.values())
    with serving(options, *ROOM) as target:
        batch = int(described(target)["batch"])
        served = offer(target, 1.15 * top, options.seconds)
        several = offer(target, 1.15 * top / 4, options.seconds, images=((4, 1.0),))
    after = best(pipeline, None)
    rates = {size: (before[size] + after[size]) / 2 for size in before}
    rate = max(rates.values())
    return {
        "batch": batch,
        "pipeline_images_per_second": rates,
        "pipeline_best": rate,
        "service_images_per_second": served.images_per_second,
        "share": served.images_per_second / rate,
        "four_images_a_request": several.images_per_second,
        "share_of_four": several.images_per_second / rate,
        "generator_cpu": served.cpu,
        "statuses": served.statuses,
    }


def overload(pipeline: Pipeline, options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Twice what it can: what was accepted is answered, in time, and hardly less than it can; that is measured around it."""
    capacity = found["saturation"]["service_images_per_second"]
    before = _capacity(options, capacity)
    with serving(options, "--request-timeout", "1") as target:
        served = offer(target, 2 * capacity, options.seconds, objective=1.0)
    after = _capacity(options, capacity)
    return {
        "capacity": [before, after],
        "offered": served.offered / served.window,
        "goodput": served.goodput,
        "share_of_capacity": served.goodput / statistics.mean((before, after)),
        "served": served.served,
        "served_late": served.served - served.in_time,
        "statuses": served.statuses,
        "codes": served.codes,
        "lost": served.lost + served.unconnected + served.broken,
        "p50_p95_p99_max": msgspec.to_builtins(served.whole),
    }


def _capacity(options: argparse.Namespace, about: float) -> float:
    """What the service draws, of somewhat more than that."""
    with serving(options, *ROOM) as target:
        return offer(target, 1.15 * about, options.seconds / 2).images_per_second


def auto(pipeline: Pipeline, options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """1.4 times what the largest N can draw: N fixed, and N that load chooses; the latter simulated, too."""
    serves, objective = pipeline.manifest.serves, options.objective
    ceiling, levels = max(serves), tuple(sorted(serves, reverse=True))
    endless = ("--max-waiting", "100000")
    with serving(options, "--n-draft", str(ceiling), *endless) as target:
        told = described(target)
        size, devices = int(told["batch"]), int(told["side_by_side"])
        capacity = offer(target, 1.3 * max(best(pipeline, ceiling).values()), options.seconds / 2).images_per_second
        rate = 1.4 * capacity
        fixed = offer(target, rate, options.seconds, objective=objective)
    given = ("--n-draft", "auto", "--n-draft-ceiling", str(ceiling), "--target-latency", str(objective))
    with serving(options, *given, "--batch", str(size), *endless) as target:
        model = ask(target)
        offered = plans(Arrivals((rate,), duration=options.seconds, seed=1), Mix(), model)
        before = batches(target)
        free = row(go(target, offered)[0], objective)
        drawn = {n: [now - then for now, then in zip(one, before[n], strict=True)] for n, one in batches(target).items()}
    with Pipeline.load(options.engines, options.backend, threads=max(1, (pipeline.threads or 1) // devices)) as one:
        cost = costs(one, levels, size, drawn)
    arrivals, policy = offered[0].arrivals.tolist(), Policy(levels, objective)
    answers = simulate(pipeline.manifest, policy, cost, size, arrivals, devices=devices, overhead=options.overhead)
    seconds = np.array([answer.seconds for answer in answers])
    simulated = float(np.quantile(seconds, 0.95))
    if options.plot:
        report = Report(url=target.url, model=model, command="", settings={}, objective=objective, rows=[free])
        plot(report, options.out / "auto.png")
    return {
        "capacity_of_ceiling": capacity,
        "offered": rate,
        "batch": size,
        "side_by_side": devices,
        "fixed": {"n_draft": ceiling, "attainment": fixed.attainment, "latency": msgspec.to_builtins(fixed.whole)},
        "auto": {
            "attainment": free.attainment,
            "latency": msgspec.to_builtins(free.whole),
            "mean_n": free.mean_n,
            "n_draft": free.n_draft,
            "statuses": free.statuses,
        },
        "simulated": {
            "attainment": float(np.mean(seconds <= objective)),
            "p50": float(np.quantile(seconds, 0.5)),
            "p95": simulated,
            "mean_n": float(np.mean([answer.n_draft for answer in answers])),
        },
        "p95_measured_over_simulated": (free.whole.p95 if free.whole else 0.0) / simulated,
    }


def costs(
    pipeline: Pipeline, levels: Sequence[int], size: int, drawn: Mapping[int, Sequence[float]]
) -> Callable[[int, int], float]:
    """Seconds of a batch by N and images: as a pipeline draws them, times how much longer they took in the service.

    Args:
        pipeline: with the threads that each of the service's has.
        levels: N.
        size: images of the largest batch.
        drawn: batches of the service, their seconds and their images, by N.
    """
    shapes = {n: [timed(partial(draw, pipeline, n, images), REPEATS) for images in (1, size)] for n in levels}

    def shape(n_draft: int, images: float) -> float:
        return float(np.interp(images, [1, size], shapes[n_draft]))

    slowed = {n: seconds / count / shape(n, images / count) for n, (count, seconds, images) in drawn.items() if count >= FEW}
    usual = statistics.median(slowed.values())
    return lambda n_draft, images: shape(n_draft, images) * slowed.get(n_draft, usual)


def batches(target: Target) -> dict[int, tuple[float, float, float]]:
    """Batches, their seconds and their images so far, by N."""
    with urllib.request.urlopen(f"{target.url}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    names = ("trt_var_batch_duration_seconds_count", "trt_var_batch_duration_seconds_sum", "trt_var_images_total")
    values = {n: [float(lines.get(f'{name}{{n_draft="{n}"}}', 0)) for name in names] for n in range(64)}
    return {n: (count, seconds, images) for n, (count, seconds, images) in values.items()}


def median(spread: Spread | None) -> float:
    return spread.p50 if spread else 0.0


def timed(work: Callable[[], object], repeats: int, rest: float = 0.0) -> float:
    """The median of a few."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
        time.sleep(rest)
    return statistics.median(found)


def draw(pipeline: Pipeline, n_draft: int | None, size: int) -> None:
    pipeline.generate([i % pipeline.manifest.classes for i in range(size)], n_draft=n_draft, batch_size=size)


def best(pipeline: Pipeline, n_draft: int | None) -> dict[int, float]:
    """Images a second by batch."""
    return {size: size / timed(partial(draw, pipeline, n_draft, size), REPEATS) for size in SIZES}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", default="digits", help="the bundle (default: %(default)s)")
    found.add_argument("--backend", default="onnxruntime", help="default: %(default)s")
    found.add_argument("--seconds", type=float, default=20.0, help="of each load (default: %(default)g)")
    found.add_argument("--objective", type=float, default=1.0, help="seconds, of N under load (default: %(default)g)")
    found.add_argument("--overhead", type=float, default=0.003, help="seconds of HTTP, simulated (default: %(default)g)")
    found.add_argument("--parts", nargs="*", default=["idle", "saturation", "overload", "auto"], help="default: all")
    found.add_argument("--out", type=Path, default=Path("docs/serving"), help="folder (default: %(default)s)")
    found.add_argument("--plot", action="store_true", help="also the course of N under load")
    return found


if __name__ == "__main__":
    main()
