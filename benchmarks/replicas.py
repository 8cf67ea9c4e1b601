"""The service on a local Ray cluster while it changes: ``python benchmarks/replicas.py update lost --out replicas.json``.

``update``: two engines of one bundle are replaced by two of another, and back, while requests come; none may fail, and every
picture must be one of either bundle, of the new one once it is there. ``lost``: throughput and latency at several rates,
with and without an engine that is killed, beside the simulation with the batch times that clients see of idle engines, taken
anew before every rate. As machines have devices of their own, each engine keeps to a core, and what takes a lost one's place
starts on the same. The drafter is random and larger than the digits'. All share the machine: let nothing else run.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from trt_var import Pipeline
from trt_var.schedule import Schedule
from trt_var.serving.batching.policy import Policy
from trt_var.serving.simulation import Answer, Loss, simulate

REPLICAS, PORT, CLIENTS = 2, 8765, 4
WEIGHTS = Path("examples/digits/weights")
URL = f"http://127.0.0.1:{PORT}"
SETTLED = 5.0  # seconds of load before and after each change
ENGINE = "ray::ServeReplica:trt-var:engine"
SIZE, N_DRAFT = 4, 4  # images a batch
Answered = tuple[float, int, int, bytes]
"""When it was asked for, seed, status, body."""


def main() -> None:
    options = parser().parse_args()
    logging.getLogger("trt_var").setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    with cluster():
        for name, measure in (("update", update), ("lost", lost)):
            if name in options.parts:
                found[name] = measure(options)
                print(json.dumps({name: found[name]}, indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@contextmanager
def cluster() -> Iterator[None]:
    import ray
    from ray import serve

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=REPLICAS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"log_level": "ERROR"})
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def run(engines: Path | str, **args: Any) -> None:
    """Serve a bundle, or replace the one that is served; returns once all engines are new."""
    from ray import serve

    from trt_var.serving.ray.app import app

    given = {"engines": str(engines), "backend": "onnxruntime", "replicas": REPLICAS, "cpus": 1, "batch": SIZE, **args}
    serve.run(app(given), name="trt-var", route_prefix="/")


def ask(seed: int, images: int = 1) -> tuple[int, bytes]:
    body = json.dumps({"prompt": seed % 10, "seed": seed, "n_draft": N_DRAFT, "n": images}).encode()
    request = urllib.request.Request(f"{URL}/v1/images/generations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def pixels(body: bytes) -> NDArray[np.uint8]:
    data = base64.b64decode(json.loads(body)["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)))


def update(options: argparse.Namespace) -> dict[str, Any]:
    bundles = (Path("digits"), options.other)
    run(bundles[0])
    end, answers = threading.Event(), list[Answered]()

    def client(number: int) -> None:
        for seed in range(number, 1 << 30, CLIENTS):
            if end.is_set():
                return
            began = time.monotonic()
            answers.append((began, seed, *ask(seed)))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        time.sleep(SETTLED)
        changed = []
        for engines in (bundles[1], bundles[0]):
            run(engines)
            changed.append(time.monotonic())
            time.sleep(SETTLED)
        end.set()
        for one in clients:
            one.result()
    return _counted(answers, bundles, changed)


def _counted(
    answers: Sequence[tuple[float, int, int, bytes]], bundles: Sequence[Path], changed: list[float]
) -> dict[str, Any]:
    """What was answered by which bundle, and whether by the new one after each change."""
    served = {seed: pixels(body) for _, seed, status, body in answers if status == 200}
    by = [0, 0]
    wrong = stale = 0
    drawn = []
    for engines in bundles:
        with Pipeline.load(engines, "onnxruntime") as pipeline:
            drawn.append({seed: pipeline.generate(seed % 10, seeds=seed, n_draft=N_DRAFT).images[0] for seed in served})
    for began, seed, status, _ in answers:
        if status != 200:
            continue
        right = [place for place in (0, 1) if np.abs(served[seed].astype(int) - drawn[place][seed]).max() <= 1]
        wrong += not right
        for place in right[:1]:
            by[place] += 1
        stale += changed[0] < began < changed[0] + SETTLED / 2 and 1 not in right
        stale += began > changed[1] and 0 not in right
    failed = [(status, body.decode()[:200]) for _, _, status, body in answers if status != 200]
    told = {"requests": len(answers), "failed": failed, "first bundle": by[0], "second": by[1]}
    return {**told, "pictures of neither": wrong, "of the old one after a change": stale}


def lost(options: argparse.Namespace) -> dict[str, Any]:
    """Rates as shares of what the engines draw together."""
    if not options.slow.exists():
        slow(options.slow)
    run(options.slow, model="slow")
    for core, engine in enumerate(_engines()):
        _keep(engine, core)
    _costs(1)
    capacity = REPLICAS * SIZE / _costs()[SIZE]
    found = []
    for share in options.shares:
        for kills in (False, True):
            costs = _costs()
            arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / (share * capacity), options.requests)).tolist()
            middle = arrivals[len(arrivals) // 3]
            latencies, seconds, back = _offer(arrivals, middle if kills else None)
            losses = [Loss(middle, 0, options.noticed, back)] if kills else []
            simulated = _simulated(options.slow, costs, arrivals, losses)
            row = {"share": share, "killed": kills, "back": back, "batch times": costs}
            found.append(row | _beside(latencies, seconds, simulated))
            print(json.dumps(found[-1]), flush=True)
    return {"capacity": capacity, "rows": found}


def slow(out: Path) -> None:
    """A bundle of the digits' classes whose drafter takes so long that what is around it weighs little."""
    from safetensors.torch import save_file

    from trt_var_export.models.transformer import TransformerShape
    from trt_var_training.var import fresh_transformer

    shape = TransformerShape(24, 768, 12, 3072, 256, 8, 10, True, Schedule((1, 2, 3, 4, 6, 8)))
    with tempfile.TemporaryDirectory() as folder:
        drafter = Path(folder) / "drafter.safetensors"
        save_file(fresh_transformer(shape, 0).state_dict(), drafter)
        given = ["--drafter", str(drafter), "--refiner", str(WEIGHTS / "refiner.safetensors")]
        given += ["--vae", str(WEIGHTS / "vae.safetensors"), "--schedule", "1,2,3,4,6,8", "--out", str(out)]
        subprocess.run([sys.executable, "-m", "trt_var", "build", *given], check=True)


