"""What an application on Ray Serve is made of, as a config file's ``args`` have it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trt_var.bundle.hub.address import short_name
from trt_var.errors import UsageError
from trt_var.serving.app.keys import Keys
from trt_var.serving.app.settings import Settings
from trt_var.serving.batching.settings import LONGEST, MOST_WAITING, Batching

CALLBACK = "trt_var.serving.ray.edge:middlewares"  # what a proxy does with requests first
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"  # of a node, where its proxy finds that
Count = Annotated[int, Meta(ge=1)]
Some = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(gt=0, le=LONGEST)]
MOST_INGRESSES = 1000
NAME = r"^[^/.\x00-\x1f\ud800-\udfff][^/\x00-\x1f\ud800-\udfff]{0,99}$"


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of ``trt_var.serving.ray:app``; paths are those of the machines that run the replicas.

    Attributes:
        engines: the bundle's folder, or ``digits``.
        backend, batch_invariant, threads, keep_compiled, verify: see ``Pipeline.load``; threads are ``cpus`` if not given.
        replicas: engines.
        ingresses: processes that speak HTTP behind Serve's proxies; limits of keys are each one's own.
        cpus, gpus: that a replica of the engine takes.
        n_draft, floor, target, batch, waiting, timeout: see ``Batching``.
        model: the name for clients; the folder's, or the repository's on the hub, if not given.
        images: that one request may ask for.
        key_file, key_rate, key_images: who may ask, on the machine of an ingress; see ``Keys``.
        hosts: values of the Host header that are answered; any if there are none.
        page: whether there is one at ``/``.
    """

    engines: Annotated[str, Meta(min_length=1)] = "digits"
    backend: str = "auto"
    batch_invariant: bool = False
    threads: Count | None = None
    keep_compiled: bool = False
    verify: bool = False
    replicas: Count = 1
    ingresses: Annotated[int, Meta(ge=1, le=MOST_INGRESSES)] = 1
    cpus: Some = 1
    gpus: Some = 0
    n_draft: Some | None = None
    floor: Some | None = None
    target: Number = 1.0
    batch: Count | None = None
    waiting: Annotated[int, Meta(ge=1, le=MOST_WAITING)] = 256
    timeout: Number = 60.0
    model: Annotated[str, Meta(pattern=NAME)] | None = None
    images: Annotated[int, Meta(ge=1, le=1000)] = 10
    key_file: str | None = None
    key_rate: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    key_images: Count | None = None
    hosts: tuple[str, ...] = ()
    page: bool = True

    @classmethod
    def of(cls, given: Any) -> Args:
        """From a config file's ``args``.

        Raises:
            UsageError: unknown, of another kind, or out of range.
        """
        try:
            found = msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"args of the application: {error}") from error
        if not found.cpus and not found.gpus:
            raise UsageError("args of the application: a replica needs cpus or gpus; both are 0")
        if found.key_file is None and (found.key_rate is not None or found.key_images is not None):
            raise UsageError("args of the application: key_rate and key_images are limits of keys; give key_file")
        return found

    def batching(self) -> Batching:
        """Of one replica."""
        return Batching(
            batch=self.batch,
            waiting=self.waiting,
            timeout=self.timeout,
            n_draft=self.n_draft,
            floor=self.floor,
            target=self.target,
        )

    def settings(self) -> Settings:
        """Of the app.

        Raises:
            UsageError: the keys cannot be read.
        """
        keys = Keys(Path(self.key_file), self.key_rate, self.key_images) if self.key_file else None
        hosts = frozenset(name.lower() for name in self.hosts)
        return Settings(self.model or short_name(self.engines), self.images, keys=keys, hosts=hosts, page=self.page)
