"""The service on a local Ray cluster while parts of it end: ``python benchmarks/machines.py machine ingress --out
ends.json``.

Three raylets of this machine, the head without processors and two with one each; ``trt-var serve --ray HOST:PORT`` with two
engines, and for each kind that is named ``trt-var load --verify``, while that kind ends without notice and another takes its
place. Ray's proxies share one port here, so that a part of the clients' connections ends with a machine or a proxy.
``--check-every`` and ``--checks`` are how the head finds out that a machine has gone; Ray's own are 3 and 5.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import cluster, join
from on_ray import ENGINE, INGRESS, PROXY, named

NAMES = {"engine": ENGINE, "ingress": INGRESS, "proxy": PROXY}
TOLD = ("requests", "served", "statuses", "codes", "unconnected", "lost", "broken", "problems", "whole")


def main() -> None:
    options = parser().parse_args()
    os.environ |= {
        "RAY_health_check_period_ms": str(round(1000 * options.check_every)),
        "RAY_health_check_failure_threshold": str(options.checks),
    }
    found = {}
    machines = cluster((1, 1))
    try:
        with served(machines.address) as url:
            for kind in options.kinds:
                found[kind] = during(machines, url, kind, options)
                print(json.dumps({kind: found[kind]}), flush=True)
    finally:
        machines.shutdown()
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@contextmanager
def served(address: str) -> Iterator[str]:
    """The URL of two engines of the digits, which must end well."""
    given = f"--ray {address} --replicas 2 --threads 1 --engines digits --backend onnxruntime --batch 8".split()
    service = subprocess.Popen([sys.executable, "-m", "trt_var", "serve", *given], stdout=subprocess.PIPE, text=True)
    if service.stdout is None or not (url := service.stdout.readline().strip()):
        sys.exit("the service does not start")
    yield url
    service.send_signal(signal.SIGTERM)
    if code := service.wait(120):
        sys.exit(f"the service ended with {code}")


def during(machines: Any, url: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """What clients saw while that ended in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "load.json"
        given = ["--rate", str(options.rate), "--duration", str(options.seconds), "--stream", "0.25", "--verify", "digits"]
        command = [sys.executable, "-m", "trt_var", "load", url, *given, "--out", str(out)]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(options.seconds / 3)
        end(machines, kind)
        if load.wait():
            sys.exit("the load failed")
        told = json.loads(out.read_text("utf-8"))
    (row,) = told["rows"]
    return {name: row[name] for name in TOLD} | {"pictures": told["verification"]}


def end(machines: Any, kind: str) -> None:
    """One of them, by SIGKILL; for a machine, one with an engine and without the ingress; another joins."""
    if kind in NAMES:
        named(NAMES[kind])[0].kill()
        return
    ingress, engines = ({one.ppid() for one in named(name)} for name in (INGRESS, ENGINE))
    homes = ingress if kind == "machine-of-ingress" else engines - ingress
    lost = next((node for node in machines.worker_nodes if node.all_processes["raylet"][0].process.pid in homes), None)
    if lost is None:
        sys.exit(f"there is no {kind}: the ingress is where Serve put it")
    machines.remove_node(lost, allow_graceful=False)
    join(machines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "kinds", nargs="+", choices=["machine", "machine-of-ingress", *NAMES], help="what ends, one after the other"
    )
    made.add_argument("--rate", type=float, default=6.0, help="requests a second (default: %(default)g)")
    made.add_argument("--seconds", type=float, default=60.0, help="of each (default: %(default)g)")
    made.add_argument("--check-every", type=float, default=3.0, help="seconds (default: %(default)g)")
    made.add_argument(
        "--checks", type=int, default=5, help="that fail until a machine counts as gone (default: %(default)s)"
    )
    made.add_argument("--out", type=Path)
    return made


if __name__ == "__main__":
    main()
