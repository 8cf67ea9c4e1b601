"""Memory and open files of the service over many requests: ``python benchmarks/serving_soak.py --requests 100000``.

Starts ``trt-var serve`` on the digits and offers it a mix: N, seeds, one to four images, streams, clients that go, rubbish.
Writes serving-soak.json. Fails where the last quarter's median of what is resident is more than 2 % above the second's, or
files stay open, or an answer is lost.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from trt_var.serving.load.counting import row
from trt_var.serving.load.mix import Mix
from trt_var.serving.load.plan import Arrivals, plans
from trt_var.serving.load.run import Going, ask, go
from trt_var.serving.load.service import Target

ALLOWED = 1.02
NUMBERS = tuple((n, 1.0) for n in range(7))
IMAGES = tuple((n, 1.0) for n in (1, 2, 3, 4))


def main() -> None:
    options = parser().parse_args()
    given = ["--engines", "digits", "--backend", options.backend, "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "trt_var", "serve", *given], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        target = Target(process.stdout.readline().strip() if process.stdout else "")
        model = ask(target)
        mix = Mix(n_draft=NUMBERS, images=IMAGES, stream=0.1, disconnect=0.03, rubbish=0.02)
        files = psutil.Process(process.pid).num_fds()
        samples: list[int] = []
        done = threading.Event()
        watch = threading.Thread(target=sample, args=(psutil.Process(process.pid), samples, done))
        watch.start()
        rounds = []
        for part in range(options.requests // options.part):
            arrivals = Arrivals((options.rate,), duration=None, count=options.part, seed=part)
            rounds.append(row(go(target, plans(arrivals, mix, model), Going(keep=1))[0]))
        done.set()
        watch.join()
        left = psutil.Process(process.pid).num_fds() - files
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    quarter = len(samples) // 4
    early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    found: dict[str, Any] = {
        "requests": sum(one.requests for one in rounds),
        "images": sum(one.images for one in rounds),
        "statuses": {code: sum(one.statuses.get(code, 0) for one in rounds) for code in rounds[0].statuses},
        "lost": sum(one.lost + one.broken + one.unconnected + one.failed + one.unsound for one in rounds),
        "left": sum(one.left for one in rounds),
        "rubbish": sum(one.rubbish for one in rounds),
        "second_quarter_mb": early / 1e6,
        "last_quarter_mb": late / 1e6,
        "growth": late / early - 1,
        "highest_mb": max(samples) / 1e6,
        "files_more": left,
        "exit": status,
    }
    print(json.dumps(found, indent=1))
    options.out.write_text(json.dumps({**found, "samples": samples}), encoding="utf-8")
    if found["growth"] > ALLOWED - 1 or left > 0 or found["lost"]:
        sys.exit("memory or files grew, or answers were lost")


def sample(process: psutil.Process, samples: list[int], done: threading.Event) -> None:
    """Bytes that are resident, every second."""
    while not done.wait(1):
        samples.append(process.memory_info().rss)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--requests", type=int, default=100_000, help="default: %(default)s")
    found.add_argument("--part", type=int, default=5000, help="requests of one run of the generator (default: %(default)s)")
    found.add_argument("--rate", type=float, default=80.0, help="requests a second (default: %(default)g)")
    found.add_argument("--backend", default="onnxruntime", help="default: %(default)s")
    found.add_argument("--out", type=Path, default=Path("serving-soak.json"), help="default: %(default)s")
    return found


if __name__ == "__main__":
    main()
