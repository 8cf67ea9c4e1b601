"""Two engines on Ray Serve beside the simulation of them: ``python benchmarks/losses.py held drawn --out losses.json``.

Throughput and latency at several shares of what both draw, with and without an engine that is killed, as clients measure
them and as ``trt_var.serving.simulation`` foresees them from the batch times that clients saw before and after, of both
engines at once, and the time in which a death was noticed. ``held``: an engine's batches end when a device's would, after a
fixed time; so engines do not share memory and cores, as those of a fleet do not. ``drawn``: they are drawn on a core each by
a random drafter that is larger than the digits', and are faster while the other engine is not there. What takes a lost one's
place starts on its core, as does all else meanwhile. Let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from on_ray import ENGINE, REPLICAS, ask, cluster, named, run

from trt_var.bundle.opening import Bundle
from trt_var.schedule import Schedule
from trt_var.serving.batching.policy import Policy
from trt_var.serving.simulation import Answer, Loss, simulate

WEIGHTS = Path("examples/digits/weights")
SIZE = 4  # images a batch
HELD = 0.25, 0.1  # seconds of a batch, and of each image in it
SEEDS = 20  # of the simulation: which of two a request goes to is chance where they have as much
AROUND = 0
APART = 0.03  # seconds: of requests that come at once, Serve may send more to one engine
Samples = dict[int, list[float]]
"""Seconds of batches, by size, and of what is around them."""


def main() -> None:
    options = parser().parse_args()
    logging.getLogger("trt_var").setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    for kind in options.kinds:
        with cluster(**({"worker_process_setup_hook": hold} if kind == "held" else {})):
            found[kind] = beside(kind, options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def hold() -> None:
    """Batches of this process end when a device's would."""
    from trt_var.serving.batching import worker

    plain = worker.draw_rows

    def held(pipeline: Any, rows: Any, *given: Any) -> Any:
        began = time.monotonic()
        drawn = plain(pipeline, rows, *given)
        time.sleep(max(0.0, began + HELD[0] + HELD[1] * len(rows) - time.monotonic()))
        return drawn

    worker.draw_rows = held


