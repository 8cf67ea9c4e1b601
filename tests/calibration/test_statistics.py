"""What is remembered of the layers, what the chain shows them, and the arithmetic of migration."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrating import SETTINGS, N
from helpers import assert_close, record
from trt_var import UsageError
from trt_var.bundle.opening import Bundle
from trt_var.errors import DataError
from trt_var_calibration import migrate
from trt_var_calibration.grids import GRIDS, Grid
from trt_var_calibration.observe import Observed, observe
from trt_var_calibration.statistics import BINS, ROWS, Statistics, entropy, minmax, percentile


class TestStatistics:
    def test_channels_histogram_and_rows(self) -> None:
        rng = np.random.default_rng(0)
        parts = [rng.standard_normal((n, 2, 8), np.float32) * 10**k for k, n in enumerate((5, 40, 700))]
        found = Statistics(8)
        for part in parts:
            found.add("x", part)
        everything = np.concatenate([part.reshape(-1, 8) for part in parts])
        assert_close(found.channels, np.abs(everything).max(0))
        assert found.histogram.sum() == everything.size
        assert found.edge >= minmax(found) == np.abs(everything).max()
        assert_close(percentile(found, 0.99), np.quantile(np.abs(everything), 0.99), absolute=2 * found.edge / BINS)
        assert ROWS / 2 <= len(found.rows) <= ROWS
        assert all((everything == row).all(1).any() for row in found.rows)

    def test_entropy_clips_a_long_tail(self) -> None:
        found = Statistics(4)
        values = np.random.default_rng(1).standard_normal((20000, 4)).astype(np.float32)
        values[0, 0] = 60
        found.add("x", values)
        assert 2.5 < entropy(found) < 30
        assert minmax(found) == 60

    @pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-40, 1e-37, 1e-20, 1e20, 3e38])
    def test_ranges_of_any_size(self, largest: float) -> None:
        """Zeros among them, and what grows from nothing to this."""
        found = Statistics(2)
        for share in (0.0, 1e-3, 1.0):
            found.add("x", np.array([[0, -largest * share], [largest * share / 2, 0]], np.float32))
        assert minmax(found) == np.float32(largest)
        for method in (percentile, entropy):
            assert 0 <= method(found) <= minmax(found)
        assert percentile(found) == pytest.approx(largest, rel=0.01, abs=1e-44)

    def test_not_finite(self) -> None:
        with pytest.raises(DataError, match=r"the input of blocks\.1\.ffn\.fc2 is not finite"):
            Statistics(2).add("blocks.1.ffn.fc2", np.array([[1, np.nan]]))


class TestMigration:
    def test_weights_round_to_127_levels_an_output(self) -> None:
        weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32) * np.logspace(
            -3, 3, 32, dtype=np.float32
        )
        found, scale = migrate.quantise_weight(weight)
        assert found.min() >= -127
        assert_close((found * scale - weight) / np.abs(weight).max(0), 0 * weight, absolute=0.51 / 127)

    @pytest.mark.parametrize("grid", GRIDS.values())
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_scales_are_never_zero(self, grid: Grid, dtype: type[np.floating]) -> None:
        """What a scale stands for stays on the grid, however small; zeros have one too."""
        grid = replace(grid, scales=np.dtype(dtype))
        largest = np.array([0, 1e-45, 1e-38, 1e-9, 1e-6, 1e-4, 1, 6e4], np.float32)
        scale = grid.scale(largest)
        assert (scale > 0).all() and (scale == scale.astype(dtype)).all()
        assert (largest / scale <= grid.largest * 1.001).all()
        assert (largest[5:] / scale[5:] > grid.largest / 4).all()
        assert np.isinf(grid.scale(np.array([1e9], np.float32))) == (dtype is np.float16)

    def test_channels_that_carry_nothing(self) -> None:
        """What the pictures did not use is left alone, and what is left is migrated as if it were all."""
        rng = np.random.default_rng(0)
        values, weight = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal((8, 4)).astype(np.float32)
        values[:, 3] = 40 * values[:, 3]
        whole, some = Statistics(8), Statistics(16)
        whole.add("x", values)
        some.add("x", np.concatenate((values, 0 * values), 1))
        found = migrate.factors(some, np.concatenate((weight, weight)), 0.5)
        assert_close(found[:8], migrate.factors(whole, weight, 0.5), relative=1e-6)
        assert (found[8:] == 1).all()
        assert (migrate.factors(some, np.zeros((16, 4), np.float32), 0.5) == 1).all()
        assert (migrate.factors(Statistics(16), np.ones((16, 4), np.float32), 0.5) == 1).all()

    def test_outlier_channels(self) -> None:
        rng = np.random.default_rng(0)
        rows, weight = rng.standard_normal((500, 64)).astype(np.float32), rng.standard_normal((64, 32)).astype(np.float32)
        statistics = Statistics(64)
        rows[:, 5] *= 50
        weight[5] /= 50
        statistics.add("x", rows)
        plain = migrate.plan(statistics, weight, 0, "minmax")
        alpha = migrate.best_alpha([(statistics, weight)], "minmax")
        moved = migrate.plan(statistics, weight, alpha, "minmax")
        assert alpha > 0
        assert moved.error < plain.error / 5, (moved.error, plain.error)


def test_every_layer_is_seen_as_often_as_it_runs(digits: Bundle, observed: Observed) -> None:
    """Both branches; the drafter on its scales, the refiner on all: prefix and its own."""
    tokens = {"drafter": sum(side**2 for side in (1, 2, 3, 4)), "refiner": sum(side**2 for side in (1, 2, 3, 4, 6, 8))}
    for role, model in digits.manifest.models.items():
        assert len(observed[role]) == 4 * model.depth + 1
        seen = observed[role]["blocks.0.attn.mat_qkv"]
        assert seen.histogram.sum() == 20 * 2 * tokens[role] * model.width
    drawn = observed["refiner"]["head"].histogram.sum()
    assert drawn == 20 * 2 * (36 + 64) * 64, "logits are computed for drawn scales alone"


def test_same_seed_same_statistics(digits: Bundle, observed: Observed) -> None:
    again = observe(digits, N, 20, SETTINGS)
    for role, found in observed.items():
        for name, one in found.items():
            assert (again[role][name].histogram == one.histogram).all()
            assert (again[role][name].rows == one.rows).all()


class TestMistakes:
    def test_samples(self, digits: Bundle) -> None:
        for samples in (0, 1, 5000):
            with pytest.raises(UsageError, match="calibration takes 2 to 4096"):
                observe(digits, N, samples, SETTINGS)

    def test_overflowing_weights_name_the_layer(self, digits: Bundle, tmp_path: Path) -> None:
        out = tmp_path / "broken"
        shutil.copytree(digits.path, out)
        table = np.load(out / "refiner.conditions.npy")
        table[:, 1 + 3] = 3e38  # times a normalised input
        np.save(out / "refiner.conditions.npy", table)
        manifest = json.loads((out / "manifest.json").read_text())
        record(out, manifest, "refiner.conditions.npy")
        (out / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"the input of blocks\.0\.ffn\.fc1 is not finite"):
            observe(Bundle.open(out), N, 4, SETTINGS)
