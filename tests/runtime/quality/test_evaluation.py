"""The judge, the distance, agreement, and the eval command, on the bundle inside the package."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers import assert_close, record
from trt_var import BundleError, Pipeline, UsageError
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main
from trt_var.quality.evaluation import Judge, agreement, frechet_distance, measure, spread
from trt_var.quality.samples import Series
from trt_var.requests.results import Generation


def test_distance_of_gaussians_with_a_common_basis() -> None:
    """For covariances that commute, the distance has a closed form: |μ₁ − μ₂|² + Σ (√λ₁ − √λ₂)²."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    first, second = rng.random(5) * 3, rng.random(5)
    means = rng.standard_normal((2, 5))
    found = frechet_distance(means[0], (basis * first) @ basis.T, means[1], (basis * second) @ basis.T)
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert_close(found, expected, absolute=1e-9)
    assert_close(frechet_distance(means[0], np.diag(first), means[0], np.diag(first)), 0.0, absolute=1e-9)


def test_drawn_digits_are_read_right() -> None:
    """The plain drafter, the hand-over in the middle, and random pictures, which the judge must not like."""
    judge = Judge(Bundle.open("digits"))
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        for n_draft in (6, 4):
            found = measure(pipeline, judge, Series(n_draft, 20))
            assert found.accuracy >= 0.9, found
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    seen, features = judge(noise)
    assert (seen == np.repeat(np.arange(10), 20)).mean() < 0.3
    assert judge.distance(features) > 2 * found.frechet


def test_agreement() -> None:
    images = np.zeros((2, 2, 2, 3), np.uint8)
    tokens = np.zeros((2, 4), np.uint16)
    labels, seeds = np.zeros(2, np.int64), np.zeros(2, np.uint64)
    same = Generation(images, tokens, labels, seeds)
    assert agreement(same, same).as_json() == {"tokens": 1.0, "images": 1.0, "psnr": None, "largest": 0}
    other_images, other_tokens = images.copy(), tokens.copy()
    other_images[0], other_tokens[0, 1] = 255, 3
    found = agreement(Generation(other_images, other_tokens, labels, seeds), same)
    assert (found.tokens, found.images, found.largest) == (7 / 8, 0.5, 255)
    assert_close(found.psnr, 10 * np.log10(2))
    with pytest.raises(UsageError, match="cannot be compared"):
        agreement(same, Generation(images[:1], tokens[:1], labels[:1], seeds[:1]))


def test_spread() -> None:
    assert spread([1.0]) == (1.0, 0.0)
    assert_close(spread([1.0, 2.0, 3.0]), (2.0, 1.0))


def test_teacher_replaces_history() -> None:
    """The picture is made of the teacher's tokens; drawn on its own history, a pipeline draws the same."""
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        expected = pipeline.generate([1, 2, 3], seeds=5, n_draft=3, batch_size=2)
        forced = pipeline.generate([1, 2, 3], seeds=5, n_draft=3, batch_size=2, teacher=expected.tokens)
        assert agreement(forced, expected).as_json()["tokens"] == 1.0
        other = pipeline.generate([1, 2, 3], seeds=99, n_draft=3, teacher=expected.tokens)
        assert_close(other.images, expected.images, absolute=1)
        assert (other.tokens != expected.tokens).any()
        for teacher in (expected.tokens[:2], expected.tokens.astype(np.float32), expected.tokens.astype(np.int64) + 999):
            with pytest.raises(UsageError, match="teacher"):
                pipeline.generate([1, 2, 3], teacher=teacher)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "bomb", "objects", "nan", "missing", "method"])
def test_damaged_references(tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copytree(PACKAGED / "digits", tmp_path / "digits")) / "judge.npz"
    arrays, whole = dict(np.load(path)), path.read_bytes()
    if damage in ("empty", "truncated", "text"):
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello" * 99}[damage])
    elif damage == "bomb":
        header = io.BytesIO()
        shape = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)}
        np.lib.format.write_array_header_1_0(header, shape)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("mean", "covariance"):
                archive.writestr(f"{name}.npy", header.getvalue() + bytes(10**6))
    elif damage == "method":
        path.write_bytes(
            whole.replace(b"PK\x01\x02\x14\x03", b"PK\x01\x02\x63\x03").replace(b"\x08\x00\x00", b"\x61\x00\x00")
        )
    else:
        arrays["mean"] = arrays["mean"].astype(object) if damage == "objects" else arrays["mean"] * np.nan
        np.savez(path, **{name: array for name, array in arrays.items() if damage != "missing" or name == "covariance"})
    manifest = json.loads((path.parent / "manifest.json").read_text())
    record(path.parent, manifest, path.name)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"holds (no mean|values that are not finite)"):
        Judge(Bundle.open(path.parent))


def test_bundle_without_judge(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError, match="holds no judge"):
        Judge(Bundle.open(toy_bundle))
    assert main(["eval", "--engines", str(toy_bundle), "--judge", "digits"]) == 2
    assert "the bundle draws 10 at 8" in capsys.readouterr().err
