"""One file a command: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trt_var.commands import backends, build, calibrate, demo, engines, evaluate, finetune, info, plan, run

COMMANDS: dict[str, Callable[[Any, str], None]] = {
    "demo": demo.add,
    "run": run.add,
    "build": build.add,
    "calibrate": calibrate.add,
    "engines": engines.add,
    "eval": evaluate.add,
    "finetune": finetune.add,
    "info": info.add,
    "plan": plan.add,
    "backends": backends.add,
}
