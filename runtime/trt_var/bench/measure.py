"""Times and memory of a bundle, each measurement in a process of its own.

Eager PyTorch is measured the same way by the export package (``trt_var_export.eager.measure``).
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import msgspec

from trt_var.bench.resident import Watch, highest
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.memory import Memory, need
from trt_var.bundle.passes import last_scales
from trt_var.decoding.deferred import NAME as LOADER
from trt_var.decoding.feeds import Request, one_row, upload
from trt_var.decoding.loop import decode, draw, render
from trt_var.decoding.sampling import TOP_K, Sampling, uniforms
from trt_var.errors import BackendError, TrtVarError
from trt_var.pipeline import Pipeline

EAGER, EAGER_BF16 = EAGERS = ("eager", "eager-bf16")
PACKAGES = ("trt-var", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")
Seconds = tuple[list[float], float, float]
"""Of every scale, of the decoder, and of all."""


class Setting(msgspec.Struct, frozen=True):
    """What to measure.

    Attributes:
        backend: may be ``eager`` or ``eager-bf16``, PyTorch with random weights on ``device``.
        threads: that were asked for; None for the engine's own choice, which a row's description tells.
        cfg, guided_scales, scales: see ``Sampling``.
    """

    engines: str
    backend: str
    n_draft: int
    batch: int
    repeats: int
    device: str = "cpu"
    threads: int | None = None
    cfg: float = 1.5
    guided_scales: int | None = None
    scales: int | None = None

    def need(self, manifest: Manifest, drops_outputs: bool) -> Memory:
        """What the memory is estimated at."""
        one_row = self.sampling().unguided(len(manifest.schedule), self.n_draft) if manifest.one_row else ()
        return need(manifest, self.n_draft, self.batch, drops_outputs=drops_outputs, one_row=one_row, drawn=self.scales)

    def sampling(self, top_k: int = TOP_K) -> Sampling:
        """How tokens are drawn, with as many candidates as published, or all that there are."""
        return Sampling(self.cfg, min(TOP_K, top_k), guided_scales=self.guided_scales, scales=self.scales)


class Models(msgspec.Struct, frozen=True):
    """What a bundle holds, as far as times of it stand for another's: patch sides, depth of every transformer, precision."""

    schedule: tuple[int, ...]
    depths: dict[Role, int]
    precision: str

    def alike(self, other: Models) -> bool:
        """Whether both are the same models, in whatever precision."""
        return (self.schedule, self.depths) == (other.schedule, other.depths)


def models(manifest: Manifest) -> Models:
    """What a bundle holds."""
    depths = {role: model.depth for role, model in manifest.models.items()}
    return Models(manifest.schedule, depths, f"{manifest.precision}{', quantised' if manifest.quantised else ''}")


class Row(msgspec.Struct, frozen=True):
    """One measurement: seconds, medians over the repeats; bytes.

    Attributes:
        first: seconds of the first request, what is prepared once included; loading is not.
        total: seconds of a batch.
        scales: seconds of every scale, the host waiting after each.
        decoder: seconds of the VQVAE's decoder.
        peak: resident memory of the process at its highest.
        device_memory: taken on the GPU, where the backend can tell.
        parameters: of the transformers in use.
        drops_outputs: whether the backend spends no memory on outputs that nobody takes.
        anonymous, files: of the process's own memory and of mapped files, what was resident of each at its highest; None
            in older reports, and where the system does not tell.
        added: anonymous memory that the requests took above what there was after loading, at its highest; None as before.
    """

    setting: Setting
    description: str
    first: float
    total: float
    scales: list[float]
    decoder: float
    peak: int
    device_memory: int | None
    parameters: int
    drops_outputs: bool = True
    anonymous: int | None = None
    files: int | None = None
    added: int | None = None