def beside(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rows by share, without losses and with them."""
    engines, n_draft = (options.slow, 6) if kind == "drawn" else (Path("digits"), 4)
    if kind == "drawn" and not engines.exists():
        slow(engines)
    run(engines, model="measured", batch=SIZE)
    if kind == "drawn":
        for core, engine in enumerate(named(ENGINE)):
            keep(engine, core)
    samples(n_draft, 1)
    after = samples(n_draft)
    capacity, noticed = REPLICAS * SIZE / statistics.median(after[SIZE]), noticing(n_draft)
    found = []
    for share in options.shares:
        for kills in (0, options.kills):
            before = after
            arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / (share * capacity), options.requests)).tolist()
            ends = [arrivals[len(arrivals) * turn // (kills + 1)] for turn in range(1, kills + 1)]
            latencies, losses = offer(n_draft, arrivals, ends, noticed)
            after = samples(n_draft)
            near = {size: before[size] + after[size] for size in before}
            row = {
                "share": share,
                "noticed": noticed,
                "back": [loss.back for loss in losses],
                "batches": {size: statistics.median(near[size]) for size in near},
            }
            found.append(row | compared(arrivals, latencies, simulated(engines, n_draft, near, arrivals, losses)))
            print(json.dumps({kind: found[-1]}), flush=True)
    return {"capacity": capacity, "rows": found}


def slow(out: Path) -> None:
    """A bundle of the digits' classes whose drafter takes so long that what is around it weighs little."""
    from safetensors.torch import save_file

    from trt_var_export.models.transformer import TransformerShape
    from trt_var_training.var import fresh_transformer

    shape = TransformerShape(20, 384, 6, 1536, 256, 8, 10, True, Schedule((1, 2, 3, 4, 6, 8)))
    with tempfile.TemporaryDirectory() as folder:
        drafter = Path(folder) / "drafter.safetensors"
        save_file(fresh_transformer(shape, 0).state_dict(), drafter)
        given = ["--drafter", str(drafter), "--refiner", str(WEIGHTS / "refiner.safetensors")]
        given += ["--vae", str(WEIGHTS / "vae.safetensors"), "--schedule", "1,2,3,4,6,8", "--out", str(out)]
        subprocess.run([sys.executable, "-m", "trt_var", "build", *given], check=True)


def asked(n_draft: int, seed: int, images: int = 1) -> float:
    """Seconds until the answer."""
    began = time.monotonic()
    status, body = ask(seed, n_draft, images)
    if status != 200:
        raise RuntimeError(f"{status}: {body.decode()[:200]}")
    return time.monotonic() - began


def samples(n_draft: int, rounds: int = 4) -> Samples:
    """Of two requests for every engine, the second one waits for the first, and not for what is around a batch."""
    found: Samples = {}
    with ThreadPoolExecutor(2 * REPLICAS) as pool:
        for size in [size for size in range(1, SIZE + 1) for _ in range(rounds)]:

            def one(place: int) -> float:
                time.sleep(place * APART)
                return asked(n_draft, place, size) + place * APART  # noqa: B023

            ended = sorted(pool.map(one, range(2 * REPLICAS)))
            batch = statistics.fmean(ended[REPLICAS:]) - statistics.fmean(ended[:REPLICAS])
            found.setdefault(size, []).append(batch)
            found.setdefault(AROUND, []).append(ended[0] - batch)
    return found


def noticing(n_draft: int) -> float:
    """Seconds from an engine's death until what it drew is begun elsewhere, at most."""
    alone = statistics.median(asked(n_draft, seed) for seed in range(5))
    with ThreadPoolExecutor(REPLICAS) as pool:
        began = time.monotonic()
        both = []
        for seed in range(REPLICAS):
            both.append(pool.submit(asked, n_draft, seed))
            time.sleep(APART)
        time.sleep(0.5 * alone)
        at, _ = replaced()
        fast, slow = sorted(one.result() for one in both)
    return began + slow - at - fast


def offer(n_draft: int, arrivals: Sequence[float], kills: Sequence[float], noticed: float) -> tuple[list[float], list[Loss]]:
    """Seconds from when each request was due to its answer, and what was lost meanwhile."""
    start = time.monotonic() + 0.1

    def one(place: int, due: float) -> float:
        time.sleep(max(0.0, start + due - time.monotonic()))
        asked(n_draft, place)
        return time.monotonic() - start - due

    with ThreadPoolExecutor(len(arrivals)) as pool:
        work = [pool.submit(one, place, due) for place, due in enumerate(arrivals)]
        losses = []
        for kill in kills:
            time.sleep(max(0.0, start + kill - time.monotonic()))
            at, back = replaced()
            losses.append(Loss(at - start, 0, noticed, back))
        return [each.result() for each in work], losses


def replaced() -> tuple[float, float]:
    """When an engine was killed, and seconds until another serves in its place."""
    victim = named(ENGINE)[0]
    cores = victim.cpu_affinity()
    with starting_on(*cores):
        at = time.monotonic()
        victim.kill()
        until(lambda: running() < REPLICAS)
        until(lambda: running() == REPLICAS)
        back = time.monotonic() - at
    for engine in named(ENGINE):
        if len(engine.cpu_affinity()) > len(cores):
            keep(engine, *cores)
    return at, back


@contextmanager
def starting_on(*cores: int) -> Iterator[None]:
    """What Ray starts meanwhile, and all that is no engine, is on these cores: a machine that starts slows no other."""
    engines = {engine.pid for engine in named(ENGINE)}
    own = psutil.Process()
    others = [one for one in (own, *own.children(recursive=True)) if one.pid not in engines]
    for one in others:
        keep(one, *cores)
    try:
        yield
    finally:
        for one in others:
            keep(one, *range(os.cpu_count() or 1))


def keep(process: psutil.Process, *cores: int) -> None:
    """All threads of a process on these cores."""
    with suppress(OSError, psutil.NoSuchProcess):  # it ends
        for thread in process.threads():
            os.sched_setaffinity(thread.id, cores)


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not met():
        if time.monotonic() > end:
            raise TimeoutError("no change of the engines in two minutes")
        time.sleep(0.1)


def running() -> int:
    """Engines that Serve sends requests to."""
    from ray import serve

    return serve.status().applications["trt-var"].deployments["engine"].replica_states.get("RUNNING", 0)


def simulated(engines: Path, n_draft: int, near: Samples, arrivals: Sequence[float], losses: Sequence[Loss]) -> list[Answer]:
    manifest, policy, chance = Bundle.open(engines).manifest, Policy((n_draft,), target=math.inf), np.random.default_rng(0)
    answers: list[Answer] = []
    for seed in range(SEEDS):
        answers += simulate(
            manifest,
            policy,
            lambda _, size: float(chance.choice(near[size])),
            SIZE,
            arrivals,
            replicas=REPLICAS,
            losses=losses,
            overhead=statistics.median(near[AROUND]),
            seed=seed,
        )
    return answers


def compared(arrivals: Sequence[float], latencies: Sequence[float], foreseen: Sequence[Answer]) -> dict[str, Any]:
    """Measured, simulated, and the quotient of the two."""
    count, ended = len(arrivals), max(due + taken for due, taken in zip(arrivals, latencies, strict=True))
    seconds = [one.seconds for one in foreseen]
    last = statistics.fmean(
        max(one.arrived + one.seconds for one in foreseen[at : at + count]) for at in range(0, len(foreseen), count)
    )
    told = {"images a second": (count / ended, count / last)}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        told[name] = float(np.quantile(latencies, share)), float(np.quantile(seconds, share))
    return {name: [*pair, pair[0] / pair[1]] for name, pair in told.items()}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("kinds", nargs="+", choices=["held", "drawn"])
    made.add_argument("--slow", type=Path, default=Path("engines/slow"), help="bundle of drawn (default: %(default)s)")
    made.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.6, 0.8], help="of capacity (default: %(default)s)")
    made.add_argument("--requests", type=int, default=480, help="of each row (default: %(default)s)")
    made.add_argument("--kills", type=int, default=2, help="in a row with losses (default: %(default)s)")
    made.add_argument("--out", type=Path)
    return made


if __name__ == "__main__":
    main()
