"""Latency of a bundle: backends × N × batch, by scale, beside eager PyTorch doing what the published code does.

``python benchmarks/speed.py --engines engines/d30-d16 --n-draft 6,8,10 --batch 1,4 --eager --out report``

Every row runs in a process of its own, so that its peak memory is its own. Writes report.json and report.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

EAGER = "eager"


def main() -> None:
    options = parser().parse_args()
    if options.row:
        print(json.dumps(measure(json.loads(options.row))))
        return
    rows = []
    for batch in numbers(options.batch):
        for n_draft in numbers(options.n_draft):
            for backend in [*options.backend.split(","), *([EAGER] if options.eager else [])]:
                request = {"backend": backend, "n_draft": n_draft, "batch": batch, "repeats": options.repeats}
                request |= {"engines": str(options.engines), "device": options.device}
                rows.append(in_process(request))
                show(rows[-1])
    report = {"machine": machine(), "rows": rows}
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot(rows, options.out.with_suffix(".png"))


def in_process(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--row", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{request}: {done.stderr.strip().splitlines()[-1]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One row: the first request's seconds, and medians over the repeats after it."""
    run = eager(request) if request["backend"] == EAGER else bundle(request)
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    results = [run() for _ in range(request["repeats"])]
    medians = [statistics.median(column) for column in zip(*(scales for scales, _, _ in results), strict=True)]
    return request | {
        "first": first,
        "total": statistics.median(total for _, _, total in results),
        "scales": medians,
        "decoder": statistics.median(decoder for _, decoder, _ in results),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def bundle(request: dict[str, Any]) -> Any:
    """A function that draws one batch and returns the seconds of the scales, of the decoder and of it all.

    TensorRT draws it all in one launch, which is timed by itself; its scales are timed with the host waiting after each.
    """
    from trt_var import Pipeline, Sampling
    from trt_var.decoding import Request, decode, draw, render, upload
    from trt_var.sampling import uniforms

    pipeline = Pipeline.load(request["engines"], request["backend"])
    manifest = pipeline.manifest
    labels = tuple(range(request["batch"]))
    numbers_ = uniforms(labels, sum(side**2 for side in manifest.schedule))
    chain = pipeline._chain(request["n_draft"])
    drawn = Request(labels, numbers_, request["n_draft"], Sampling(top_k=min(600, manifest.max_top_k)))

    def run() -> tuple[list[float], float, float]:
        times = [time.perf_counter()]
        for scale in decode(chain, drawn.n_draft, upload(chain, drawn)):
            chain.backend.download(scale.tokens)
            times.append(time.perf_counter())
        chain.backend.download(render(chain, scale.f_hat))
        times.append(time.perf_counter())
        *scales, decoder = (b - a for a, b in pairwise(times))
        if chain.backend.name != "tensorrt":
            return scales, decoder, times[-1] - times[0]
        draw(chain, drawn)
        return scales, decoder, time.perf_counter() - times[-1]

    return run


def eager(request: dict[str, Any]) -> Any:
    """The same for eager PyTorch, on random weights of the bundle's architecture; float16 autocast on a GPU."""
    import torch
    from eager import Eager
    from trt_var.bundle import Bundle
    from trt_var.export.architecture import parameter_shapes, released_shape, released_vqvae_shape
    from trt_var.export.checkpoint import RandomWeights

    manifest = Bundle.open(request["engines"]).manifest
    n_draft = request["n_draft"]
    used = {"drafter": n_draft > 0, "refiner": n_draft < len(manifest.schedule)}
    shapes = {role: released_shape(model.depth) for role, model in manifest.models.items() if used[role]}
    weights = {role: RandomWeights(parameter_shapes(shape), 0) for role, shape in shapes.items()}
    vae = released_vqvae_shape(manifest.vae_channels)
    device = request["device"]
    dtype = torch.float16 if device == "cuda" else None
    model = Eager(shapes, weights, (vae, RandomWeights(parameter_shapes(vae), 2)), device, dtype)

    def run() -> tuple[list[float], float, float]:
        times = model.generate(list(range(request["batch"])), n_draft)
        return times.scales, times.decoder, sum(times.scales) + times.decoder

    return run


def show(row: dict[str, Any]) -> None:
    per_image = row["total"] / row["batch"]
    print(
        f"{row['backend']:12} N={row['n_draft']:<2} batch {row['batch']:<3} {row['total']:7.2f} s, {per_image:.2f} each, "
        f"decoder {row['decoder']:.2f} s, first {row['first']:.2f} s, peak {row['peak_gb']:.1f} GB",
        flush=True,
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.5))
    for i, row in enumerate(rows):
        left = 0.0
        for scale, seconds in enumerate([*row["scales"], row["decoder"]]):
            last = scale == len(row["scales"])
            colour = "0.6" if last else "tab:blue" if scale < row["n_draft"] else "tab:orange"
            axes.barh(i, seconds / row["batch"], left=left, color=colour, edgecolor="white", linewidth=0.5)
            left += seconds / row["batch"]
    axes.set_yticks(range(len(rows)), [f"{row['backend']}, N={row['n_draft']}, batch {row['batch']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds an image: drafter's scales blue, refiner's orange, decoder grey")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def machine() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"processor": platform.processor() or platform.machine(), "system": platform.platform()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        found |= {"processor": lines[0].split(":")[1].strip(), "cores": str(len(lines))}
    for package in ("tensorrt", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "trt-var"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", type=Path, default=Path("engines/d30-d16"))
    found.add_argument("--backend", default="openvino,onnxruntime")
    found.add_argument("--n-draft", default="8")
    found.add_argument("--batch", default="1")
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--eager", action="store_true", help="also eager PyTorch")
    found.add_argument("--device", default="cpu", help="of eager PyTorch: cpu or cuda")
    found.add_argument("--out", type=Path, default=Path("speed"))
    found.add_argument("--row", help=argparse.SUPPRESS)
    return found


if __name__ == "__main__":
    main()
