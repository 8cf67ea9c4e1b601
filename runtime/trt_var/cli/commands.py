"""The commands, in the order of the help; each names its task, its module in this room, and what it does in one line."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """What ``trt-var --help`` says of a command, without importing it; ``add`` of the module gives it its options."""

    task: str
    module: str
    help: str


COMMANDS = {
    "demo": Command("draw", "drawing.demo", "handwritten digits, without any download"),
    "run": Command("draw", "drawing.run", "pictures of the classes that are named"),
    "inpaint": Command("draw", "drawing.inpaint", "complete a region of a picture"),
    "edit": Command("draw", "drawing.inpaint", "put another class into a region of a picture"),
    "reconstruct": Command("draw", "drawing.reconstruct", "pictures to tokens and back, with PSNR"),
    "sample": Command("draw", "drawing.sample", "many images of all classes into a folder, resumable"),
    "merge": Command("draw", "drawing.merge", "check and join the folders of trt-var sample --part"),
    "build": Command("build", "building.build", "checkpoints into a bundle (needs trt-var[export])"),
    "calibrate": Command("build", "building.calibrate", "a bundle with int8 products (needs trt-var[cpu,export])"),
    "engines": Command("build", "building.engines", "TensorRT engines of a bundle (needs trt-var[gpu] or [rtx])"),
    "finetune": Command("build", "building.finetune", "specialise a pair for one N (needs trt-var[train])"),
    "card": Command("build", "building.card", "a model card of a bundle, from its own records"),
    "push": Command("build", "building.push", "a bundle onto the Hugging Face hub (needs trt-var[hub])"),
    "serve": Command("serve", "serving.serve", "HTTP service, OpenAI's image API (needs trt-var[serve])"),
    "load": Command("serve", "serving.load", "offer a service requests, measured (needs trt-var[load])"),
    "backends": Command("inspect and plan", "measuring.backends", "what can run bundles on this machine"),
    "info": Command("inspect and plan", "measuring.info", "what a bundle holds, whether it is whole, its memory"),
    "plan": Command("inspect and plan", "measuring.plan", "cost on a GPU, what meets targets, how many devices"),
    "bench": Command("measure", "measuring.bench", "latency, throughput, memory, plots (needs trt-var[bench])"),
    "eval": Command("measure", "measuring.evaluate", "image quality and agreement; samples for published evaluators"),
    "score": Command("measure", "measuring.score", "how likely pictures are under classes"),
    "completion": Command("set up", "shell.completion", "have a shell complete all this (needs trt-var[completion])"),
}


def tasks() -> dict[str, list[str]]:
    """The commands' names by task."""
    found: dict[str, list[str]] = {}
    for name, one in COMMANDS.items():
        found.setdefault(one.task, []).append(name)
    return found
