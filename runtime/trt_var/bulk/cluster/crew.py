"""The workers of a cluster: one a device on every machine that can draw; who dies, hangs or rounds otherwise goes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trt_var.bulk.cluster.worker import Source, Worker
from trt_var.bulk.recipe import Bulk

log = logging.getLogger(__name__)
CPU_ONLY = ("openvino", "exact")  # backends that want no GPU where there is one
POLL = 1.0  # seconds between looks at who is there
STRIKES = 3  # starts that failed in a row, after which a machine is left alone


@dataclass(eq=False)
class Member:
    """One worker.

    Attributes:
        node, name: Ray's number of the machine, and what people know it by.
        actor: Ray's handle.
        task: the shard that it draws; None while it proves itself, and between two shards.
        awaited: Ray's reference to what it is doing; None between two shards.
        since: when that was asked for, monotonic seconds.
        proved: whether it may draw.
    """

    node: str
    name: str
    actor: Any
    awaited: Any
    since: float
    task: int | None = None
    proved: bool = False


class Crew:
    """All workers, and the machines that are not used."""

    def __init__(self, ray: Any, source: Source, bulk: Bulk) -> None:
        self._ray, self._source, self._bulk = ray, source, bulk
        self._strikes: Counter[str] = Counter()
        self._looked = 0.0
        self._nodes: dict[str, dict[str, Any]] = {}
        self.members: list[Member] = []
        self.refused: dict[str, str] = {}  # machine → why

    @property
    def hopeless(self) -> bool:
        """Whether nobody draws, and of the machines that are there none may."""
        return not self.members and bool(self.refused) and not any(count for _, count, _ in self._places())

    @property
    def nodes(self) -> set[str]:
        """The machines on which somebody may draw now."""
        return {member.node for member in self.members if member.proved}

    def look(self) -> list[Member]:
        """Now and then: a worker for every device, also of machines that came later; returns those of machines that went."""
        if time.monotonic() - self._looked < POLL:
            return []
        self._nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        gone = [member for member in self.members if member.node not in self._nodes]
        for member in gone:
            self.dismiss(member, "its machine is gone")
        for node, count, options in self._places():
            for _ in range(count - sum(member.node == node for member in self.members)):
                self._hire(node, options)
        self._looked = time.monotonic()
        return gone

    def dismiss(self, member: Member, reason: str) -> None:
        """Kill a worker; another takes its place where its machine is still there."""
        if member in self.members:
            self.members.remove(member)
        log.log(logging.WARNING if member.proved else logging.INFO, "the worker on %s ends: %s", member.name, reason)
        with suppress(Exception):  # it is dead already, or its machine is
            self._ray.kill(member.actor)

    def refuse(self, member: Member, reason: str) -> None:
        """Leave a machine alone from now on, and say why in one line."""
        if member.node not in self.refused:
            log.warning("%s is not used: %s", member.name, reason)
        self.refused[member.node] = f"{member.name}: {reason}"
        self.dismiss(member, reason)

    def failed_to_start(self, member: Member, reason: str) -> None:
        """A worker that died before it had proved itself: after a few in a row, its machine is left alone."""
        self._strikes[member.node] += 1
        self.dismiss(member, reason)
        if self._strikes[member.node] >= STRIKES:
            self.refuse(member, f"workers failed to start {STRIKES} times, the last time: {reason}")

    def accept(self, member: Member) -> None:
        """It has proved itself."""
        self._strikes[member.node] = 0
        member.proved, member.awaited = True, None

    def there(self, node: str) -> bool:
        """Whether a machine was there at the last look."""
        return node in self._nodes

    def _places(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """Machines that may be used: how many workers each, and what one takes."""
        resources = {node: found["Resources"] for node, found in self._nodes.items() if node not in self.refused}
        on_gpus = self._source.backend not in CPU_ONLY and any(
            found["Resources"].get("GPU", 0) >= 1 for found in self._nodes.values()
        )
        for node, has in resources.items():
            if on_gpus:
                yield node, int(has.get("GPU", 0)), {"num_gpus": 1, "num_cpus": 0}
            elif has.get("CPU", 0) >= 1:
                threads = self._source.threads or int(has["CPU"])
                yield node, int(has["CPU"]) // threads, {"num_cpus": threads}

    def _hire(self, node: str, options: dict[str, float]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # Ray is there by now

        pinned = NodeAffinitySchedulingStrategy(node, soft=False)
        made = self._ray.remote(Worker).options(scheduling_strategy=pinned, max_restarts=0, max_task_retries=0, **options)
        threads = self._source.threads if "num_gpus" in options else int(options["num_cpus"])
        actor = made.remote(self._source, self._bulk, threads)
        name = f"{self._nodes[node]['NodeManagerAddress']} ({node[:8]})"
        self.members.append(Member(node, name, actor, actor.prove.remote(), time.monotonic()))
