"""Measure the digits bundles for every N: table, plot and model card.

Writes docs/quality.json, docs/quality.png, docs/quality.md and examples/digits/MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from string import Template
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import numpy as np
from tqdm import tqdm

from build import PACKAGED, ROOT, WEIGHTS, load_judge, tuned
from classifier import accuracy
from digits import splits
from train import DRAFTER, REFINER, SCHEDULE, VAE, Studio
from trt_var.backends.base import Backend
from trt_var.backends.choosing import create
from trt_var.bundle.opening import Bundle
from trt_var.bundle.sharing import figures
from trt_var.decoding.sampling import preset
from trt_var.pipeline import Pipeline
from trt_var.quality.evaluation import Judge, measure, spread
from trt_var.quality.samples import Series
from trt_var_export.graphs.modules import Encode
from trt_var_export.graphs.reference import TorchBackend
from trt_var_export.weights.checkpoint import open_checkpoint
from trt_var_training.data import ArrayImages, to_tensor

HERE = Path(__file__).parent
PER_CLASS, ROUNDS = 100, 3
GUIDANCE = (0.0, 0.5, 1.5)
MEASURED = ("accuracy", "frechet", "seconds")


def rounds(pipeline: Pipeline, judge: Judge, n_draft: int, cfg: float) -> dict[str, Any]:
    """Figures over rounds of other seeds."""
    count = PER_CLASS * judge.classes
    sampling = replace(preset("default", SCHEDULE.scales, VAE.vocabulary), cfg=cfg)
    series = [Series(n_draft, PER_CLASS, turn * count, sampling, 50) for turn in range(ROUNDS)]
    found = [asdict(measure(pipeline, judge, one)) for one in series]
    return {name: spread([quality[name] for quality in found])._asdict() for name in MEASURED}


def pairs(weights: Path, engines: Path) -> Iterator[tuple[str, int, Path]]:
    """What is measured: (pair, N, bundle)."""
    for n_draft in range(SCHEDULE.scales + 1):
        yield "training-free", n_draft, PACKAGED
    for n_draft in tuned(weights):
        yield "fine-tuned", n_draft, engines / f"digits-n{n_draft}"


def torch_backend(weights: Path) -> TorchBackend:
    """The plain pair through PyTorch."""
    opened = {part: open_checkpoint(weights / f"{part}.safetensors", "") for part in ("drafter", "refiner", "vae")}
    return TorchBackend({"drafter": opened["drafter"], "refiner": opened["refiner"]}, opened["vae"])


def reconstruction(weights: Path) -> float:
    """Share of held-out digits that the judge still reads after encoder and decoder."""
    held_out = splits()[1]
    vae = Studio(weights, Path("build/digits"), 0).load_vae()
    encode = Encode(vae, SCHEDULE)
    *_, (_, _, f_hat) = encode.quantise(vae.quant_conv(vae.encoder(to_tensor(held_out.images))))
    pixels = (vae.decode(f_hat).detach().permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return accuracy(load_judge(weights), ArrayImages(pixels, held_out.labels))


def measure_all(weights: Path, engines: Path) -> dict[str, Any]:
    judge = Judge(Bundle.open(PACKAGED))
    plan = list(pairs(weights, engines))
    rows = []
    for pair, n_draft, path in tqdm(plan, desc="pairs", disable=None):
        with Pipeline.load(path, "openvino") as pipeline:
            timed = pipeline.backend
            for cfg in GUIDANCE:
                rows.append({"pair": pair, "cfg": cfg, "n_draft": n_draft, **rounds(pipeline, judge, n_draft, cfg)})
    backends: dict[str, Backend] = {name: create(name) for name in ("onnxruntime", "openvino")}
    backends["torch"] = torch_backend(weights)
    by_backend = []
    for backend in tqdm(backends.values(), desc="backends", disable=None):
        with Pipeline(Bundle.open(PACKAGED), backend) as pipeline:
            by_backend.append({"backend": pipeline.backend, "n_draft": 4, **rounds(pipeline, judge, 4, GUIDANCE[-1])})
    held_out = splits()[1]
    return {
        "per_class": PER_CLASS,
        "rounds": ROUNDS,
        "backend": timed,
        "judge_accuracy": judge.accuracy,
        "real_digits_frechet": judge.distance(judge(held_out.images)[1]),
        "reconstruction_accuracy": reconstruction(weights),
        "quality": rows,
        "backends": by_backend,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    panels = [("judged right, %", "accuracy", 100, cfg) for cfg in GUIDANCE[1:2]]
    panels += [("Fréchet distance", "frechet", 1, cfg) for cfg in GUIDANCE[1:]] + [("ms an image", "seconds", 1000, 1.5)]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.5 * len(panels), 3.2), constrained_layout=True)
    for axis, (title, name, factor, cfg) in zip(axes, panels, strict=True):
        for pair, style in (("training-free", "o-"), ("fine-tuned", "s")):
            rows = [row for row in report["quality"] if (row["pair"], row["cfg"]) == (pair, cfg)]
            mean, deviation = (np.array([row[name][part] for row in rows]) * factor for part in ("mean", "deviation"))
            axis.errorbar([row["n_draft"] for row in rows], mean, deviation, fmt=style, capsize=3, label=pair)
        axis.set_xlabel("N, scales drawn by the drafter")
        axis.set_title(f"{title} (guidance {cfg})")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(rows: list[dict[str, Any]], key: str) -> str:
    return figures.table(msgspec.convert(rows, list[figures.Row]), key)


def write_texts(report: dict[str, Any], weights: Path) -> None:
    training = json.loads((weights / "training.json").read_text())
    stage_rows = "\n".join(
        f"| {name} | {stage['steps']} | {stage['seconds']} | {stage['loss']} |" for name, stage in training.items()
    )
    values = {
        **{
            f"quality{i}": table([row for row in report["quality"] if row["cfg"] == cfg], "pair")
            for i, cfg in enumerate(GUIDANCE)
        },
        "backend": report["backend"],
        "backends": table(report["backends"], "backend"),
        "training": stage_rows,
        "minutes": round(sum(stage["seconds"] for stage in training.values()) / 60),
        "judge": f"{report['judge_accuracy']:.1%}",
        "reconstruction": f"{report['reconstruction_accuracy']:.1%}",
        "floor": f"{report['real_digits_frechet']:.2f}",
        "images": PER_CLASS * 10,
        "rounds": ROUNDS,
        "drafter": f"depth {DRAFTER.depth}, width {DRAFTER.width}, MLP {DRAFTER.mlp_width}, shared AdaLN",
        "refiner": f"depth {REFINER.depth}, width {REFINER.width}, MLP {REFINER.mlp_width}",
        "vae": f"{VAE.channels} channels × {VAE.multipliers}, {VAE.vocabulary} codes of width {VAE.code_width}",
        "sides": " ".join(map(str, SCHEDULE.sides)),
        "size": f"{sum(path.stat().st_size for path in weights.glob('*.safetensors')) / 1e6:.1f}",
    }
    for template, path in (("quality.md.in", ROOT / "docs" / "quality.md"), ("model_card.md.in", HERE / "MODEL_CARD.md")):
        path.write_text(Template((HERE / template).read_text()).substitute(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="default: %(default)s")
    parser.add_argument("--engines", type=Path, default=ROOT / "engines", help="fine-tuned bundles (default: %(default)s)")
    parser.add_argument("--texts", action="store_true", help="write the texts again from docs/quality.json")
    options = parser.parse_args()
    data = ROOT / "docs" / "quality.json"
    if not options.texts:
        data.write_text(json.dumps(measure_all(options.weights, options.engines), indent=1) + "\n")
    report = json.loads(data.read_text())
    plot(report, ROOT / "docs" / "quality.png")
    write_texts(report, options.weights)


if __name__ == "__main__":
    main()
