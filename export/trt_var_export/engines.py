"""TensorRT 11 and TensorRT-RTX engines from a bundle's graphs, through the same calls.

TensorRT builds for the GPU that is there; TensorRT-RTX builds ahead of time, without any GPU, for a compute capability.
Precision is what the graphs say: build the bundle with ``--precision fp16`` for half precision.
"""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trt_var.backends.installed import check_whole, needed
from trt_var.backends.tensorrt import logger
from trt_var.backends.tensorrt import profiles as shapes
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.record import GUIDED, Batch, Engine, Guidance, Kind, Profile, Record
from trt_var.backends.tensorrt.simulated import engine as simulated
from trt_var.backends.tensorrt.simulated.device import TARGET
from trt_var.bundle.manifest import Graph, Manifest
from trt_var.bundle.memory import MAX_BATCH
from trt_var.bundle.opening import Bundle, file_sha256
from trt_var.errors import BackendError, BundleExistsError, ExportError, UsageError
from trt_var.files.writing import appearing
from trt_var_export.recipe import Progress, Silent

log = logging.getLogger(__name__)
MAX_TIMINGS = 1 << 30  # bytes
USUAL_BATCH = Batch(1, 8, 64)


@dataclass(frozen=True)
class EngineRecipe:
    """What to build.

    Attributes:
        bundle: whose graphs.
        kind: ``tensorrt``, ``rtx`` or ``simulated``.
        target: a compute capability such as ``sm89``, for RTX; TensorRT takes the GPU that is there.
        batch: smallest, usual and largest.
        graphs: names of graphs; empty for all.
        n_drafts: the N that will be asked for, of those that the bundle serves; empty for all. Fewer take fewer profiles.
        force: replace engines that are there.
        guidance: ``guided``, ``free`` (one row an image), ``refiner-free`` (a guided drafter, the refiner with one row), or
            several; one engine serves all of them.
        shadow: profiles that let the refiner shadow the drafter at every N, as engines for all N from 0 have them anyway.
    """

    bundle: Path
    kind: Kind
    target: str | None = None
    batch: Batch = USUAL_BATCH
    graphs: tuple[str, ...] = ()
    n_drafts: tuple[int, ...] = ()
    force: bool = False
    shadow: bool = False
    guidance: tuple[Guidance, ...] = GUIDED


