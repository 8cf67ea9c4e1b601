"""What runs on a cluster's machines: engines, each a batcher in a process of its own, and ingresses, each the app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from trt_var.errors import BackendError, TrtVarError
from trt_var.pipeline import Pipeline
from trt_var.requests.results import Preview
from trt_var.serving.app.app import build
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.batching.dispatch import State
from trt_var.serving.batching.tickets import Served
from trt_var.serving.engine import Ask, Description, LocalEngine
from trt_var.serving.ray.edge import Once
from trt_var.serving.ray.engine import RayEngine
from trt_var.serving.ray.settings import Args
from trt_var.serving.ray.watching import RayWatcher

ENGINE, INGRESS = "engine", "ingress"


class EngineReplica:
    """One engine. Errors that the app answers with are results here: they are no failures of the replica."""

    async def __init__(self, args: Args) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load, compile and measure.

        Raises:
            TrtVarError: see ``Pipeline.load`` and ``Batcher.start``.
        """
        self._pipeline = await asyncio.to_thread(_opened, args)
        self._watcher = RayWatcher()
        self._engine = LocalEngine(self._pipeline, args.batching(), self._watcher)
        await self._engine.start()

    async def describe(self) -> Description:
        """See ``Engine``."""
        return self._engine.describe()

    async def generate(self, ask: Ask) -> Served | TrtVarError:
        """See ``Engine``."""
        try:
            return await self._engine.generate(ask)
        except TrtVarError as error:
            return _plain(error)

    async def stream(self, ask: Ask) -> AsyncGenerator[Preview | Served | TrtVarError | None, None]:
        """See ``Engine``; None once the request is in the queue."""
        try:
            events = await self._engine.stream(ask)
            try:
                yield None
                async for event in events:
                    yield event
            finally:
                await events.aclose()
        except TrtVarError as error:
            yield _plain(error)

    async def check_health(self) -> None:
        """For Serve, which starts a replica anew that raises here a few times.

        Raises:
            BackendError: the engine has failed. One that drains is well.
        """
        batcher = self._engine.batcher
        self._watcher.look(batcher.planner.waiting, batcher.planner.running, batcher.n_draft)
        if self._engine.state() is State.FAILED:
            raise BackendError(f"the engine has failed: {batcher.trouble}")

    def __del__(self) -> None:
        """Serve has waited for every request by now."""
        engine: LocalEngine | None = self.__dict__.pop("_engine", None)
        if engine is not None:
            engine.batcher.close()
            self._pipeline.close()


def ingress(args: Args) -> Any:
    """The class of an ingress: the app is built where it runs."""

    def built() -> ASGIApp:
        return _app(args)

    return serve.ingress(built)()


def _app(args: Args) -> ASGIApp:
    metrics = Metrics()
    handle = serve.get_deployment_handle(ENGINE, serve.get_replica_context().app_name)
    return Once(build(RayEngine(handle, metrics), args.settings(), metrics))


def _opened(args: Args) -> Pipeline:
    return Pipeline.load(
        args.engines,
        args.backend,
        batch_invariant=args.batch_invariant,
        threads=args.threads or (args.cpus if args.cpus and not args.gpus else None),
        keep_compiled=args.keep_compiled,
        verify=args.verify,
    )


def _plain(error: TrtVarError) -> TrtVarError:
    """Without what it came from, which may not go through pickle."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
