"""What a request costs on a GPU, from the manifest alone: memory, operations, traffic, and the time that bounds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from trt_var.bundle.manifest import Manifest, Model, Role
from trt_var.bundle.memory import Memory, item_size, need
from trt_var.bundle.passes import Pass, passes
from trt_var.errors import UsageError
from trt_var.schedule import Schedule

USABLE = 0.95  # of a device's memory; the rest is the driver's and the context's
MAX_BATCH = 4096


@dataclass(frozen=True)
class Device:
    """Peak rates from the vendor's data sheets, dense, with float32 accumulation.

    Attributes:
        memory: bytes.
        half, single: operations a second in float16 on tensor cores, and in float32.
        bandwidth: bytes a second.
    """

    memory: float
    half: float
    single: float
    bandwidth: float


DEVICES = {
    "l4": Device(24e9, 121e12, 30e12, 300e9),
    "l20": Device(48e9, 119.5e12, 59.8e12, 864e9),
    "l40s": Device(48e9, 362e12, 91.6e12, 864e9),
    "a10": Device(24e9, 125e12, 31.2e12, 600e9),
    "a100": Device(80e9, 312e12, 19.5e12, 2039e9),
    "h100": Device(80e9, 989e12, 67e12, 3350e9),
    "h200": Device(141e9, 989e12, 67e12, 4800e9),
    "4090": Device(24e9, 165e12, 82.6e12, 1008e9),
    "5090": Device(32e9, 209e12, 105e12, 1792e9),
}


@dataclass(frozen=True)
class Plan:
    """The cost of one batch.

    Attributes:
        memory: by kind.
        operations: of the transformers, multiplications and additions.
        traffic: bytes of weights and cache that the passes read and write.
        seconds: no faster on the device, each pass bounded by its operations or its traffic; decoder left out.
    """

    memory: Memory
    operations: float
    traffic: float
    seconds: float


def device(name: str) -> Device:
    """A known device.

    Raises:
        UsageError: an unknown one.
    """
    if name not in DEVICES:
        raise UsageError(f"device is {name!r}; known are {', '.join(DEVICES)}")
    return DEVICES[name]


def plan(
    manifest: Manifest,
    gpu: Device,
    n_draft: int,
    batch: int,
    one_row: Collection[Role] = (),
    scales: int | None = None,
) -> Plan:
    """The cost of ``batch`` images, of which the drafter draws ``n_draft`` scales; ``one_row`` guide nothing.

    ``scales`` are drawn, all if not given.

    Raises:
        UsageError: a quantised bundle, whose file sizes do not tell how many weights there are; an N that is not served.
    """
    if manifest.quantised:
        raise UsageError("operations are counted from a float bundle's weights; plan with the one that this was made from")
    rate = gpu.half if manifest.precision == "fp16" else gpu.single
    drawn = islice(decoding(manifest, n_draft), scales)
    costs = [work(manifest, role, one, batch, 1 if role in one_row else 2) for role, one in drawn]
    operations, traffic = (sum(column) for column in zip(*costs, strict=True))
    seconds = sum(max(cost[0] / rate, cost[1] / gpu.bandwidth) for cost in costs)
    memory = need(manifest, n_draft, batch, drops_outputs=False, one_row=one_row, drawn=scales)
    return Plan(memory, operations, traffic, seconds)


def largest_batch(
    manifest: Manifest, gpu: Device, n_draft: int, one_row: Collection[Role] = (), scales: int | None = None
) -> int:
    """The largest batch that fits, 0 if none does; see ``plan``."""
    low, high = 0, MAX_BATCH + 1
    while high - low > 1:
        middle = (low + high) // 2
        wanted = need(manifest, n_draft, middle, drops_outputs=False, one_row=one_row, drawn=scales).total
        low, high = (middle, high) if wanted <= USABLE * gpu.memory else (low, middle)
    return low


def decoding(manifest: Manifest, n_draft: int) -> Iterator[tuple[Role, Pass]]:
    """The passes of one decoding, in order.

    Raises:
        UsageError: the bundle does not serve this N.
    """
    if n_draft not in manifest.serves:
        raise UsageError(f"n_draft is {n_draft}; this bundle serves {', '.join(map(str, manifest.serves))}")
    known = {role: {one.name: one for one in passes(manifest, role)} for role in manifest.models}
    for scale in range(Schedule(manifest.schedule).scales):
        role: Role = "drafter" if scale < n_draft else "refiner"
        name = f"hand-over {scale}" if 0 < scale == n_draft else f"scale {scale}"
        yield role, known[role][name]


def work(manifest: Manifest, role: Role, one: Pass, batch: int, per_image: int = 2) -> tuple[float, float]:
    """Operations and bytes of one pass. The embedding of features is counted with the body, which it hardly changes."""
    model: Model = manifest.models[role]
    rows, item = per_image * batch, item_size(manifest)
    size = manifest.files[model.step.weights].size
    head = manifest.vocabulary * model.width
    body = size / item - head
    attention = 2 * one.n * (one.past + one.n) * model.width * model.depth
    operations = 2.0 * rows * (one.n * body + one.m * head + attention)
    cache = 2 * rows * (one.past + one.n) * model.width * model.depth * item
    return operations, size + cache
