from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import random_weights, save_checkpoint
from trt_var import BundleExistsError, CheckpointError, ExportError, OutputError, Pipeline, Sampling, UsageError
from trt_var.bundle.manifest import default_n_draft
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.schedule import Schedule
from trt_var_export import workshop
from trt_var_export.build import build
from trt_var_export.graphs import verify
from trt_var_export.recipe import Recipe


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("toy")
    shapes = {"drafter": TOY_DRAFTER, "refiner": TOY_REFINER, "vae": TOY_VAE}
    return {part: str(save_checkpoint(random_weights(shape, 7), folder / f"{part}.pth")) for part, shape in shapes.items()}


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill bundles at once, for tests of what surrounds the tracing."""

    def fill(self: workshop.Workshop, folder: Path) -> None:
        (folder / "manifest.json").write_text("{}")

    monkeypatch.setattr(workshop.Workshop, "fill", fill)


def test_fp16_bundle(toy: dict[str, str], tmp_path: Path) -> None:
    out = build(Recipe(**toy, out=tmp_path / "half", precision="fp16"))
    bundle = Bundle.open(out)
    bundle.verify()
    drafter = onnx.load(out / "drafter.onnx", load_external_data=False)
    operators = [node.op_type for node in drafter.graph.node]
    assert operators.count("Attention") == TOY_DRAFTER.depth
    assert all(node.input[0] for node in drafter.graph.node if node.op_type == "LayerNormalization")
    weights = {tensor.name: tensor.data_type for tensor in drafter.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert weights["blocks.0.ffn.fc1.weight.T"] == weights["head.weight.T"] == half
    assert weights["word_embed.weight.T"] == weights["pos_1LC"] == single
    assert bundle.conditions("drafter").dtype == np.float16
    with Pipeline.load(out, "openvino") as pipeline:
        assert pipeline.generate([1, 2], n_draft=2, sampling=Sampling(top_k=1)).images.shape == (2, 8, 8, 3)


def test_step_graphs_hold_what_the_design_says(toy_bundle: Path) -> None:
    for role, depth in (("drafter", TOY_DRAFTER.depth), ("refiner", TOY_REFINER.depth)):
        graph = onnx.load(toy_bundle / f"{role}.onnx", load_external_data=False)
        outputs = [value.name for value in graph.graph.output]
        assert outputs[0] == "tokens"
        assert len(outputs) == 1 + 2 * depth  # tokens and new keys and values: no logits
        names = {tensor.name for tensor in graph.graph.initializer}
        assert not [name for name in names if "ada_" in name or "class_emb" in name]
        assert (toy_bundle / f"{role}.onnx").stat().st_size < 200_000  # weights lie in the data file
        assert not graph.metadata_props and not graph.graph.doc_string
        assert b".py" not in graph.SerializeToString()  # no source paths


def test_plain_var_without_refiner(toy: dict[str, str], tmp_path: Path) -> None:
    out = build(Recipe(toy["drafter"], None, toy["vae"], tmp_path / "plain", compare=False))
    with Pipeline.load(out, "onnxruntime") as pipeline:
        assert pipeline.manifest.serves == (4,)
        assert pipeline.generate(1).tokens.shape == (1, 30)
        with pytest.raises(UsageError, match="has no refiner"):
            pipeline.generate(1, n_draft=2)


def test_finetuned_pair_serves_its_n_alone(toy_bundle: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in toy_bundle.iterdir():
        os.link(file, tuned / file.name)
    manifest = json.loads((tuned / "manifest.json").read_text())
    (tuned / "manifest.json").unlink()
    (tuned / "manifest.json").write_text(json.dumps(manifest | {"serves": [3]}))
    with Pipeline.load(tuned, "onnxruntime") as pipeline:
        assert default_n_draft(pipeline.manifest) == 3
        with pytest.raises(UsageError, match="fine-tuned for N = 3"):
            pipeline.generate(1, n_draft=2)


@pytest.mark.usefixtures("no_tracing")
def test_existing_targets(toy: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    build(Recipe(**toy, out=out))
    before = (out / "manifest.json").stat().st_ino
    with pytest.raises(BundleExistsError, match="--force"):
        build(Recipe(**toy, out=out))
    assert (out / "manifest.json").stat().st_ino == before
    build(Recipe(**toy, out=out, force=True))
    assert (out / "manifest.json").stat().st_ino != before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "otter.png").write_bytes(b"")
    with pytest.raises(BundleExistsError, match="is no bundle"):
        build(Recipe(**toy, out=tmp_path / "photos", force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "photos"]


def test_models_that_do_not_belong_together(toy: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"refiner's scales: .*; the refiner's classes: 1000, .*codebook size"):
        build(Recipe(toy["drafter"], "random:d2", toy["vae"], tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"max_top_k": 0},
        {"max_top_k": 4000},
        {"finetuned": 8, "refiner": None},
        {"drafter": "d17"},
        {"drafter": ""},
        {"refiner": ""},
        {"vae": " "},
    ],
)
def test_recipes_that_make_no_sense(toy: dict[str, str], tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        build(Recipe(**{**toy, "out": tmp_path / "x", **change}))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", ["1,x", "", "2,1", "1,300", "1," + "2" * 5000])
def test_bad_schedules_are_usage_errors(schedule: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["build", "--drafter", "d16", "--schedule", schedule])
    assert "expected rising patch sides from 1 to 256" in capsys.readouterr().err


def test_target_that_no_file_can_have(toy: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        build(Recipe(**toy, out=tmp_path / ("x" * 300)))


def test_graph_that_disagrees_is_refused(toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verify.LOGITS_TOLERANCE, "fp32", 1e-12)
    with pytest.raises(ExportError, match="the drafter's graph disagrees with the torch model at scale 0"):
        build(Recipe(toy["drafter"], None, toy["vae"], tmp_path / "x"))
    assert not list(tmp_path.iterdir())


def test_full_disk(toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: workshop.Workshop, folder: Path) -> None:
        (folder / "drafter.weights").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workshop.Workshop, "fill", full)
    with pytest.raises(OutputError, match="No space left"):
        build(Recipe(**toy, out=tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_build_leaves_no_bundle(toy: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    """Where Python drops what a signal raises, in a callback of C code, the build goes on, and what it makes is whole."""
    command = [sys.executable, "-m", "trt_var", "build", "--drafter", toy["drafter"], "--vae", toy["vae"]]
    for _ in range(3):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "x")], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".x.unfinished-*/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        if process.returncode != 0:
            break
        Bundle.open(tmp_path / "x").verify()
        shutil.rmtree(tmp_path / "x")
    assert process.returncode != 0
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob("**/manifest.json"))
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "Traceback" not in error
        assert not list(tmp_path.iterdir())


def test_schedule_option(toy: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lvl_embed.weight has shape \[4, 128\], expected \[3, 128\]"):
        build(Recipe(**toy, out=tmp_path / "x", schedule=Schedule((1, 2, 5))))
