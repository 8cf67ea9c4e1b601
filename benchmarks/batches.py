"""What an image owes to its batch: ``python benchmarks/batches.py --engines digits --backend openvino --num 400``.

Draws the same images in batches of several sizes, and in three other orders at each size, and counts the tokens and
pixels that differ from those of images drawn one by one; and says how many times as long drawing alone takes.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from trt_var import Generation, Pipeline
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bundle.manifest import grids
from trt_var.bundle.opening import Bundle

FLOAT32 = "openvino-float32"  # no choice of the commands: there ONNX Runtime is as fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="digits")
    parser.add_argument("--backend", default="onnxruntime", help=f"or {FLOAT32}")
    parser.add_argument("--num", type=int, default=400)
    parser.add_argument("--batches", default="2,7,8,50")
    options = parser.parse_args()
    found: dict[str, object] = {}
    with load(options.engines, options.backend) as pipeline:
        labels = np.arange(options.num) * 37 % pipeline.manifest.classes
        alone, seconds = drawn(pipeline, labels, np.arange(options.num), 1)
        found["backend"] = pipeline.engine
        for size in map(int, options.batches.split(",")):
            together, faster = drawn(pipeline, labels, np.arange(options.num), size)
            found[f"batches of {size}"] = differences(together, alone) | {"alone takes": round(seconds / faster, 2)}
            for number in range(3):
                order = np.random.default_rng(number).permutation(options.num)
                other, _ = drawn(pipeline, labels[order], order, size)
                found[f"batches of {size}, order {number}"] = differences(other, alone, order)
    print(json.dumps(found, indent=1))


def load(engines: str, backend: str) -> Pipeline:
    if backend != FLOAT32:
        return Pipeline.load(engines, backend)
    bundle = Bundle.open(engines)
    return Pipeline(bundle, OpenVino(False, grids(bundle.manifest)))


def drawn(pipeline: Pipeline, labels: np.ndarray, seeds: np.ndarray, size: int) -> tuple[Generation, float]:
    pipeline.generate(labels[:size].tolist(), seeds=0, batch_size=size)  # a first request of a size takes longer
    started = time.perf_counter()
    return pipeline.generate(labels.tolist(), seeds=seeds.tolist(), batch_size=size), time.perf_counter() - started


def differences(some: Generation, alone: Generation, order: np.ndarray | slice = slice(None)) -> dict[str, float]:
    pixels = np.abs(some.images.astype(np.int16) - alone.images[order])
    tokens = int((some.tokens != alone.tokens[order]).sum())
    return {"tokens": tokens, "of": some.tokens.size, "largest": int(pixels.max()), "mean": float(pixels.mean())}


if __name__ == "__main__":
    main()
