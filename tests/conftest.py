"""Bundles that are built once for the whole run."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from helpers import expose_logits, golden_weights, random_weights, save_checkpoint
from trt_var.schedule import Schedule
from trt_var_export.build import build
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.recipe import Recipe

# a shell starts background jobs with Ctrl-C ignored, and what tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
_cache = tempfile.TemporaryDirectory(prefix="trt-var-cache-")
os.environ["XDG_CACHE_HOME"] = _cache.name  # records of what was verified are not the user's


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden models, built from files in the released format."""
    folder = tmp_path_factory.mktemp("golden")
    parts = {
        part: str(save_checkpoint(golden_weights(part), folder / f"{part}.pth")) for part in ("drafter", "refiner", "vae")
    }
    return build(Recipe(**parts, out=folder / "bundle", class_names="imagenet"))


@pytest.fixture(scope="session")
def golden_logits_bundle(golden_bundle: Path) -> Path:
    """The golden models with logits as an output."""
    return expose_logits(golden_bundle, golden_bundle.parent / "logits")


TOY_SCHEDULE = Schedule((1, 2, 3, 4))
TOY_DRAFTER = TransformerShape(2, 128, 2, 320, 96, 16, 10, True, TOY_SCHEDULE)
TOY_REFINER = TransformerShape(1, 64, 1, 256, 96, 16, 10, False, TOY_SCHEDULE)
TOY_VAE = VqvaeShape(32, (1, 2), 1, 2, 16, 96, 3)


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another schedule, vocabulary, code width, class count, MLP ratio and VQVAE, shared AdaLN, nested checkpoint."""
    folder = tmp_path_factory.mktemp("toy")
    drafter = save_checkpoint(random_weights(TOY_DRAFTER, 7), folder / "drafter.pth", nest="var_wo_ddp")
    refiner = save_checkpoint(random_weights(TOY_REFINER, 8), folder / "refiner.pth")
    vae = save_checkpoint(random_weights(TOY_VAE, 9), folder / "vae.pth")
    return build(Recipe(str(drafter), str(refiner), str(vae), folder / "bundle"))