def _costs(rounds: int = 5) -> dict[int, float]:
    """Seconds of an answer with so many images, while every engine draws one like it."""
    found = {}
    with ThreadPoolExecutor(REPLICAS) as pool:
        for size in range(1, SIZE + 1):
            times = []
            for _ in range(rounds):
                began = time.monotonic()
                both = [pool.submit(ask, seed, size) for seed in range(REPLICAS)]
                for one in both:
                    one.result()
                times.append(time.monotonic() - began)
            found[size] = statistics.median(times)
    return found


def _keep(process: psutil.Process, core: int) -> None:
    """All threads of a process on one core."""
    for thread in process.threads():
        os.sched_setaffinity(thread.id, {core})


@contextmanager
def _starting_on(core: int) -> Iterator[None]:
    """What Ray starts meanwhile, it starts on that core."""
    workers = [one for one in psutil.process_iter(["name", "cmdline"]) if "raylet" in (one.info["name"] or "")]
    workers += [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0].startswith("ray::IDLE")]
    for one in workers:
        _keep(one, core)
    try:
        yield
    finally:
        for one in workers:
            for thread in one.threads() if one.is_running() and "raylet" in one.name() else []:
                os.sched_setaffinity(thread.id, range(os.cpu_count() or 1))


def _offer(arrivals: Sequence[float], kill: float | None = None) -> tuple[list[float], float, float]:
    """Seconds from when each request was due to its answer; of the whole; until a killed engine was there again."""
    latencies, back = [math.inf] * len(arrivals), [0.0]
    start = time.monotonic() + 0.1

    def one(place: int, due: float) -> None:
        time.sleep(max(0.0, start + due - time.monotonic()))
        status, body = ask(place)
        if status != 200:
            raise RuntimeError(f"{status}: {body.decode()[:200]}")
        latencies[place] = time.monotonic() - start - due

    def killer() -> None:
        time.sleep(max(0.0, start + (kill or 0.0) - time.monotonic()))
        victim = _engines()[0]
        core = min(victim.cpu_affinity())
        with _starting_on(core):
            victim.kill()
            began = time.monotonic()
            _until(lambda: _serving() < REPLICAS)
            _until(lambda: _serving() == REPLICAS)
            back[0] = time.monotonic() - began
        for engine in _engines():
            if len(engine.cpu_affinity()) > 1:
                _keep(engine, core)

    with ThreadPoolExecutor(len(arrivals) + 1) as pool:
        work = [pool.submit(one, place, due) for place, due in enumerate(arrivals)]
        if kill is not None:
            work.append(pool.submit(killer))
        for each in work:
            each.result()
    return latencies, max(due + taken for due, taken in zip(arrivals, latencies, strict=True)), back[0]


