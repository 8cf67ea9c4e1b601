"""Memory over many batches: ``python benchmarks/soak.py --engines digits --batches 2000 --out soak``.

Draws batch after batch through one pipeline and notes the resident memory. Writes soak.json and soak.png, and fails where
the last quarter is more than 2 % above the second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import psutil
from tqdm import tqdm

from trt_var import Pipeline

ALLOWED = 1.02


def main() -> None:
    options = parser().parse_args()
    process, resident = psutil.Process(), []
    with Pipeline.load(options.engines, options.backend) as pipeline:
        classes = pipeline.manifest.classes
        labels = [i % classes for i in range(options.batch)]
        started = time.monotonic()
        for i in tqdm(range(options.batches), unit="batch", disable=None):
            pipeline.generate(labels, seeds=i * options.batch, batch_size=options.batch)
            resident.append(process.memory_info().rss)
        seconds, backend = time.monotonic() - started, pipeline.backend
    quarter = len(resident) // 4
    early, late = (statistics.median(part) for part in (resident[quarter : 2 * quarter], resident[-quarter:]))
    found = {"backend": backend, "batches": options.batches, "batch": options.batch, "seconds": seconds}
    found |= {"second quarter": early, "last quarter": late, "growth": late / early - 1}
    print(json.dumps(found, indent=1))
    options.out.with_suffix(".json").write_text(json.dumps(found | {"resident": resident}), encoding="utf-8")
    plot(resident, options.out.with_suffix(".png"))
    if late > ALLOWED * early:
        sys.exit(f"memory grew by {late / early - 1:.1%}")


def plot(resident: list[int], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([size / 1e6 for size in resident])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch")
    axes.set_ylabel("resident MB")
    figure.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", default="digits")
    found.add_argument("--backend", default="auto")
    found.add_argument("--batches", type=int, default=2000)
    found.add_argument("--batch", type=int, default=8)
    found.add_argument("--out", type=Path, default=Path("soak"))
    return found


if __name__ == "__main__":
    main()
