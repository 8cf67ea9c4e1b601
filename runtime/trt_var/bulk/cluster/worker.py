"""What runs on the machines of a cluster: a pipeline that proves itself, then draws shards."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_var.bulk.probing import drawer_of, probe, size_of
from trt_var.bulk.recipe import Bulk, Drawer
from trt_var.bulk.shards import drawn
from trt_var.bundle import manifest as manifests
from trt_var.bundle.opening import Bundle
from trt_var.bundle.packaged import is_packaged, packaged
from trt_var.errors import BackendError, TrtVarError
from trt_var.files.paths import AnyPath, expanded
from trt_var.pipeline import Pipeline
from trt_var.reopening import DIGITS

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint16]]


@dataclass(frozen=True)
class Source:
    """What every machine opens.

    Attributes:
        path: the bundle's folder, absolute and with its links as they are, or its address on the hub, with the commit; None
            for the digits inside the package.
        backend, batch_invariant, threads, keep_compiled, verify: see ``Pipeline.load``.
    """

    path: Path | str | None
    backend: str = "auto"
    batch_invariant: bool = False
    threads: int | None = None
    keep_compiled: bool = False
    verify: bool = False

    @classmethod
    def of(cls, engines: AnyPath, bundle: Bundle, backend: str = "auto") -> Source:
        """The bundle that was opened under a path."""
        own = is_packaged(bundle.path, DIGITS)
        place = bundle.source or Path(os.path.abspath(expanded(engines)))  # noqa: PTH100 - links stay
        return cls(None if own else place, backend)

    @property
    def folder(self) -> Path | str:
        """Where the bundle is on this machine, or its address.

        Raises:
            OSError: see ``packaged``.
        """
        return packaged(DIGITS) if self.path is None else self.path

    def opened(self) -> Pipeline:
        """The bundle on its backend.

        Raises:
            BundleError: not there, or damaged.
            BackendError: the backend is not usable here.
        """
        return Pipeline.load(
            self.folder,
            self.backend,
            batch_invariant=self.batch_invariant,
            threads=self.threads,
            keep_compiled=self.keep_compiled,
            verify=self.verify,
        )


@dataclass(frozen=True)
class Proof:
    """What a machine is, and what it drew to show it.

    Attributes:
        bundle: sha256 of the manifest.
        drawer: engine and arithmetic.
        probe: see ``probing.probe``.
        seconds: that an image of the probe took, with what is prepared once.
        process: its number there.
    """

    bundle: str
    drawer: Drawer
    probe: str
    seconds: float
    process: int


class Worker:
    """One device. Ray makes an actor of it; every method is a task."""

    def __init__(self, source: Source, bulk: Bulk, threads: int | None) -> None:
        self._source, self._bulk = replace(source, threads=threads), bulk
        self._pipeline: Pipeline | None = None

    def prove(self) -> Proof | str:
        """Open the bundle and draw the probe; or why that cannot be done here, which another try will not change."""
        try:
            pipeline = self._source.opened()
            started = time.monotonic()
            found = probe(pipeline, self._bulk)
        except TrtVarError as error:
            return str(error)
        self._pipeline = pipeline
        drawer = drawer_of(pipeline)
        seconds = (time.monotonic() - started) / size_of(drawer, self._bulk)
        return Proof(manifests.identity(pipeline.manifest), drawer, found, seconds, os.getpid())

    def draw(self, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Arrays:
        """Images [n, H, W, 3] and tokens [n, L] of a shard; they go to the driver, nothing is written here.

        Raises:
            BackendError: the engine failed, or nothing has been proved.
        """
        if self._pipeline is None:
            raise BackendError("this worker has not proved itself; call prove first")
        made = drawn(self._pipeline, self._bulk, self._bulk.sampling, labels, seeds)
        return made.images, made.tokens
