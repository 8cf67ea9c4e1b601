"""Weights → bundles: the plain pair into the package, the fine-tuned ones into engines/; each with the judge."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from classifier import Classifier
from digits import splits
from trt_var_export.build import build
from trt_var_export.judge import RealPictures, add_judge
from trt_var_export.recipe import Recipe
from trt_var_export.weights.checkpoint import open_checkpoint

ROOT = Path(__file__).parents[2]
WEIGHTS = Path(__file__).parent / "weights"
NAMES = Path(__file__).parent / "classes.txt"
PACKAGED = ROOT / "runtime" / "trt_var" / "bundle" / "digits"


def tuned(weights: Path) -> list[int]:
    """The N that fine-tuned weights are there for."""
    return sorted(int(path.stem.removeprefix("drafter-n")) for path in weights.glob("drafter-n*.safetensors"))


def bundle(weights: Path, out: Path, n_draft: int | None = None) -> Path:
    """Build one bundle, the plain one or that of a fine-tuned pair."""
    suffix = "" if n_draft is None else f"-n{n_draft}"
    drafter, refiner = (str(weights / f"{role}{suffix}.safetensors") for role in ("drafter", "refiner"))
    build(
        Recipe(
            drafter, refiner, str(weights / "vae.safetensors"), out, finetuned=n_draft, class_names=str(NAMES), force=True
        )
    )
    accuracy = json.loads((weights / "training.json").read_text())["judge"]["accuracy"]
    add_judge(out, load_judge(weights), RealPictures(splits()[0].images, accuracy))
    return out


def load_judge(weights: Path) -> Classifier:
    checkpoint = open_checkpoint(weights / "judge.safetensors", "")
    model = Classifier()
    model.load_state_dict({key: checkpoint.load(key) for key in model.state_dict()})
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="default: %(default)s")
    parser.add_argument("--packaged", type=Path, default=PACKAGED, help="the plain pair's bundle (default: %(default)s)")
    parser.add_argument("--engines", type=Path, default=ROOT / "engines", help="for the others (default: %(default)s)")
    options = parser.parse_args()
    print(bundle(options.weights, options.packaged))
    for n_draft in tuned(options.weights):
        print(bundle(options.weights, options.engines / f"digits-n{n_draft}", n_draft))


if __name__ == "__main__":
    main()