def in_process(setting: Setting, module: str = __name__) -> Row:
    """Measure in a new process, by a module that ``child`` answers for.

    Raises:
        BackendError: it failed, with what it said last.
    """
    command = [sys.executable, "-m", module, msgspec.json.encode(setting).decode()]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (this interpreter, these settings)
    if done.returncode:
        ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = (done.stderr.strip().splitlines() or [ended])[-1] if done.returncode > 0 else ended
        raise BackendError(f"{setting.backend}, N = {setting.n_draft}, batch {setting.batch}: {last}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Row)


def measure(setting: Setting) -> Row:
    """Measure a bundle in this process."""
    with Watch() as watch, Pipeline.load(setting.engines, setting.backend, threads=setting.threads) as pipeline:
        free = pipeline.free_memory()
        run = _bundle(pipeline, setting)
        _wait_for_graphs()
        watch.loaded()
        times = repeated(run, setting.repeats)
        left = pipeline.free_memory()
        drops = pipeline.chain(setting.n_draft).backend.drops_outputs
        taken = 0 if free is None or left is None else free - left
        return row(setting, pipeline.manifest, pipeline.backend, times, watch, taken if taken > 0 else None, drops)


def _wait_for_graphs() -> None:
    """Graphs are loaded aside, and what is loaded is no part of a request."""
    for thread in threading.enumerate():
        if thread.name.startswith(LOADER):
            thread.join()


def repeated(run: Callable[[], Seconds], repeats: int) -> tuple[float, list[Seconds]]:
    """Seconds of the first run, whatever is prepared in it included, and of those after it."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started, [run() for _ in range(repeats)]


def row(
    setting: Setting,
    manifest: Manifest,
    description: str,
    times: tuple[float, list[Seconds]],
    watch: Watch,
    device_memory: int | None = None,
    drops_outputs: bool = True,
) -> Row:
    """A row of what ``repeated`` found, and of what was watched meanwhile."""
    (first, results), peak = times, watch.peak
    return Row(
        setting,
        description,
        first,
        statistics.median(total for _, _, total in results),
        [statistics.median(column) for column in zip(*(scales for scales, _, _ in results), strict=True)],
        statistics.median(decoder for _, decoder, _ in results),
        highest(),
        device_memory,
        sum(
            manifest.models[role].parameters
            for role in last_scales(setting.scales or len(manifest.schedule), setting.n_draft)
        ),
        drops_outputs,
        peak and peak.anonymous,
        peak and peak.files,
        watch.added,
    )


def machine() -> dict[str, str]:
    """Processor, cores, system and the versions of what computes."""
    found = {"processor": platform.processor() or platform.machine(), "system": f"{platform.system()} {platform.machine()}"}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        short = ", ".join(flag for flag in ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if flag in flags)
        found |= {"processor": f"{names[0]} ({short})" if names else found["processor"], "cores": str(len(names))}
    for package in PACKAGES:
        try:
            found[package] = version(package) or "of unknown version"
        except PackageNotFoundError:
            continue
    return found


def _bundle(pipeline: Pipeline, setting: Setting) -> Callable[[], Seconds]:
    """What a backend replays is timed by itself; its scales with the host waiting after each."""
    manifest, chain = pipeline.manifest, pipeline.chain(setting.n_draft)
    batch = chain.backend.padded(setting.batch)
    if batch < setting.batch:
        raise BackendError(f"these engines draw {batch} images at once; measure that, or build them for more")
    sampling = setting.sampling(manifest.max_top_k)
    chain.backend.check_room(setting.n_draft, batch, one_row(chain, setting.n_draft, sampling))
    labels = tuple(i % manifest.classes for i in range(batch))
    numbers = uniforms(range(batch), sum(side**2 for side in manifest.schedule))
    request = Request(labels, numbers, setting.n_draft, sampling)

    warming = iter(range(chain.backend.settled))

    def run() -> Seconds:
        times = [time.perf_counter()]
        for scale in decode(chain, request.n_draft, upload(chain, request)):
            chain.backend.download(scale.tokens)
            times.append(time.perf_counter())
        chain.backend.download(render(chain, scale.f_hat))
        times.append(time.perf_counter())
        *scales, decoder = (b - a for a, b in pairwise(times))
        if not chain.backend.settled:
            return scales, decoder, times[-1] - times[0]
        for _ in warming:  # until it is captured, and perhaps ways of drawing are compared
            draw(chain, request)
        started = time.perf_counter()
        draw(chain, request)
        return scales, decoder, time.perf_counter() - started

    return run


def child(argument: str, measure: Callable[[Setting], Row]) -> int:
    """Answer ``in_process``: a row on stdout; or what went wrong, on one line, last on stderr."""
    try:
        row = measure(msgspec.json.decode(argument, type=Setting))
    except Exception as error:  # whatever it is, the parent says it in one line
        if not isinstance(error, TrtVarError):
            traceback.print_exc()
        reason = "out of memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
        sys.stderr.write(f"\n{reason or 'no reason given'}\n")
        return 1
    sys.stdout.write(f"\n{msgspec.json.encode(row).decode()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(child(sys.argv[1], measure))