def build_engines(recipe: EngineRecipe, progress: Progress | None = None) -> Path:
    """Build engines into the bundle; their folder appears there complete or not at all.

    Raises:
        UsageError: a batch, a target or a graph that there is not.
        BundleError, BundleExistsError: no bundle there; or engines, without ``force``.
        BackendError: the package is not installed, or TensorRT sees no GPU.
        ExportError: the builder refused a graph or failed.
    """
    bundle = Bundle.open(recipe.bundle)
    manifest = _narrowed(bundle.manifest, recipe.n_drafts)
    if manifest.precision == "bf16":
        raise UsageError(f"{bundle.path} keeps its weights in bfloat16, for CPUs; build another with --precision fp16")
    if recipe.guidance != GUIDED and not manifest.one_row:
        raise UsageError(f"the graphs of {bundle.path} take two rows an image; build it again for --guidance")
    wanted = _graphs(manifest, recipe)
    builder = Simulation() if recipe.kind == "simulated" else Builder(recipe.kind)
    target = builder.target(recipe.target)
    out = engines.folder(bundle.path, recipe.kind, builder.version, target)
    if out.exists() and not recipe.force:
        raise BundleExistsError(f"{out} exists; --force replaces the engines there")
    with appearing(out, last=engines.RECORD) as folder:
        if recipe.kind == "tensorrt":
            builder.timings = out.with_suffix(f"{out.suffix}.timings")
        built = {}
        for name, graph in wanted.items():
            path = bundle.graph(graph)
            profiles = shapes.profiles(manifest, name, recipe.batch, shadow=recipe.shadow, guidance=recipe.guidance)
            sources = {file: bundle.manifest.files[file].sha256 for file in (graph.onnx, graph.weights)}
            started, plan = time.monotonic(), folder / f"{name}.plan"
            layers, scratch = builder.write(path, plan, profiles, target, progress or Silent())
            size, seconds = plan.stat().st_size, round(time.monotonic() - started, 2)
            log.info("%s: %.1f MB, %d profiles, %.1f s", plan.name, size / 1e6, len(profiles), seconds)
            built[name] = Engine(plan.name, size, file_sha256(plan), sources, seconds, profiles, layers, scratch)
        record = Record(
            engines.SCHEMA, recipe.kind, builder.version, target, recipe.batch, manifest.serves, built, recipe.guidance
        )
        (folder / engines.RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    return out


def _narrowed(manifest: Manifest, n_drafts: tuple[int, ...]) -> Manifest:
    unknown = sorted(set(n_drafts) - set(manifest.serves))
    if unknown:
        raise UsageError(f"--n-draft lists {unknown}; this bundle serves {', '.join(map(str, manifest.serves))}")
    return msgspec.structs.replace(manifest, serves=tuple(sorted(set(n_drafts)))) if n_drafts else manifest


def _graphs(manifest: Manifest, recipe: EngineRecipe) -> dict[str, Graph]:
    """The wanted graphs by name of the engine."""
    batch = recipe.batch
    if not 1 <= batch.smallest <= batch.usual <= batch.largest <= MAX_BATCH:
        raise UsageError(f"batch is {batch.smallest},{batch.usual},{batch.largest}; expected rising sizes up to {MAX_BATCH}")
    known = shapes.graphs(manifest)
    unknown = sorted(set(recipe.graphs) - known.keys())
    if unknown:
        raise UsageError(f"there is no graph {', '.join(unknown)}; the bundle holds {', '.join(known)}")
    return {name: known[name] for name in recipe.graphs or known}


class Builder:
    """The builder of one kind.

    Attributes:
        version: of the installed package.
        timings: file of the timing cache, if there is to be one.

    Raises:
        BackendError: it is not installed or cannot be loaded.
    """

    def __init__(self, kind: Kind) -> None:
        with needed(kind, (engines.MODULES[kind],), f"pip install 'trt-var[{engines.EXTRAS[kind]}]'"):
            self._trt: Any = importlib.import_module(engines.MODULES[kind])
            check_whole(self._trt, "Builder", "ILogger", "OnnxParser", "__version__")
        self._kind = kind
        self.timings: Path | None = None
        self.version: str = self._trt.__version__
        self._logger = logger.make_logger(self._trt)
        self._builder = self._trt.Builder(self._logger)
        if self._builder is None:
            raise BackendError(f"{kind} {self.version} has no builder here: {self._logger.last()}")

    def target(self, wanted: str | None) -> str:
        """The name of the GPU kind that engines will be for.

        Raises:
            UsageError: RTX knows no such compute capability; or one was given to TensorRT, which takes the GPU there is.
        """
        if self._kind == "tensorrt":
            if wanted:
                raise UsageError("--target belongs to --kind rtx; TensorRT builds for the GPU that is there")
            return _present_gpu()
        known = [name.lower() for name in self._trt.ComputeCapability.__members__ if name.startswith("SM")]
        if wanted is None or wanted not in known:
            raise UsageError(f"target is {wanted}; TensorRT-RTX {self.version} builds for {', '.join(known)}")
        return wanted

    def write(
        self, graph: Path, plan: Path, profiles: tuple[Profile, ...], target: str, progress: Progress
    ) -> tuple[dict[str, int], int]:
        """Build one plan; returns its layers by kind and its scratch memory in bytes, as the builder tells.

        Raises:
            ExportError: with the parser's or builder's own words.
        """
        trt = self._trt
        self._logger.clear()
        network = self._builder.create_network(0)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise ExportError(f"{self._kind} cannot parse {graph.name}: {errors}")
        if plan.stem.endswith(engines.FINAL):
            outputs = [network.get_output(i) for i in range(network.num_outputs)]
            for output in (output for output in outputs if output.name.startswith("new_")):
                network.unmark_output(output)
        config = self._config(profiles, target)
        monitor = _monitor(trt, progress, plan.stem)
        config.progress_monitor = monitor
        serialized = self._builder.build_serialized_network(network, config)
        if monitor.cancelled:
            raise KeyboardInterrupt
        if serialized is None:
            raise ExportError(f"{self._kind} cannot build {graph.name}: {self._logger.last()}")
        with plan.open("wb") as file:
            file.write(memoryview(serialized))
        self._keep_timings(config)
        return dict(self._logger.layers), self._logger.scratch

    def _keep_timings(self, config: Any) -> None:
        """Write what was timed beside the engines, for the next build; TensorRT-RTX times nothing."""
        if self.timings:
            part = self.timings.with_suffix(".part")
            part.write_bytes(memoryview(config.get_timing_cache().serialize()))
            part.replace(self.timings)

    def _use_timings(self, config: Any, file: Path) -> None:
        """Begin with what an earlier build timed; what TensorRT refuses of it is left aside, and replaced afterwards."""
        known = b""
        if file.is_file() and file.stat().st_size <= MAX_TIMINGS:
            known = file.read_bytes()
        elif file.exists():
            log.warning("%s is larger than %d bytes or no file: not used, and replaced", file, MAX_TIMINGS)
        for content in (known, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return
            log.warning("%s refuses the timings in %s (%s): they are replaced", self._kind, file, self._logger.last())

    def _config(self, profiles: tuple[Profile, ...], target: str) -> Any:
        config = self._builder.create_builder_config()
        config.clear_flag(self._trt.BuilderFlag.TF32)  # it would round float32 products to 10 bits
        if self.timings:
            self._use_timings(config, self.timings)
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        if self._kind == "rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, target.upper()), 0)
        for wanted in profiles:
            profile = self._builder.create_optimization_profile()
            for name, (smallest, usual, largest) in wanted.shapes.items():
                profile.set_shape(name, smallest, usual, largest)
            if self._kind == "tensorrt":
                profile.extra_memory_target = 0.0  # profiles share the weights; TensorRT-RTX always does
            if config.add_optimization_profile(profile) < 0:
                raise ExportError(f"{self._kind} refuses profile {wanted.name}: {self._logger.last()}")
        return config


class Simulation:
    """Stands for the builder where engines are only simulated: plans say which graph to run, and for which shapes."""

    version = simulated.__version__
    timings: Path | None = None

    def target(self, wanted: str | None) -> str:
        if wanted:
            raise UsageError(f"--target belongs to --kind rtx, not to {TARGET} engines")
        return TARGET

    def write(
        self, graph: Path, plan: Path, profiles: tuple[Profile, ...], target: str, progress: Progress
    ) -> tuple[dict[str, int], int]:
        plan.write_bytes(simulated.plan(graph, profiles, final=plan.stem.endswith(engines.FINAL)))
        return {}, 0


def _present_gpu() -> str:
    try:
        from cuda.core import Device  # only where a GPU is asked for

        device = Device()
        major, minor = device.compute_capability
    except Exception as error:  # the binding raises errors of its own for every way in which a driver is missing
        raise BackendError(f"TensorRT builds on the GPU that engines are for, and none is usable here: {error}") from error
    return f"sm{major}{minor}"


def _monitor(trt: Any, progress: Progress, name: str) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Shows the outermost phases, and ends the build when it is interrupted."""

        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self._outermost: set[str] = set()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                self._outermost.add(phase)
                progress.stage(f"{name}: {phase}"[:40], steps)

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if phase in self._outermost:
                    progress.step()
            except KeyboardInterrupt:
                self.cancelled = True
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            self._outermost.discard(phase)

    return Monitor()
