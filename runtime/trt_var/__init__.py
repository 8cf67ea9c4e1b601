"""Class-conditional images from VAR models with Collaborative Decoding, without PyTorch at run time.

>>> from trt_var import Pipeline
>>> with Pipeline.load("digits") as pipeline:
...     images = pipeline.generate([7, "eight"], seeds=0, n_draft=4).images
>>> images.shape, images.dtype
((2, 32, 32, 3), dtype('uint8'))
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from trt_var.errors import (
    BackendError,
    BundleError,
    BundleExistsError,
    CheckpointError,
    DataError,
    DeadlineError,
    ExportError,
    OutputError,
    OverloadedError,
    TrainingError,
    TrtVarError,
    UsageError,
)

if TYPE_CHECKING:
    from trt_var.decoding.sampling import Sampling
    from trt_var.pipeline import Pipeline
    from trt_var.requests.provenance import Provenance
    from trt_var.requests.results import Generation, Preview, Reconstruction, Scores
    from trt_var.serving.batching.batcher import Batcher
    from trt_var.serving.batching.settings import Batching
    from trt_var.serving.batching.tickets import Served

__all__ = [
    "BackendError",
    "Batcher",
    "Batching",
    "BundleError",
    "BundleExistsError",
    "CheckpointError",
    "DataError",
    "DeadlineError",
    "ExportError",
    "Generation",
    "OutputError",
    "OverloadedError",
    "Pipeline",
    "Preview",
    "Provenance",
    "Reconstruction",
    "Sampling",
    "Scores",
    "Served",
    "TrainingError",
    "TrtVarError",
    "UsageError",
]

__version__ = "0.1.0"

_LATE = {
    "Batcher": "serving.batching.batcher",
    "Batching": "serving.batching.settings",
    "Generation": "requests.results",
    "Pipeline": "pipeline",
    "Preview": "requests.results",
    "Provenance": "requests.provenance",
    "Reconstruction": "requests.results",
    "Sampling": "decoding.sampling",
    "Scores": "requests.results",
    "Served": "serving.batching.tickets",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what to show is the program's to say, not a library's


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is first used, so that ``trt-var --help`` need not."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
