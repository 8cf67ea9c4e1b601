"""One file a command: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trt_var.cli.building import build, calibrate, engines, finetune
from trt_var.cli.drawing import demo, inpaint, merge, reconstruct, run, sample
from trt_var.cli.measuring import backends, bench, evaluate, info, plan, score
from trt_var.cli.serving import load, serve

COMMANDS: dict[str, Callable[[Any, str], None]] = {
    "demo": demo.add,
    "run": run.add,
    "inpaint": inpaint.add,
    "edit": inpaint.add,
    "sample": sample.add,
    "merge": merge.add,
    "reconstruct": reconstruct.add,
    "serve": serve.add,
    "load": load.add,
    "build": build.add,
    "calibrate": calibrate.add,
    "engines": engines.add,
    "eval": evaluate.add,
    "score": score.add,
    "finetune": finetune.add,
    "bench": bench.add,
    "info": info.add,
    "plan": plan.add,
    "backends": backends.add,
}