def _until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not met():
        if time.monotonic() > end:
            raise TimeoutError("no change of the engines in two minutes")
        time.sleep(0.1)


def _serving() -> int:
    """Engines that Serve sends requests to."""
    from ray import serve

    return serve.status().applications["trt-var"].deployments["engine"].replica_states.get("RUNNING", 0)


def _engines() -> list[psutil.Process]:
    """Those that serve: Ray names a process when its actor has been made."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(ENGINE):
            found.append(process)
    return found


def _simulated(engines: Path, costs: dict[int, float], arrivals: Sequence[float], losses: Sequence[Loss]) -> list[Answer]:
    from trt_var.bundle.opening import Bundle

    manifest = Bundle.open(engines).manifest
    policy = Policy((N_DRAFT,), target=math.inf)
    answers: list[Answer] = []
    for seed in range(20):  # which of two replicas a request goes to is chance
        answers += simulate(
            manifest,
            policy,
            lambda n_draft, batch: costs[batch],
            SIZE,
            arrivals,
            replicas=REPLICAS,
            losses=losses,
            seed=seed,
        )
    return answers


def _beside(latencies: Sequence[float], seconds: float, simulated: Sequence[Answer]) -> dict[str, Any]:
    ended = max(answer.arrived + answer.seconds for answer in simulated)
    rates = {"measured": len(latencies) / seconds, "simulated": len(latencies) / ended}
    p95 = {
        "measured": float(np.quantile(latencies, 0.95)),
        "simulated": float(np.quantile([one.seconds for one in simulated], 0.95)),
    }
    p50 = {"measured": statistics.median(latencies), "simulated": statistics.median(one.seconds for one in simulated)}
    return {"images a second": rates, "p50": p50, "p95": p95, "measured over simulated": p95["measured"] / p95["simulated"]}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="+", choices=["update", "lost"])
    made.add_argument(
        "--other", type=Path, default=Path("engines/digits-n4"), help="bundle of digits (default: %(default)s)"
    )
    made.add_argument("--slow", type=Path, default=Path("engines/slow"), help="bundle (default: %(default)s)")
    made.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.6, 0.8], help="of capacity (default: %(default)s)")
    made.add_argument("--requests", type=int, default=200, help="of each rate (default: %(default)s)")
    made.add_argument("--noticed", type=float, default=0.1, help="seconds until a death is noticed (default: %(default)g)")
    made.add_argument("--out", type=Path)
    return made


if __name__ == "__main__":
    main()
