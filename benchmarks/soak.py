"""Memory over many requests: ``python benchmarks/soak.py --engines digits --requests 2000 --out soak``.

Draws batches of 1 to 32 images, N and labels at random, every eighth request with previews, through one pipeline, and notes
what is resident after each; every backend in a process of its own. Writes soak.json and soak.png, and fails where the last
quarter's median of what the process holds for itself is more than 2 % above the second's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trt_var import Pipeline
from trt_var.bench.resident import resident

ALLOWED, LARGEST, PREVIEWS = 1.02, 32, 1 / 8


def main() -> None:
    options = parser().parse_args()
    found = side_by_side(options, options.backend.split(","))
    print(json.dumps({backend: summary(one) for backend, one in found.items()}, indent=1))
    options.out.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
    plot(found, options.out.with_suffix(".png"))
    grown = [f"{backend} {one['growth']:.1%}" for backend, one in found.items() if one["growth"] > ALLOWED - 1]
    if grown:
        sys.exit(f"memory grew: {', '.join(grown)}")


def side_by_side(options: argparse.Namespace, backends: list[str]) -> dict[str, dict[str, Any]]:
    """Each in a process of its own, so that no backend's memory is counted as another's; times mean nothing here."""
    with ProcessPoolExecutor(len(backends), multiprocessing.get_context("spawn")) as pool:
        begun = [
            pool.submit(soak, options.engines, backend, options.requests, options.seed, options.threads, place)
            for place, backend in enumerate(backends)
        ]
        return {backend: one.result() for backend, one in zip(backends, begun, strict=True)}


def soak(engines: str, backend: str, requests: int, seed: int, threads: int | None, place: int) -> dict[str, Any]:
    chance = random.Random(seed)
    anonymous: list[int] = []
    files: list[int] = []
    images = previews = 0
    with Pipeline.load(engines, backend, threads=threads) as pipeline:
        started = time.monotonic()
        for _ in tqdm(range(requests), desc=f"{backend:12}", position=place, unit="request", disable=None):
            batch, n_draft = chance.randint(1, LARGEST), chance.choice(pipeline.manifest.serves)
            labels = chance.choices(range(pipeline.manifest.classes), k=batch)
            seeds, streamed = chance.randrange(1 << 32), chance.random() < PREVIEWS
            if streamed:
                previews += sum(1 for _ in pipeline.stream(labels, seeds=seeds, n_draft=n_draft))
            else:
                pipeline.generate(labels, seeds=seeds, n_draft=n_draft, batch_size=batch)
            images += batch
            now = resident()
            if now is None:
                sys.exit("this system does not say what is resident; run it on Linux")
            anonymous.append(now.anonymous)
            files.append(now.files)
        seconds, name = time.monotonic() - started, pipeline.backend
    found = {"backend": name, "seed": seed, "requests": requests, "images": images, "previews": previews, "seconds": seconds}
    return found | plateau(anonymous) | {"files": statistics.median(files), "anonymous": anonymous, "file-backed": files}


def plateau(sizes: list[int]) -> dict[str, float]:
    """The first quarter is left out: there every size and N comes for its first time."""
    quarter = len(sizes) // 4
    early, late = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    peaks = {"peak of the second": max(sizes[quarter : 2 * quarter]), "peak of the last": max(sizes[-quarter:])}
    return {"second quarter": early, "last quarter": late, "growth": late / early - 1} | peaks


def summary(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if not isinstance(value, list)}


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for backend, one in found.items():
        line = axes.plot([size / 1e6 for size in one["anonymous"]], lw=0.8, label=f"{backend}, anonymous")[0]
        files = [size / 1e6 for size in one["file-backed"]]
        axes.plot(files, lw=0.8, ls="--", color=line.get_color(), label=f"{backend}, file-backed")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("request")
    axes.set_ylabel("resident MB")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", default="digits")
    found.add_argument("--backend", default="onnxruntime,openvino", metavar="A[,B…]")
    found.add_argument("--requests", type=int, default=2000)
    found.add_argument("--seed", type=int, default=0, help="of sizes, N, labels and kinds of the requests")
    found.add_argument("--threads", type=int, help="of either engine (default: all that may be used)")
    found.add_argument("--out", type=Path, default=Path("soak"))
    return found


if __name__ == "__main__":
    main()
