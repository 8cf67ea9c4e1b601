"""The digits, what their layers saw, and what is made of them: shared by the tests beside this."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from trt_var import Sampling
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var_calibration.observe import Observed, observe
from trt_var_calibration.quantise import Quantisation, quantise

N = 4
LABELS = (0, 3, 6, 9)
SETTINGS = Sampling(cfg=1.5, top_k=200)


def open_digits() -> Bundle:
    return Bundle.open(PACKAGED / "digits")


@cache
def seen() -> Observed:
    return observe(open_digits(), N, 20, SETTINGS)


def quantised(bundle: Bundle, observed: Observed, folder: Path, **change: object) -> Bundle:
    folder.mkdir()
    quantise(bundle, observed, Quantisation(**change), folder)  # type: ignore[arg-type]
    return Bundle.open(folder)
