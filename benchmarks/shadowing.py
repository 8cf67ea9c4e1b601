"""Would it pay to run the refiner over the drafted scales on a second stream, by peak rates?

``python benchmarks/shadowing.py engines/d30-d16 --n-draft 8``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trt_var.bench import plan
from trt_var.bundle.manifest import Role, default_n_draft
from trt_var.bundle.opening import Bundle
from trt_var.bundle.passes import Pass
from trt_var.schedule import Schedule

Work = tuple[float, float]  # operations, bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="of a drafter and a refiner")
    parser.add_argument("--n-draft", type=int)
    options = parser.parse_args()
    manifest = Bundle.open(options.bundle).manifest
    n = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    schedule = Schedule(manifest.schedule)
    for name in ("l20", "4090", "h200"):
        device = plan.device(name)
        rate = device.half if manifest.precision == "fp16" else device.single
        for batch in (1, 8, 64):

            def work(role: Role, new: int, drawn: int, past: int, batch: int = batch) -> Work:
                return plan.work(manifest, role, Pass("", new, drawn, past), batch)

            def seconds(*streams: Work, rate: float = rate, bandwidth: float = device.bandwidth) -> float:
                return max(sum(one[0] for one in streams) / rate, sum(one[1] for one in streams) / bandwidth)

            sizes = [(schedule.tokens(scale), schedule.begin(scale)) for scale in range(n + 1)]
            drafted = [work("drafter", tokens, tokens, past) for tokens, past in sizes[:n]]
            followed = [work("refiner", tokens, 0, past) for tokens, past in sizes[:n]]
            tokens, past = sizes[n]
            apart = sum(map(seconds, drafted)) + seconds(work("refiner", past + tokens, tokens, 0))
            together = sum(map(seconds, drafted, followed)) + seconds(work("refiner", tokens, tokens, past))
            print(f"{name:5} batch {batch:2}, N = {n}: {apart * 1e3:6.1f} ms, shadowed {together * 1e3:6.1f} ms")


if __name__ == "__main__":
    main()
