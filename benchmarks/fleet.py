"""A fleet of devices with given batch times: ``python benchmarks/fleet.py --times 1:0.0706,8:0.175,64:1.22 --rate 200``.

For machines that are not here; ``trt-var plan --fleet --report`` reads those of ``trt-var bench``.
"""

from __future__ import annotations

import argparse

from trt_var.bundle.opening import Bundle
from trt_var.serving.batching.times import Times
from trt_var.serving.fleet import Demand, day, failure, least


def main() -> None:
    options = parser().parse_args()
    manifest = Bundle.open("digits").manifest  # of which the planner reads nothing that a device's times depend on
    n_draft = manifest.serves[0]
    times = Times.of({n_draft: options.times})
    for rate in options.rate:
        demand = Demand(rate, options.quantile, options.seconds)
        found = least(manifest, times, demand, (n_draft,))
        lost = failure(manifest, times, demand, found)
        print(
            f"{rate:g} a second: {found.devices} devices, batch {found.batch}, busy {found.busy:.0%}, {found.latency}",
            flush=True,
        )
        print(f"  one lost: {lost.late:.2%} late, {lost.resent} sent again, {lost.spare} to spare", flush=True)
        if options.day:
            hours = day(manifest, times, demand, found)
            print(f"  by the hour: {hours}: {sum(hours)} of {24 * found.devices} device-hours", flush=True)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--times", type=_times, required=True, metavar="BATCH:S,…", help="seconds of a batch")
    found.add_argument("--rate", type=float, nargs="+", default=[200.0], help="requests a second (default: 200)")
    found.add_argument("--quantile", type=float, default=0.95, help="default: %(default)g")
    found.add_argument("--seconds", type=float, default=2.0, help="within which they are answered (default: %(default)g)")
    found.add_argument("--day", action="store_true", help="also devices by the hour")
    return found


def _times(text: str) -> dict[int, float]:
    return {int(batch): float(seconds) for batch, _, seconds in (part.partition(":") for part in text.split(","))}


if __name__ == "__main__":
    main()
