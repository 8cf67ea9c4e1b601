"""Train everything that the digits bundle holds: VQVAE, judge, drafter, refiner, and pairs fine-tuned for some N.

The stages free3 and free4 are trained on request alone: pairs drawn without guidance, which docs/training.md measures.

Goes on where it was broken off. Two cores take about half an hour. Weights are written as float16 safetensors, and the
figures of every stage beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from classifier import Classifier, ClassifierObjective, accuracy, judge_batches
from digits import AUGMENTATION, splits
from trt_var.schedule import Schedule
from trt_var_export.models.transformer import Transformer, TransformerShape
from trt_var_export.models.vqvae import Vqvae, VqvaeShape
from trt_var_export.weights.checkpoint import open_checkpoint
from trt_var_training.contrastive import Contrast, ContrastObjective
from trt_var_training.data import Batches
from trt_var_training.trainer import Objective, Plan, train
from trt_var_training.var import Teacher, VarObjective, drafter_objective, fresh_transformer, refiner_objective
from trt_var_training.vqvae import VqvaeObjective, fresh_vqvae
from trt_var_training.weights import load_transformer, load_vqvae, save_weights

HERE = Path(__file__).parent
SCHEDULE = Schedule((1, 2, 3, 4, 6, 8))
VAE = VqvaeShape(32, (1, 1, 2), 1, 1, 8, 256, 4)
DRAFTER = TransformerShape(5, 128, 2, 256, 256, 8, 10, True, SCHEDULE)
REFINER = TransformerShape(2, 64, 1, 256, 256, 8, 10, False, SCHEDULE)
TUNED = (3, 4)  # the N that fine-tuned pairs are made for
BATCH = 32
PLANS = {
    "judge": Plan(800, 2e-3, weight_decay=0.01),
    "vae": Plan(1000, 2e-3, weight_decay=0.0, betas=(0.9, 0.99)),
    "drafter": Plan(1800, 2e-3),
    "refiner": Plan(2000, 4e-3),
    "drafter-tuned": Plan(400, 3e-4),
    "refiner-tuned": Plan(600, 1e-3),
    "drafter-free": Plan(150, 2e-4),
    "refiner-free": Plan(120, 6e-4),
}
# the published β 0.02 and λ 50 push small models past their goal in as many steps: docs/training.md
CONTRASTS = {"drafter": Contrast(0.1, 1.0), "refiner": Contrast(0.1, 2.0)}


class Studio:
    """The stages; each reads what it needs from the weights that earlier ones wrote."""

    def __init__(self, out: Path, work: Path, seed: int) -> None:
        self.out, self.work, self.seed = out, work, seed
        self.images, self.held_out = splits()
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)

    def batches(self, stage: str) -> Batches:
        offset = sum(map(ord, stage))  # every stage sees other batches
        return Batches(self.images, BATCH, self.seed * 10_000 + offset, AUGMENTATION)

    def run(self, stage: str, plan: Plan, objective: Objective) -> None:
        """Train, save the weights, and note the mean losses of the last steps."""
        started = time.monotonic()
        with tqdm(total=plan.steps, desc=f"{stage:12}", disable=None) as bar:
            history = train(objective, plan, self.work / f"{stage}.checkpoint", lambda done, _: bar.update(done - bar.n))
        save_weights(self.out / f"{stage}.safetensors", objective.trained, half=True)
        if history:
            last = history[-50:]
            means = {name: round(float(np.mean([step[name] for step in last])), 4) for name in last[0]}
            self.note(stage, {"steps": plan.steps, "seconds": round(time.monotonic() - started), **means})

    def note(self, stage: str, figures: dict[str, Any]) -> None:
        path = self.out / "training.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {stage: {**known.get(stage, {}), **figures}}, indent=2) + "\n")

    def judge(self) -> None:
        model = Classifier(self.seed)
        self.run("judge", PLANS["judge"], ClassifierObjective(model, judge_batches(self.images, self.seed)))
        self.note("judge", {"accuracy": accuracy(model, self.held_out)})

    def vae(self) -> None:
        revive_until = PLANS["vae"].steps // 2
        objective = VqvaeObjective(fresh_vqvae(VAE, self.seed), SCHEDULE, self.batches("vae"), revive_until=revive_until)
        self.run("vae", PLANS["vae"], objective)

    def plain(self, stage: str, shape: TransformerShape) -> None:
        model = fresh_transformer(shape, self.seed)
        self.run(stage, PLANS[stage], VarObjective(model, self.load_vae(), self.batches(stage)))

    def tuned(self, n_draft: int) -> None:
        """CoDe's specialised fine-tuning, from the plain weights."""
        vae, stage = self.load_vae(), f"drafter-n{n_draft}"
        objective = drafter_objective(self.load("drafter"), vae, self.batches(stage), n_draft)
        self.run(stage, PLANS["drafter-tuned"], objective)
        stage, teacher = f"refiner-n{n_draft}", Teacher(self.load("drafter"))
        objective = refiner_objective(self.load("refiner"), vae, self.batches(stage), n_draft, teacher)
        self.run(stage, PLANS["refiner-tuned"], objective)

    def free(self, n_draft: int) -> None:
        """Condition contrastive alignment of the pair that is fine-tuned for N, each model on the scales that it draws."""
        spans = {"drafter": (0, n_draft), "refiner": (n_draft, SCHEDULE.scales)}
        for role, contrast in CONTRASTS.items():
            stage, vae = f"{role}-free{n_draft}", self.load_vae()
            model, reference = (self.load(f"{role}-n{n_draft}") for _ in range(2))
            objective = ContrastObjective(model, reference, vae, self.batches(stage), spans[role], contrast)
            self.run(stage, PLANS[f"{role}-free"], objective)

    def load(self, stage: str) -> Transformer:
        return load_transformer(open_checkpoint(self.out / f"{stage}.safetensors", "var_wo_ddp"), stage)

    def load_vae(self) -> Vqvae:
        return load_vqvae(open_checkpoint(self.out / "vae.safetensors", "vae_local"))


def on_request(studio: Studio) -> dict[str, Callable[[], None]]:
    """Stages that are left out where none is named."""
    return {f"free{n}": lambda n=n: studio.free(n) for n in TUNED}  # type: ignore[misc]


def stages(studio: Studio) -> dict[str, Callable[[], None]]:
    """By name, in order."""
    found: dict[str, Callable[[], None]] = {
        "judge": studio.judge,
        "vae": studio.vae,
        "drafter": lambda: studio.plain("drafter", DRAFTER),
        "refiner": lambda: studio.plain("refiner", REFINER),
    }
    return found | {f"n{n}": lambda n=n: studio.tuned(n) for n in TUNED}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "weights", help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("build/digits"), help="checkpoints (default: %(default)s)")
    parser.add_argument("--stages", help="some of judge,vae,drafter,refiner,n3,n4 (default: all), free3,free4")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    studio = Studio(options.out, options.work, options.seed)
    usual = stages(studio)
    known = usual | on_request(studio)
    for name in options.stages.split(",") if options.stages else usual:
        known[name]()


if __name__ == "__main__":
    main()
