"""Times and memory of eager PyTorch, for ``trt_var.bench`` to set beside a bundle's."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

from trt_var.bench.measure import Row, Seconds, Setting, child, repeated, row
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
    """The published algorithm on random weights of the bundle's architecture; float16 autocast on a GPU."""
    manifest = Bundle.open(setting.engines).manifest
    shapes = _shapes(manifest, last_scales(len(manifest.schedule), setting.n_draft))
    weights = {role: RandomWeights(parameter_shapes(shape), 0) for role, shape in shapes.items()}
    vae = released_vqvae_shape(manifest.vae_channels)
    half = torch.float16 if setting.device == "cuda" else None
    model = Eager(shapes, weights, (vae, RandomWeights(parameter_shapes(vae), 2)), setting.device, half)
    labels = list(range(setting.batch))

    def run() -> Seconds:
        times = model.generate(labels, setting.n_draft)
        return times.scales, times.decoder, times.total

    arithmetic = "float16 autocast" if half else "float32"
    description = f"PyTorch {torch.__version__}, eager, {setting.device}, {arithmetic}"
    return row(setting, manifest, description, repeated(run, setting.repeats))


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
