"""The driver: shards to workers, results to the folder. Whatever dies, every shard is written once, and whole."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from trt_var.bulk.cluster.crew import POLL, Crew, Member
from trt_var.bulk.cluster.folder import Folder
from trt_var.bulk.cluster.joining import joined
from trt_var.bulk.cluster.worker import Arrays, Proof, Source
from trt_var.bulk.recipe import Bulk
from trt_var.bulk.shards import Progress, check_bulk, claimed
from trt_var.bundle.opening import Bundle
from trt_var.errors import BackendError
from trt_var.files.paths import AnyPath, expanded
from trt_var.requests.results import Generation

log = logging.getLogger(__name__)
FAILURES = 3  # of one shard, after which it is held to be its own fault
LOSSES = 10  # of machines under one shard; they come and go for other reasons
PATIENCE, LEAST = 10.0, 60.0  # a shard may take so many times what is usual, and so many seconds in any case
START = 1800.0  # seconds until a worker that is still opening the bundle, or waiting for its device, is replaced
LONGEST = 300  # characters of a reason
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
WAITING = 60.0  # seconds without any worker, after which that is said


def sample_on(
    address: str,
    source: Source,
    bulk: Bulk,
    out: AnyPath,
    progress: Progress | None = None,
    workers: Callable[[int], object] | None = None,
) -> list[Path]:
    """As ``sample``, drawn by one worker a device of a Ray cluster; the folder has the same bytes.

    This process keeps the folder's lock and writes all shards, so that machines need no common file system; they need this
    package, Ray of the same version, and the bundle under the same path. Workers and machines may die, hang and join; the
    shards that they had are drawn again. A worker draws only if its probe is that of the folder.

    Args:
        address: see ``joining.joined``.
        source: what to open on every machine.
        bulk: what.
        out: a folder, new or of an earlier run of the same, on this machine.
        progress: called with the number of images that are there, then with those of every shard that is written.
        workers: called with the number of workers that draw, whenever it changes.

    Returns:
        The shards, in order; of a part, its own.

    Raises:
        UsageError: a value out of range; or the folder holds other images, or something else.
        BundleError: no bundle here.
        BackendError: Ray is not installed, no cluster answers, no machine can draw, or a shard failed three times.
        OutputError: another process writes there, or the disk is full; what is finished stays.
    """
    out = expanded(out)
    manifest = Bundle.open(source.folder).manifest
    checked = check_bulk(manifest, bulk)
    bulk = replace(bulk, sampling=checked.sampling)
    with claimed(out):
        folder = Folder(out, manifest, bulk, checked, source.batch_invariant)
        with joined(address) as ray:
            driver = Driver(ray, source, bulk, folder, progress, workers)
            try:
                driver.run()
            except (ray.exceptions.RayError, ConnectionError) as error:
                raise BackendError(f"the Ray cluster at {address} is lost: {reason_of(error)}") from error
    return [folder.shards.path(index) for index in bulk.own]


class Driver:
    """Gives out what is missing, one shard a worker, until nothing is."""

    def __init__(
        self,
        ray: Any,
        source: Source,
        bulk: Bulk,
        folder: Folder,
        progress: Progress | None,
        workers: Callable[[int], object] | None,
    ) -> None:
        self._ray, self._folder, self._progress, self._told = ray, folder, progress, workers
        self._crew = Crew(ray, source, bulk)
        self._where = (
            f"the bundle must be {'in the package' if source.path is None else f'at {source.path}'} on every machine"
        )
        self._missing: Iterator[int] | None = None
        self._again: deque[int] = deque()
        self._failures: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._failed_on: defaultdict[int, set[str]] = defaultdict(set)
        self._seconds: deque[float] = deque(maxlen=99)  # an image took lately
        self._shown, self._idle_since, self._complained = -1, time.monotonic(), False

    def run(self) -> None:
        """Until every shard is there.

        Raises:
            BackendError: no machine can draw, or a shard fails wherever it is drawn, or the cluster is lost.
        """
        crew = self._crew
        while not self._done():
            for member in crew.look():
                self._lost(member, "its machine is gone", machine=True)
            if crew.hopeless:
                reasons = "; ".join(list(crew.refused.values())[:3])
                raise BackendError(f"no machine of the cluster can draw this: {reasons}")
            self._give_out()
            self._show()
            waited = {member.awaited: member for member in crew.members if member.awaited is not None}
            if not waited:
                time.sleep(POLL / 10)
                continue
            ready, _ = self._ray.wait(list(waited), num_returns=1, timeout=POLL)
            if ready:  # and all others that are: only who is late by then may be called late
                ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
            for awaited in ready:
                self._came(waited[awaited], awaited)
            self._look_for_hung()

    def _done(self) -> bool:
        """Whether nothing is left to give out or to wait for; looks for one more missing shard if none is at hand."""
        if self._missing is None or self._again or any(member.task is not None for member in self._crew.members):
            return False
        index = next(self._missing, None)
        if index is None:
            return True
        self._again.append(index)
        return False

    def _give_out(self) -> None:
        if self._missing is None and self._folder.recipe is not None:
            self._missing = self._folder.missing(self._progress)
        for member in self._crew.members:
            if member.proved and member.awaited is None:
                index = self._next_for(member)
                if index is None:
                    continue
                member.awaited = member.actor.draw.remote(*self._folder.series[index])
                member.task, member.since = index, time.monotonic()

    def _next_for(self, member: Member) -> int | None:
        """First what failed elsewhere; on the machine where it failed only if there is no other."""
        for index in self._again:
            if member.node not in self._failed_on[index] or self._crew.nodes <= self._failed_on[index]:
                self._again.remove(index)
                return index
        return next(self._missing, None) if self._missing is not None else None

    def _came(self, member: Member, awaited: Any) -> None:
        """A result, a proof, or why there is none."""
        if member not in self._crew.members:  # dismissed together with another
            return
        try:
            found = self._ray.get(awaited)
        except self._ray.exceptions.RayError as error:
            lost = isinstance(error, self._ray.exceptions.ActorUnavailableError | self._ray.exceptions.ObjectLostError)
            self._crew_loss(member, reason_of(error), machine=lost)
            return
        if member.task is None:
            self._proved(member, found)
        else:
            self._drawn(member, member.task, found)

    def _proved(self, member: Member, proof: Proof | str) -> None:
        objection = f"{proof} ({self._where})" if isinstance(proof, str) else self._folder.objection(proof)
        if objection is not None:
            self._crew.refuse(member, objection)
            return
        self._crew.accept(member)
        if isinstance(proof, Proof) and not self._seconds:
            self._seconds.append(proof.seconds)
        log.info("%s draws, process %d", member.name, getattr(proof, "process", 0))

    def _drawn(self, member: Member, index: int, found: Arrays) -> None:
        seconds = time.monotonic() - member.since
        member.task = member.awaited = None
        labels, seeds = self._folder.series[index]
        self._seconds.append(seconds / len(seeds))
        self._give_out()  # before this one is written
        self._folder.shards.write(index, Generation(*found, labels, seeds))
        if self._progress:
            self._progress(len(seeds))

    def _crew_loss(self, member: Member, reason: str, machine: bool) -> None:
        """A worker is lost, with what it had."""
        if not member.proved and not machine:
            self._crew.failed_to_start(member, reason)
            return
        self._crew.dismiss(member, reason)
        self._lost(member, reason, machine or not self._crew.there(member.node))

    def _lost(self, member: Member, reason: str, machine: bool) -> None:
        """Its shard comes again, first of all, unless it has failed too often."""
        index = member.task
        if index is None:
            return
        self._again.appendleft(index)
        counted, limit = (self._losses, LOSSES) if machine else (self._failures, FAILURES)
        counted[index] += 1
        if not machine:
            self._failed_on[index].add(member.node)
        if counted[index] >= limit:
            name = self._folder.shards.path(index).name
            raise BackendError(f"{name} failed {limit} times, the last time on {member.name}: {reason}")

    def _look_for_hung(self) -> None:
        now = time.monotonic()
        for member in list(self._crew.members):
            waited = now - member.since
            if member.task is None:
                if member.awaited is not None and waited > START:
                    self._crew_loss(member, f"it did not begin within {START:.0f} s", machine=True)
                continue
            count = len(self._folder.series[member.task][1])
            if waited > max(LEAST, PATIENCE * count * statistics.median(self._seconds)):
                usual = count * statistics.median(self._seconds)
                self._crew_loss(member, f"it hangs: {waited:.0f} s for what takes {usual:.1f} s", machine=False)

    def _show(self) -> None:
        count = sum(member.proved for member in self._crew.members)
        if self._told and count != self._shown:
            self._told(count)
        self._shown = count
        if count:
            self._idle_since, self._complained = time.monotonic(), False
        elif not self._complained and time.monotonic() - self._idle_since > WAITING:
            log.warning("no worker draws yet; is a device of the cluster free, and its bundle still being opened?")
            self._complained = True


def reason_of(error: Exception) -> str:
    """Of Ray's errors, which have many lines, the one that says something."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    lines = [line.strip() for line in COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if any("creation task" in line for line in lines):  # a traceback, whose end says what could not be imported
        return f"it could not be made, {lines[-1][:LONGEST]}; this package must be installed there in the same version"
    told = [line for line in lines if line.startswith(("The actor is dead because", "The actor died because"))]
    return (told or lines or [type(error).__name__])[0][:LONGEST]
