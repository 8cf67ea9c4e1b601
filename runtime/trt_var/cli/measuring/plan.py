"""``trt-var plan``: what a request costs on a GPU, before one is rented; and which N, batch and precision meet targets."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.cli.measuring import fleet
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bench.choose import Candidate, Choice
    from trt_var.bundle.manifest import Manifest, Role

GB, TERA, MAX_LISTED, SHOWN = 1e9, 1e12, 4096, 12


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Without targets: list, by batch size, the memory that a bundle needs on a GPU, its operations and traffic, the "
        "time that the device's peak rates do not allow to beat (decoder left out), and the largest batch that fits. With "
        "--target-latency, --memory or --quality: choose N, batch and bundle, from what trt-var bench measured (--report) "
        "or from a device's peak rates, and say why. With --fleet: how many devices serve a load. Needs no GPU.",
        "plan --engines engines/d30-d16 --device h100 --batch 1,16,64",
        "plan --engines engines/d30-d16 --target-latency 3 --report report/report.json",
        "plan --engines engines/d30-d16 --fleet --rate 200 --devices l20,h100 --price l20=0.8,h100=2.5",
    )
    arguments.add_bundle(parser)
    arguments.add_n_draft(parser)
    arguments.add_guidance(parser)
    parser.add_argument(
        "--batch", type=arguments.whole_numbers, default="1,8,64", metavar="B,B,…", help="default: %(default)s"
    )
    parser.add_argument("--device", metavar="GPU", help="l4, l20 (default), l40s, a10, a100, h100, h200, 4090, 5090")
    parser.add_argument("--target-latency", type=float, metavar="s", help="seconds a batch at most")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a batch, at most")
    parser.add_argument("--quality", type=float, metavar="FID", help="published FID of the released pair at most")
    parser.add_argument(
        "--report", type=expanded, action="append", metavar="FILE", help="of trt-var bench; several for several precisions"
    )
    arguments.add_json(parser)
    fleet.add(parser)
    parser.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> None:
    from trt_var.bundle.opening import Bundle

    manifest = Bundle.open(options.engines).manifest
    if not all(1 <= batch <= MAX_LISTED for batch in options.batch):
        raise UsageError(f"--batch lists {', '.join(map(str, options.batch))}; expected 1 to {MAX_LISTED}")
    if options.n_draft is not None and options.n_draft not in manifest.serves:
        raise UsageError(f"--n-draft is {options.n_draft}; this bundle serves {', '.join(map(str, manifest.serves))}")
    if options.fleet:
        fleet.plan(options, manifest)
    elif any(target is not None for target in (options.target_latency, options.memory, options.quality)):
        _choose(options, manifest)
    elif options.report:
        raise UsageError("--report goes with --target-latency, --memory or --quality")
    else:
        found = _bounds(options, manifest)
        arguments.print_json(found) if options.json else _print_bounds(found)


def _bounds(options: argparse.Namespace, manifest: Manifest) -> dict[str, Any]:
    """What ``--json`` prints without targets; docs/reference/shell.md says what the fields mean."""
    from trt_var.bench import plan
    from trt_var.bundle.manifest import default_n_draft

    name = options.device or "l20"
    gpu = plan.device(name)
    n_draft = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    one_row = _one_row(options, manifest, n_draft)
    costs = {batch: plan.plan(manifest, gpu, n_draft, batch, one_row, options.scales) for batch in options.batch}
    return {
        "engines": str(options.engines),
        "precision": manifest.precision,
        "device": name,
        "device_memory": gpu.memory,
        "n_draft": n_draft,
        "one_row": sorted(one_row),
        "batches": [
            {
                "batch": batch,
                "weights": cost.memory.weights,
                "cache": cost.memory.cache,
                "activations": cost.memory.activations,
                "total": cost.memory.total,
                "operations": cost.operations,
                "traffic": cost.traffic,
                "seconds": cost.seconds,
                "fits": cost.memory.total <= plan.USABLE * gpu.memory,
            }
            for batch, cost in costs.items()
        ],
        "largest_batch": plan.largest_batch(manifest, gpu, n_draft, one_row, options.scales),
    }


def _print_bounds(found: dict[str, Any]) -> None:
    free = f", one row an image in {' and '.join(found['one_row'])}" if found["one_row"] else ""
    memory = f"{found['device_memory'] / GB:.0f} GB"
    print(f"{found['engines']} ({found['precision']}) on {found['device']}, {memory}, N = {found['n_draft']}{free}")
    print("batch  weights  cache  activations  total GB   TFLOP  traffic GB  at least")
    for one in found["batches"]:
        parts = [one[name] / GB for name in ("weights", "cache", "activations", "total")]
        print(
            f"{one['batch']:5}  {parts[0]:7.2f}  {parts[1]:5.2f}  {parts[2]:11.2f}  {parts[3]:8.2f}"
            f"  {one['operations'] / TERA:6.2f}  {one['traffic'] / GB:10.2f}  {one['seconds'] * 1000:5.0f} ms"
            + ("" if one["fits"] else "  does not fit")
        )
    print(f"largest batch that fits: {found['largest_batch']}")


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
    choice = choose.choose(candidates, targets, fids)
    if options.json:
        arguments.print_json(_chosen(choice, fids))
    else:
        _print_choice(choice, fids, wanted)
    if choice.best is None:
        raise UsageError("nothing meets the targets; the closest are above" if choice.others else "nothing was measured")


def _candidates(options: argparse.Namespace, manifest: Manifest) -> list[Candidate]:
    from trt_var.bench import choose

    if options.report and options.device:
        raise UsageError("--report and --device are given; choose one")
    if options.report:
        return choose.measured([row for path in options.report for row in choose.read_rows(path, manifest)], manifest)
    if not options.device:
        raise UsageError("targets need times: --report FILE from trt-var bench on this machine, or --device for bounds")
    return choose.bounds(manifest, str(options.engines), options.device, options.batch)


def _chosen(choice: Choice, fids: dict[int, float]) -> dict[str, Any]:
    """What ``--json`` prints with targets; docs/reference/shell.md says what the fields mean."""

    def plain(one: Candidate) -> dict[str, Any]:
        return {**asdict(one), "rate": one.rate, "fid": fids.get(one.n_draft)}

    others = [{**plain(one), "reasons": reasons} for one, reasons in _closest_first(choice)]
    return {"chosen": None if choice.best is None else plain(choice.best), "others": others}


def _closest_first(choice: Choice) -> list[tuple[Candidate, list[str]]]:
    return sorted(choice.others, key=lambda other: (bool(other[1]), -other[0].rate))


def _print_choice(choice: Choice, fids: dict[int, float], wanted: str) -> None:
    best = choice.best
    for one, reasons in _closest_first(choice)[:SHOWN]:
        print(f"  {_text(one, fids)}: {'; '.join(reasons) or f'meets the targets, but is not the {wanted}'}")
    if best is None:
        return
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
