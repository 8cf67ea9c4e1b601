"""Times and memory of eager PyTorch, for ``trt_var.bench`` to set beside a bundle's."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

from trt_var.bench.measure import EAGER_BF16, Row, Seconds, Setting, child, repeated, row
from trt_var.bench.resident import Watch
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.opening import Bundle
from trt_var.bundle.passes import last_scales
from trt_var.errors import BackendError, UsageError
from trt_var_export.eager.model import Eager
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.weights.architecture import parameter_shapes, released_shape, released_vqvae_shape
from trt_var_export.weights.checkpoint import RandomWeights


def check(manifest: Manifest, device: str) -> None:
    """Find out before anything is measured whether eager PyTorch can be.

    Raises:
        BackendError: PyTorch has no such device.
        UsageError: the bundle is not of the released architectures.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("eager PyTorch sees no GPU here; --device cpu measures it on the processor")
    _shapes(manifest, list(manifest.models))


def measure(setting: Setting) -> Row:
    """The published algorithm on random weights of the bundle's architecture.

    In float32, on a GPU under float16 autocast; or under bfloat16 autocast, with the weights of products in it too.
    """
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    manifest = Bundle.open(setting.engines).manifest
    shapes = _shapes(manifest, last_scales(len(manifest.schedule), setting.n_draft))
    weights = {role: RandomWeights(parameter_shapes(shape), 0) for role, shape in shapes.items()}
    vae = released_vqvae_shape(manifest.vae_channels)
    labels = list(range(setting.batch))
    with Watch() as watch:
        model = Eager(shapes, weights, (vae, RandomWeights(parameter_shapes(vae), 2)), setting.device, dtype(setting))
        if setting.backend == EAGER_BF16:
            model.round_weights(torch.bfloat16)

        def run() -> Seconds:
            times = model.generate(labels, setting.n_draft, setting.cfg)
            return times.scales, times.decoder, times.total

        watch.loaded()
        return row(setting, manifest, described(setting), repeated(run, setting.repeats), watch)


def dtype(setting: Setting) -> torch.dtype | None:
    """What the transformers are computed in; None for float32."""
    if setting.backend == EAGER_BF16:
        return torch.bfloat16
    return torch.float16 if setting.device == "cuda" else None


def described(setting: Setting) -> str:
    """Version, device, arithmetic, and threads on a CPU."""
    half = dtype(setting)
    arithmetic = f"{str(half).removeprefix('torch.')} autocast" if half else "float32"
    weights = ", weights of products too" if setting.backend == EAGER_BF16 else ""
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if setting.device == "cpu" else ""
    return f"PyTorch {torch.__version__}, eager, {setting.device}, {arithmetic}{weights}{threads}"


def _shapes(manifest: Manifest, roles: Iterable[Role]) -> dict[Role, TransformerShape]:
    shapes = {role: released_shape(manifest.models[role].depth) for role in roles}
    if any(
        (shape.schedule.sides, shape.vocabulary, shape.width)
        != (manifest.schedule, manifest.vocabulary, manifest.models[role].width)
        for role, shape in shapes.items()
    ):
        raise UsageError("eager PyTorch is measured for the released architectures alone (d16, d20, d24, d30)")
    return shapes


if __name__ == "__main__":
    sys.exit(child(sys.argv[1], measure))
