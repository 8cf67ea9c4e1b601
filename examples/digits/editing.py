"""Pictures of inpainting and editing for the docs: held-out digits, half of them erased and drawn again.

``python examples/digits/editing.py`` writes docs/inpainting.png, docs/editing.png and prints how often the judge sees
the wanted class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digits import splits
from trt_var import Pipeline
from trt_var.bundle.opening import Bundle
from trt_var.pictures import writing as images
from trt_var.pictures.writing import beside
from trt_var.quality.evaluation import Judge

DOCS = Path(__file__).parents[2] / "docs"
SIDE, BORDER, TRIES = 32, 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures (default: docs)")
    options = parser.parse_args()
    held_out = splits()[1]
    labels = np.array(held_out.labels)
    half, inside = (np.zeros((SIDE, SIDE), np.bool_) for _ in range(2))
    half[:, SIDE // 2 :] = True
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    chosen = [int(np.flatnonzero(labels == label)[3]) for label in range(10)]
    with Pipeline.load("digits") as pipeline:
        judge = Judge(Bundle.open("digits"))
        for name, mask, shift in (("inpainting", half, 0), ("editing", inside, 5)):
            rows = []
            for i in chosen:
                wanted = (int(labels[i]) + shift) % 10
                rows.append(beside(held_out.images[i], mask, redrawn(pipeline, held_out.images[i], mask, wanted, 4)))
            images.save_picture(options.out / f"{name}.png", enlarged(images.grid(np.stack(rows), columns=2, gap=6)))
            for n_draft in pipeline.manifest.serves:
                share = agreement(pipeline, judge, n_draft, mask, shift)
                print(f"{name}, N = {n_draft}: {share:.1%} show the wanted class")


def redrawn(
    pipeline: Pipeline, image: NDArray[np.uint8], mask: NDArray[np.bool_], wanted: int, n_draft: int
) -> NDArray[np.uint8]:
    return pipeline.inpaint(image, mask, [wanted] * TRIES, n_draft=n_draft).images


def agreement(pipeline: Pipeline, judge: Judge, n_draft: int, mask: NDArray[np.bool_], shift: int) -> float:
    """Over ten held-out digits a class, TRIES results each."""
    held_out = splits()[1]
    labels = np.array(held_out.labels)
    seen = []
    for label in range(10):
        for i in np.flatnonzero(labels == label)[:10]:
            wanted = (label + shift) % 10
            found, _ = judge(redrawn(pipeline, held_out.images[i], mask, wanted, n_draft))
            seen.append((found == wanted).mean())
    return float(np.mean(seen))


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.repeat(2, 0).repeat(2, 1)


if __name__ == "__main__":
    main()
