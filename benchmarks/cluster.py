"""Bulk sampling on a local Ray cluster: ``python benchmarks/cluster.py --runs 20 --kills 3 --shards 60 --out cluster.json``.

Two measurements. ``kills``: series of digits are drawn by a cluster of several raylets on this machine while, at random
moments, a worker, a machine (another takes its place) or the driver (started again) is killed; afterwards every folder is
compared with that of one unbroken process, and the shards that were drawn are counted. ``throughput``: in turns, the same
shards by two plain processes of one core each (``--part 1/2``, ``2/2``) and by a driver with two workers of one core each,
from the moment that the first shard is there, so that opening bundles and joining the cluster are left out on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_var import Pipeline
from trt_var.bulk import Bulk, sample
from trt_var.bulk.cluster import Source, sample_on

KINDS = ("worker", "machine", "driver")
SHARD = 8
SEED = 1000
DAWDLE = 0.3  # seconds a shard is held up, so that kills come in the middle of one


@dataclass(frozen=True)
class Noted(Source):
    """Writes down every shard that a worker begins, and is slow about it."""

    notes: Path = Path()

    def opened(self) -> Pipeline:
        pipeline = Source.opened(self)
        plain = pipeline.generate

        def generate(labels: Any, **options: Any) -> Any:
            if "seeds" in options:
                with self.notes.open("a") as file:
                    file.write(f"{options['seeds'][0]} {os.getpid()}\n")
                time.sleep(DAWDLE)
            return plain(labels, **options)

        pipeline.generate = generate  # type: ignore[method-assign]
        return pipeline


def main() -> None:
    options = parser().parse_args()
    if options.drive:  # a driver that is there to be killed
        drive(*options.drive)
        return
    logging.getLogger("trt_var").setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            seeds = range(options.seed, options.seed + options.runs)
            found["kills"] = [kills(Path(folder) / str(seed), options.kills, seed, options.shards) for seed in seeds]
        if options.turns:
            found["throughput"] = throughput(Path(folder), options)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = [one["seed"] for one in found.get("kills", ()) if one["exit"] or not one["identical"]]
    if wrong:
        sys.exit(f"runs {wrong}: the folder is not that of an unbroken run")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def cluster(processors: tuple[int, ...]) -> Any:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for count in processors:
        join(made, count)
    return made


def join(machines: Any, processors: int = 1) -> None:
    """Another machine."""
    machines.add_node(num_cpus=processors, object_store_memory=200 << 20)


def drive(address: str, notes: str, out: str, shards: str) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    bulk = Bulk(int(shards) * SHARD, SEED, shard=SHARD)
    sample_on(address, Noted(None, "onnxruntime", notes=Path(notes)), bulk, Path(out))


def kills(folder: Path, wanted: int, seed: int, shards: int) -> dict[str, Any]:
    folder.mkdir()
    out, notes, chance = folder / "killed", folder / "notes.txt", random.Random(seed)
    notes.touch()
    with Pipeline.load("digits", "onnxruntime", threads=1) as pipeline:
        sample(pipeline, Bulk(shards * SHARD, SEED, shard=SHARD), folder / "unbroken")
    machines = cluster((1, 1))
    command = [sys.executable, __file__, "--drive", machines.address, str(notes), str(out), str(shards)]
    driver = subprocess.Popen(command)
    done: Counter[str] = Counter()
    started = time.monotonic()
    while done.total() < wanted:
        before = len(notes.read_text().splitlines())
        while driver.poll() is None and len(notes.read_text().splitlines()) < before + 3:
            time.sleep(0.02)  # shards are being drawn again
        time.sleep(chance.uniform(0, 2 * DAWDLE))
        if driver.poll() is not None:
            break
        kind = chance.choice(KINDS)
        if kind == "driver":
            driver.kill()
            driver.wait()
            driver = subprocess.Popen(command)
        elif kind == "machine":
            machines.remove_node(chance.choice(sorted(machines.worker_nodes, key=str)), allow_graceful=False)
            join(machines)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(notes.read_text().split()[-1]), 9)
        done[kind] += 1
    code = driver.wait()
    seconds = time.monotonic() - started
    machines.shutdown()
    drawn = Counter(line.split()[0] for line in notes.read_text().splitlines())
    allowed = 2 * done["driver"] + done["worker"] + done["machine"]
    found = {
        "seed": seed,
        "killed": dict(done),
        "exit": code,
        "identical": contents(out) == contents(folder / "unbroken"),
        "shards": len(drawn),
        "drawn twice": drawn.total() - len(drawn),
        "in flight when killed, at most": allowed,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(found), flush=True)
    return found


def throughput(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    machines = cluster((1, 1))
    base = ["--engines", options.engines, "--backend", options.backend, "--threads", "1", "--shard", str(options.shard)]
    base += ["--num", str(options.num), "--batch-size", str(options.batch_size)]
    run = [sys.executable, "-m", "trt_var", "sample", *base]
    rates: dict[str, list[float]] = {"plain": [], "ray": []}
    for turn in range(options.turns):
        parts = [folder / f"plain-{turn}-{i}" for i in (1, 2)]
        rates["plain"].append(rate([[*run, "--part", f"{i}/2", "--out", str(p)] for i, p in enumerate(parts, 1)], parts))
        out = folder / f"ray-{turn}"
        rates["ray"].append(rate([[*run, "--ray", machines.address, "--out", str(out)]], [out]))
    machines.shutdown()
    ratios = [after / before for before, after in zip(rates["plain"], rates["ray"], strict=True)]
    return {"images a second": rates, "ray over plain": ratios, "median": statistics.median(ratios)}


def rate(commands: list[list[str]], folders: list[Path]) -> float:
    """Images a second, from the first shard to the last."""
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    if any(process.wait() for process in running):
        sys.exit("a run failed")
    files = [path for folder in folders for path in folder.glob("shard-*.npz")]
    times = sorted(path.stat().st_mtime for path in files)
    return (len(files) - 1) * shard_of(folders[0]) / (times[-1] - times[0])


def shard_of(folder: Path) -> int:
    size: int = json.loads((folder / "recipe.json").read_text())["shard"]
    return size


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--kills", type=int, default=20, help="in a run; 0: leave them out")
    made.add_argument("--runs", type=int, default=1, help="with kills (default: %(default)s)")
    made.add_argument("--shards", type=int, default=400, help="of a run with kills (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the kills")
    made.add_argument("--turns", type=int, default=3, help="of the throughput; 0: leave it out")
    made.add_argument("--engines", default="digits")
    made.add_argument("--backend", default="onnxruntime")
    made.add_argument("--num", type=int, default=8192)
    made.add_argument("--shard", type=int, default=128)
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("--out", type=Path)
    made.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    main()
