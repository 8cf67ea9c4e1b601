"""A rolling update of the service on a local Ray cluster, under load: ``python benchmarks/rolling.py --out rolling.json``.

Two engines of one bundle are replaced by two of another, and back, while requests come; none may fail, and every picture
must be one of either bundle, of the new one once it is there.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from on_ray import ask, cluster, run
from PIL import Image

from trt_var import Pipeline

CLIENTS, N_DRAFT = 4, 4
SETTLED = 5.0  # seconds of load before and after each change
Answered = tuple[float, int, int, bytes]
"""When it was asked for, seed, status, body."""


def main() -> None:
    options = parser().parse_args()
    logging.getLogger("trt_var").setLevel(logging.ERROR)
    with cluster():
        told = json.dumps(update((Path("digits"), options.other)), indent=1)
    print(told)
    if options.out:
        options.out.write_text(told + "\n", encoding="utf-8")


def pixels(body: bytes) -> NDArray[np.uint8]:
    data = base64.b64decode(json.loads(body)["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)))


def update(bundles: Sequence[Path]) -> dict[str, Any]:
    run(bundles[0])
    end, answers = threading.Event(), list[Answered]()

    def client(number: int) -> None:
        for seed in range(number, 1 << 30, CLIENTS):
            if end.is_set():
                return
            began = time.monotonic()
            answers.append((began, seed, *ask(seed, N_DRAFT)))

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


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    other = Path("engines/digits-n4")
    made.add_argument("--other", type=Path, default=other, help="bundle of digits (default: %(default)s)")
    made.add_argument("--out", type=Path)
    return made


if __name__ == "__main__":
    main()
