"""``trt-var plan``: what a request costs on a GPU, before one is rented; and which N, batch and precision meet targets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.cli.measuring import fleet
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bench.choose import Candidate, Choice
    from trt_var.bundle.manifest import Manifest, Role

GB, TERA, MAX_LISTED, SHOWN = 1e9, 1e12, 4096, 12


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="memory, operations and the time bound on a GPU; or what meets targets; or how many devices a load needs",
        description="Without targets: list, by batch size, the memory that a bundle needs on a GPU, its operations and "
        "traffic, the time that the device's peak rates do not allow to beat (decoder left out), and the largest batch that "
        "fits. With --target-latency, --memory or --quality: choose N, batch and bundle, from what trt-var bench measured "
        "(--report) or from a device's peak rates, and say why. With --fleet: how many devices serve a load. Needs no GPU.",
    )
    parser.add_argument("--engines", type=expanded, required=True, metavar="DIR", help="the bundle")
    parser.add_argument("--device", metavar="GPU", help="l4, l20 (default), l40s, a10, a100, h100, h200, 4090, 5090")
    parser.add_argument(
        "--batch", type=arguments.whole_numbers, default="1,8,64", metavar="B,B,…", help="default: %(default)s"
    )
    parser.add_argument("--n-draft", type=int, metavar="N", help="default: all scales but two")
    arguments.add_guidance(parser)
    parser.add_argument("--scales", type=int, metavar="k", help="draw only so many scales (default: all)")
    parser.add_argument("--target-latency", type=float, metavar="S", help="seconds a batch at most")
    parser.add_argument("--memory", type=float, metavar="GB", help="gigabytes at most")
    parser.add_argument("--quality", type=float, metavar="FID", help="published FID of the released pair at most")
    parser.add_argument(
        "--report", type=expanded, action="append", metavar="FILE", help="of trt-var bench; several for several precisions"
    )
    fleet.add(parser)
    parser.set_defaults(command=_plan, name=name)


def _plan(options: argparse.Namespace) -> None:
    from trt_var.bench import plan
    from trt_var.bundle.manifest import default_n_draft
    from trt_var.bundle.opening import Bundle

    manifest = Bundle.open(options.engines).manifest
    if not all(1 <= batch <= MAX_LISTED for batch in options.batch):
        raise UsageError(f"--batch lists {', '.join(map(str, options.batch))}; expected 1 to {MAX_LISTED}")
    if options.n_draft is not None and options.n_draft not in manifest.serves:
        raise UsageError(f"--n-draft is {options.n_draft}; this bundle serves {', '.join(map(str, manifest.serves))}")
    if options.fleet:
        fleet.plan(options, manifest)
        return
    if any(target is not None for target in (options.target_latency, options.memory, options.quality)):
        _choose(options, manifest)
        return
    if options.report:
        raise UsageError("--report goes with --target-latency, --memory or --quality")
    name = options.device or "l20"
    gpu = plan.device(name)
    n_draft = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    halved = _one_row(options, manifest, n_draft)
    found = {batch: plan.plan(manifest, gpu, n_draft, batch, halved, options.scales) for batch in options.batch}
    free = f", one row an image in {' and '.join(sorted(halved))}" if halved else ""
    print(f"{options.engines} ({manifest.precision}) on {name}, {gpu.memory / GB:.0f} GB, N = {n_draft}{free}")
    print("batch  weights  cache  activations  total GB   TFLOP  traffic GB  at least")
    for batch, cost in found.items():
        memory = cost.memory
        parts = (memory.weights / GB, memory.cache / GB, memory.activations / GB, memory.total / GB)
        print(
            f"{batch:5}  {parts[0]:7.2f}  {parts[1]:5.2f}  {parts[2]:11.2f}  {parts[3]:8.2f}  {cost.operations / TERA:6.2f}"
            f"  {cost.traffic / GB:10.2f}  {cost.seconds * 1000:5.0f} ms"
            + ("" if memory.total <= plan.USABLE * gpu.memory else "  does not fit")
        )
    print(f"largest batch that fits: {plan.largest_batch(manifest, gpu, n_draft, halved, options.scales)}")


def _one_row(options: argparse.Namespace, manifest: Manifest, n_draft: int) -> frozenset[Role]:
    """The models that guide nothing."""
    from trt_var.decoding.sampling import Sampling

    scales = len(manifest.schedule)
    cfg = Sampling.cfg if options.cfg is None else options.cfg
    sampling = Sampling(cfg, guided_scales=options.guided_scales, scales=options.scales)
    sampling.check(scales, max(manifest.max_top_k, sampling.top_k))
    return sampling.unguided(scales, n_draft) if manifest.one_row else frozenset()


def _choose(options: argparse.Namespace, manifest: Manifest) -> None:
    from trt_var.bench import choose

    for name in ("target_latency", "memory", "quality"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    fids = choose.published_fids(manifest)
    if options.quality is not None and not fids:
        raise UsageError("--quality is a published FID, and there are none for these models; leave it out")
    memory = None if options.memory is None else options.memory * GB
    targets = choose.Targets(options.target_latency, memory, options.quality)
    candidates = _candidates(options, manifest)
    if options.n_draft is not None:
        known = ", ".join(map(str, sorted({one.n_draft for one in candidates})))
        candidates = [one for one in candidates if one.n_draft == options.n_draft]
        if not candidates:
            raise UsageError(f"there are no times of N = {options.n_draft}, but of {known or 'none'}; measure it")
    wanted = "fastest" if options.quality is not None else "largest N, then the fastest"
    _show(choose.choose(candidates, targets, fids), fids, wanted)


def _candidates(options: argparse.Namespace, manifest: Manifest) -> list[Candidate]:
    from trt_var.bench import choose

    if options.report and options.device:
        raise UsageError("--report and --device are given; choose one")
    if options.report:
        return choose.measured([row for path in options.report for row in choose.read_rows(path, manifest)], manifest)
    if not options.device:
        raise UsageError("targets need times: --report FILE from trt-var bench on this machine, or --device for bounds")
    return choose.bounds(manifest, str(options.engines), options.device, options.batch)


def _show(choice: Choice, fids: dict[int, float], wanted: str) -> None:
    best = choice.best
    for one, reasons in sorted(choice.others, key=lambda other: (bool(other[1]), -other[0].rate))[:SHOWN]:
        print(f"  {_text(one, fids)}: {'; '.join(reasons) or f'meets the targets, but is not the {wanted}'}")
    if best is None:
        raise UsageError("nothing meets the targets; the closest are above" if choice.others else "nothing was measured")
    print(f"chosen: {_text(best, fids)}")
    reason = {
        "measured": "as measured",
        "composed": "composed of the measured scales of both plain models; measure it before relying on it",
        "bound": "no faster than this at the device's peak rates, decoder left out; measure it before relying on it",
    }[best.origin]
    print(f"why: of what meets the targets, the {wanted}; {reason}")
    print(f"next: trt-var run --engines {best.engines} --n-draft {best.n_draft} --batch-size {best.batch}")


def _text(one: Candidate, fids: dict[int, float]) -> str:
    fid = f", FID {fids[one.n_draft]}" if one.n_draft in fids else ""
    return (
        f"{one.engines} on {one.backend}, N = {one.n_draft}, batch {one.batch}: {one.seconds:.3g} s, "
        f"{one.rate:.3g} images/s, {one.memory / GB:.2f} GB{fid} ({one.origin})"
    )
