"""``trt-var calibrate``: a float bundle → one with int8 products."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trt_var.backends.installed import needed
from trt_var.cli import options as arguments
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bundle.manifest import Role
    from trt_var.bundle.opening import Bundle
    from trt_var.decoding.sampling import Sampling
    from trt_var_calibration.cache import Recipe
    from trt_var_calibration.observe import Observed
    from trt_var_calibration.quantise import Quantisation

SAMPLES = 64


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Draw images through drafter and refiner, remember what every linear layer sees, move outliers into the weights "
        "where that is free, and write a bundle with explicit Q/DQ operators. Groups of layers whose quantisation alone "
        "disturbs the logits too much stay in floating point.",
        "calibrate --engines engines/d30-d16 --out engines/d30-d16-int8",
        "calibrate --engines engines/d30-d16 --ranges ranges.npz --mode fp8 --out engines/d30-d16-fp8   # keeps what it saw",
    )
    arguments.add_bundle(parser, ", in float32")
    arguments.add_n_draft(parser, "scales that the drafter draws (default: all but two)")
    arguments.add_seed(parser)
    arguments.add_sampling(parser)
    add_options(parser)
    parser.add_argument(
        "--apply-to", type=expanded, metavar="DIR", help="quantise this bundle of the same weights, e.g. fp16"
    )
    parser.add_argument("--out", type=expanded, required=True, metavar="DIR", help="the bundle to write")
    arguments.add_force(parser)
    parser.set_defaults(command=_calibrate)


def add_options(parser: argparse._ActionsContainer) -> None:
    """What ``trt-var build --precision int8`` takes too."""
    parser.add_argument(
        "--calibrate", type=int, default=SAMPLES, metavar="n", help="images to draw for the ranges (default: %(default)s)"
    )
    parser.add_argument(
        "--ranges", type=expanded, metavar="FILE", help="read what was seen with the same settings, or write it (.npz)"
    )
    parser.add_argument(
        "--mode",
        choices=("int8", "fp8", "weights"),
        default="int8",
        help="fp8: E4M3, for TensorRT on sm89 and later; weights: only they are int8 (default: int8)",
    )
    parser.add_argument(
        "--method",
        choices=("minmax", "percentile", "entropy"),
        default="percentile",
        help="ranges from all that was seen, from all but the rarest, or by least information lost (default: %(default)s)",
    )
    parser.add_argument("--alpha", type=float, metavar="A", help="share of outliers to migrate (default: searched)")
    parser.add_argument(
        "--decoder", choices=("float", "int8"), default="float", help="int8: the VQVAE decoder's convolutions too"
    )
    parser.add_argument(
        "--groups", metavar="G,G,…", help="qkv, proj, fc1, fc2, head: quantise these (default: those that bear it; all: all)"
    )


def _calibrate(options: argparse.Namespace) -> None:
    from trt_var.bundle.manifest import default_n_draft
    from trt_var.bundle.opening import Bundle
    from trt_var.bundle.target import check_bundle_target

    check_bundle_target(options.out, options.force)
    bundle = Bundle.open(options.engines)
    target = Bundle.open(options.apply_to) if options.apply_to else bundle
    n_draft = default_n_draft(bundle.manifest) if options.n_draft is None else options.n_draft
    run(bundle, target, options.out, Drawing(n_draft, options.seed, arguments.sampling(options, bundle.manifest)), options)


@dataclass(frozen=True)
class Drawing:
    """What is drawn to calibrate with."""

    n_draft: int
    seed: int
    sampling: Sampling


def run(bundle: Bundle, target: Bundle, out: Path, drawing: Drawing, options: argparse.Namespace) -> None:
    """Calibrate ``bundle``, sweep, write ``target`` quantised to ``out``; the rest is in ``add_options``.

    Raises:
        UsageError, OutputError: a request that cannot be meant or a place that cannot be written, before anything is drawn.
        BackendError: ONNX is not installed.
    """
    from trt_var.bundle.opening import Bundle

    wanting = "calibration needs ONNX and ONNX Runtime, and one of them"
    with needed(wanting, ("onnx", "onnx_ir", "onnxruntime"), "pip install 'trt-var[cpu,export]'"):
        from trt_var_calibration.decoder import drawn_maps
        from trt_var_calibration.quantise import Quantisation, quantise
    from tqdm import tqdm

    from trt_var.bundle.manifest import FILE_NAME
    from trt_var.files.writing import appearing

    wanted = Quantisation(options.mode, options.method, options.alpha, _groups(bundle, options.groups))
    wanted.check()
    _check(bundle, target, out, drawing, options)
    with appearing(out, last=FILE_NAME) as folder:
        observed = _observed(bundle, drawing, options)
        if options.groups is None:
            wanted = _bearing(bundle, observed, wanted, drawing)
        layers = sum(len(found) for found in observed.values())
        maps = drawn_maps(bundle, drawing.n_draft, drawing.sampling, drawing.seed) if options.decoder == "int8" else None
        with tqdm(total=layers, desc="quantising", disable=None) as bar:
            report = quantise(target, observed, wanted, folder, bar.update, maps)
    _compare(bundle, Bundle.open(out), drawing)
    if maps is not None:
        print(f"decoder: with int8 convolutions pictures at {report['decoder']['psnr']:.1f} dB")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB; next: trt-var run --engines {out}")


def _check(bundle: Bundle, target: Bundle, out: Path, drawing: Drawing, options: argparse.Namespace) -> None:
    """Refuse before anything is drawn what would be refused, or be of no use, afterwards."""
    from trt_var.files.outputs import check_targets
    from trt_var_calibration.cache import weights_identity
    from trt_var_calibration.observe import check_float

    for one in (bundle, target):
        if one.manifest.quantised:
            raise UsageError(f"{one.path} is quantised already; take the bundle that it was made from")
        check_float(one)
    if weights_identity(bundle.manifest) != weights_identity(target.manifest):
        raise UsageError(f"{target.path} is not of the weights of {bundle.path}; --apply-to takes another precision of them")
    manifest = bundle.manifest
    useless = {0, len(manifest.schedule)} if "refiner" in manifest.models else set()
    full = [n for n in manifest.serves if n not in useless]
    if drawing.n_draft not in full:
        raise UsageError(f"--n-draft is {drawing.n_draft}; expected one that uses every model: {', '.join(map(str, full))}")
    if drawing.sampling.more_smooth:
        raise UsageError("--more-smooth draws through other graphs, which are not quantised; leave it out")
    check_targets(files=[options.ranges], folders=[out])


def _compare(bundle: Bundle, quantised: Bundle, drawing: Drawing) -> None:
    """What all of it costs, by scale."""
    from trt_var_calibration.observe import some_labels
    from trt_var_calibration.sensitivity import agreement, errors, psnr_by_scale, walk

    labels = some_labels(bundle)
    expected = walk(bundle, labels, drawing.n_draft, drawing.sampling)
    found = walk(quantised, labels, drawing.n_draft, drawing.sampling, expected)
    figures = zip(errors(found, expected), agreement(found, expected), psnr_by_scale(bundle, found, expected), strict=True)
    for scale, (error, equal, decibels) in enumerate(figures):
        print(
            f"scale {scale}: on equal history logits off by {error:.3f} deviations, {equal:.1%} of the tokens equal, "
            f"pictures at {decibels:.1f} dB"
        )


def _observed(bundle: Bundle, drawing: Drawing, options: argparse.Namespace) -> Observed:
    from tqdm import tqdm

    from trt_var_calibration import cache
    from trt_var_calibration.observe import observe

    wanted = cache.Recipe(drawing.n_draft, options.calibrate, drawing.seed, drawing.sampling, options.calibrate)
    before: tuple[int, Observed] = (0, {})
    if options.ranges and options.ranges.exists():
        recipe, observed = cache.load(options.ranges, bundle.manifest)
        if differing := _differing(recipe, wanted):
            raise UsageError(f"{options.ranges} was taken with other settings: {differing}; give the same, or remove it")
        print(f"{options.ranges}: {recipe.done} of {recipe.samples} images at N = {recipe.n_draft}")
        if recipe.done == recipe.samples:
            return observed
        before = (recipe.done, observed)
    with tqdm(total=options.calibrate, initial=before[0], desc="calibrating", disable=None) as bar:

        def keep(done: int, observed: Observed) -> None:
            bar.update(done - bar.n)
            if options.ranges:
                cache.save(options.ranges, bundle.manifest, replace(wanted, done=done), observed)

        return observe(bundle, drawing.n_draft, options.calibrate, drawing.sampling, drawing.seed, before, keep)


def _differing(found: Recipe, wanted: Recipe) -> str:
    """The options that differ, with the values in the file and here."""

    def settings(recipe: Recipe) -> dict[str, object]:
        return {"n-draft": recipe.n_draft, "calibrate": recipe.samples, "seed": recipe.seed, **asdict(recipe.sampling)}

    here = settings(wanted)
    pairs = [(name.replace("_", "-"), value, here[name]) for name, value in settings(found).items() if value != here[name]]
    return ", ".join(f"--{name} {value} (here {now})" for name, value, now in pairs)


def _bearing(bundle: Bundle, observed: Observed, wanted: Quantisation, drawing: Drawing) -> Quantisation:
    """All groups but those whose quantisation alone goes beyond the limit."""
    from trt_var_calibration.sensitivity import LIMIT, sweep

    chosen: dict[Role, tuple[str, ...]] = dict.fromkeys(observed, ())
    for role, group, error in sweep(bundle, observed, wanted, drawing.n_draft, drawing.sampling):
        kept = not error <= LIMIT  # nor what is no number
        print(f"{role:8} {group:5} alone: logits off by {error:.3f} deviations{', stays in floating point' if kept else ''}")
        if not kept:
            chosen[role] = (*chosen[role], group)
    return replace(wanted, groups=chosen)


def _groups(bundle: Bundle, text: str | None) -> dict[Role, tuple[str, ...]] | None:
    if text is None or text == "all":
        return None
    return dict.fromkeys(bundle.manifest.models, tuple(part.strip() for part in text.split(",")))
