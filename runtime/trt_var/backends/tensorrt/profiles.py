"""The shapes that engines are built for: one optimisation profile a scale, one for the refiner's hand-overs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trt_var.backends.tensorrt.record import FINAL, GUIDED, Batch, Guidance, Profile, Shape, rows
from trt_var.bundle.manifest import HEAD_WIDTH, Graph, Manifest, Model, Role
from trt_var.bundle.memory import DECODER_BATCH
from trt_var.bundle.passes import Pass, passes
from trt_var.schedule import Schedule


def graphs(manifest: Manifest) -> dict[str, Graph]:
    """What engines are built from, by name: every graph, and the transformer that draws the last scale once more."""
    every = [*(model.step for model in manifest.models.values()), *manifest.quantiser, manifest.decoder, manifest.encoder]
    found = {Path(graph.onnx).stem: graph for graph in every}
    last = "refiner" if "refiner" in manifest.models and min(manifest.serves) < len(manifest.schedule) else "drafter"
    return found | {f"{last}{FINAL}": found[last]}


def profiles(
    manifest: Manifest, graph: str, batch: Batch, *, shadow: bool = False, guidance: Sequence[Guidance] = GUIDED
) -> tuple[Profile, ...]:
    """The profiles of an engine, by its name: one a scale, and one for all of the refiner's hand-overs.

    A profile reaches from the fewest rows that ``guidance`` asks for to the most, and is tuned for the most.
    """
    sizes = (batch.smallest, batch.usual, batch.largest)
    if graph.removesuffix(FINAL) in manifest.models:
        role: Role = "drafter" if graph.startswith("drafter") else "refiner"
        found = passes(manifest, role, shadow=shadow)
        if graph.endswith(FINAL):
            end = Schedule(manifest.schedule).length
            found = [one for one in found if one.past + one.n == end]
        return tuple(_step_profiles(manifest, role, found, sizes, rows(guidance, role)))
    schedule, code = Schedule(manifest.schedule), manifest.code_width
    if graph == "encoder":
        side = manifest.image_side
        shapes: dict[str, list[Shape]] = {"image": [(b, 3, side, side) for b in sizes]}
    elif graph == "decoder":
        shapes = {"f_hat": [(min(b, DECODER_BATCH), code, schedule.side, schedule.side) for b in sizes]}
    else:
        n = schedule.tokens(int(graph.removeprefix("quantise_")))
        maps: list[Shape] = [(b, code, schedule.side, schedule.side) for b in sizes]
        keep: list[Shape] = [(b, 1, schedule.side, schedule.side) for b in sizes]
        shapes = {"tokens": [(n, b) for b in sizes], "f_hat": maps, "kept": maps, "keep": keep}
    return (Profile("batch", {name: _three(listed) for name, listed in shapes.items()}),)


def _step_profiles(
    manifest: Manifest, role: Role, found: list[Pass], sizes: tuple[int, int, int], per_image: tuple[int, ...]
) -> Iterator[Profile]:
    model, code = manifest.models[role], manifest.code_width
    counts = (per_image[0], per_image[-1], per_image[-1])
    for one in (one for one in found if one.name.startswith("scale")):
        shapes = [step_shapes(model, code, one, b, r) for b, r in zip(sizes, counts, strict=True)]
        yield Profile(one.name, {name: _three([shape[name] for shape in shapes]) for name in shapes[0]})
    handed = sorted((one for one in found if not one.name.startswith("scale")), key=lambda one: one.n)
    if handed:
        usual = handed[len(handed) // 2 if len(handed) < 3 else -2]  # of all N, all scales but two
        chosen = [
            Pass("", min(one.n for one in handed), min(one.m for one in handed), 0),
            usual,
            Pass("", handed[-1].n, max(one.m for one in handed), 0),
        ]
        shapes = [step_shapes(model, code, one, b, r) for one, b, r in zip(chosen, sizes, counts, strict=True)]
        yield Profile("hand-over", {name: _three([shape[name] for shape in shapes]) for name in shapes[0]})


def step_shapes(model: Model, code_width: int, one: Pass, batch: int, per_image: int = 2) -> dict[str, Shape]:
    """Shape of every input of a step graph in one pass, with so many rows an image."""
    count = per_image * batch
    shapes: dict[str, Shape] = {
        "features": (one.n, batch, code_width),
        "conditions": (count, model.vectors, model.width),
        "uniforms": (one.m, batch),
        **dict.fromkeys(("guidance", "temperature", "top_p", "top_k"), (1, batch)),
    }
    cache = (one.past, count, model.heads, HEAD_WIDTH)
    return shapes | {f"past_{which}_{block}": cache for block in range(model.depth) for which in "kv"}


def _three(shapes: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    return shapes[0], shapes[1], shapes[2]
