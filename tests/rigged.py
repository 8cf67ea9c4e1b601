"""A local cluster for tests, and workers that can be made to die, hang, dawdle or round otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from trt_var import BundleError, Pipeline
from trt_var.bulk.cluster import Source

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


START = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)"


@cache
def trouble() -> str:
    """Why no cluster can be started on this machine, whatever this package does; nothing if one can."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        run = subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "Ray did not start within two minutes"
    return "" if run.returncode == 0 else f"Ray does not start here: {run.stderr.strip().splitlines()[-1]}"


def cluster(nodes: int) -> Cluster:
    """A head without processors, and machines of one each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        add(made)
    return made


def add(made: Cluster, **environment: str) -> Any:
    return made.add_node(num_cpus=1, object_store_memory=100 << 20, env_vars=environment)


@dataclass(frozen=True)
class Rigged(Source):
    """What opens is told by a JSON file what to do, and writes down what it draws: first seed, process, machine."""

    control: Path = Path()

    def tell(self, **orders: object) -> Rigged:
        (self.control / "orders.json").write_text(json.dumps(orders))
        return self

    def drawn(self) -> list[tuple[int, int, str]]:
        path = self.control / "drawn.txt"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(seed), int(process), node) for seed, process, node in lines]

    def opened(self) -> Pipeline:
        orders = json.loads((self.control / "orders.json").read_text())
        if orders.get("lost"):
            raise BundleError("no bundle at /there")
        pipeline = Source.opened(self)
        plain = pipeline.generate

        def generate(labels: Any, **options: Any) -> Any:
            if "seeds" in options:  # a shard, not the probe
                first = options["seeds"][0]
                with (self.control / "drawn.txt").open("a") as file:
                    file.write(f"{first} {os.getpid()} {ray.get_runtime_context().get_node_id()}\n")
                if first in orders.get("die", ()):
                    os._exit(1)
                if first in orders.get("fail", ()):
                    raise MemoryError("too little of it")
                if first in orders.get("hang", ()) and sum(one[0] == first for one in self.drawn()) == 1:
                    time.sleep(1e6)
                time.sleep(orders.get("sleep", 0))
                while orders.get("held") and not (self.control / "go").exists():
                    time.sleep(0.05)
            made = plain(labels, **options)
            made.images[0, 0, 0, 0] ^= "ODD" in os.environ
            return made

        pipeline.generate = generate  # type: ignore[method-assign]
        return pipeline
