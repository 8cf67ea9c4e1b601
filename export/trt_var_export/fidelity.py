"""FID and Inception Score of a pipeline's pictures through torch-fidelity."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trt_var.backends.installed import needed
from trt_var.errors import UsageError
from trt_var.pictures.writing import save_folder
from trt_var.pipeline import Pipeline
from trt_var.quality.samples import Progress, Series


def fidelity(real: Path, pipeline: Pipeline, series: Series, progress: Progress | None = None) -> dict[str, float]:
    """FID and Inception Score by torch-fidelity, which fetches the Inception weights once.

    Args:
        real: a folder of real pictures of the same size.

    Raises:
        BackendError: torch-fidelity is not installed.
        UsageError: no such folder.
    """
    with needed("these metrics need torch-fidelity, which", ("torch_fidelity", "torch"), "pip install 'trt-var[metrics]'"):
        import torch
        from torch_fidelity import calculate_metrics
    if not real.is_dir():
        raise UsageError(f"there is no folder {real}; --fidelity takes a folder of real pictures")
    with tempfile.TemporaryDirectory(prefix="trt-var-") as folder:
        for drawn in series.draw(pipeline, progress):
            save_folder(Path(folder), drawn.images, drawn.labels, drawn.seeds)
        found = calculate_metrics(
            input1=folder, input2=str(real), isc=True, fid=True, cuda=torch.cuda.is_available(), verbose=False
        )
    return {name: float(value) for name, value in found.items()}
