"""The reference of the Python interface: a place for every public name and for what their methods return."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import cast

import griffe

import docstrings
import trt_var
from trt_var import bulk, pictures

RUNTIME = Path(trt_var.__file__).parents[1]
ELSEWHERE = {"trt_var.bundle.manifest.Manifest", "trt_var.bundle.manifest.Role"}  # returned, and on the manifest's page
EVERYWHERE = {"self", "cls", "manifest", "classes"}  # parameters that mean the same in all places, said above the list
# page → title, what it begins with, names
PAGES = {
    "pipeline": ("Pipeline", "A bundle, loaded on a backend: what draws.", ["trt_var.Pipeline"]),
    "settings": (
        "Settings",
        "How tokens are drawn, and names for published settings.",
        ["trt_var.Sampling", "trt_var.decoding.sampling.preset"],
    ),
    "results": (
        "Results",
        "What the pipeline and the batcher give back: NumPy arrays, equal where the arrays are, with JSON.",
        [f"trt_var.{name}" for name in ("Generation", "Preview", "Reconstruction", "Scores", "Served", "Provenance")],
    ),
    "batcher": (
        "Batcher",
        "Many callers, one pipeline: [Serving](../serving.md#in-your-own-program).",
        ["trt_var.Batcher", "trt_var.Batching", "trt_var.serving.batching.dispatch.State"],
    ),
    "files": (
        "Pictures and folders",
        "Reading pictures as the model takes them ([what is accepted](../editing.md#what-pictures-are-accepted)), drawing "
        "many images into folders ([many images](../bulk.md)).",
        [
            *(f"trt_var.pictures.{name}" for name in pictures.__all__ if name != "Box"),  # four numbers
            *(f"trt_var.bulk.{name}" for name in bulk.__all__),
        ],
    ),
    "errors": (
        "Errors",
        "Whatever this package raises on purpose is a `TrtVarError`; its message says what to do.",
        [
            f"trt_var.{name}"
            for name in ("TrtVarError", *(n for n in trt_var.__all__ if n.endswith("Error") and n != "TrtVarError"))
        ],
    ),
    "inside": (
        "Requests and loops of one's own",
        "What `Pipeline.prepare`, `kept`, `chain` and `Batcher.planner` return, for programs that gather requests or run "
        "the decoding themselves. Their fields may change with a minor version.",
        [
            "trt_var.requests.checking.Run",
            "trt_var.requests.checking.Kept",
            "trt_var.decoding.chain.Chain",
            "trt_var.serving.batching.planning.Planner",
        ],
    ),
}


def pages() -> dict[str, str]:
    """Markdown of the pages, which mkdocstrings fills, and of the list of all names."""
    made, listed = {}, []
    for page, (title, begin, names) in PAGES.items():
        made[f"reference/{page}.md"] = f"# {title}\n\n{begin}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
        listed.append(f"**{title}**")
        for name in names:
            first = _docstring(_found(name)).split("\n\n")[0].replace("\n", " ")
            listed.append(f"[`{name.removeprefix('trt_var.')}`]({page}.md#{name})\n:   {docstrings.shown(first)}")
    begin = (
        "# Python\n\n`from trt_var import …` has the names without a point; the others are in packages and modules of "
        "`trt_var`. In all of it `manifest` is the bundle's, as `Pipeline.manifest`, and `classes` their number. "
        "Shapes: n images of H × W pixels, L tokens, K scales.\n\n"
    )
    return made | {"reference/python.md": begin + "\n\n".join(listed) + "\n"}


def problems() -> Iterator[str]:
    """Public names without a page; names, members and parameters without a word; types that are returned and not shown."""
    shown = [name for *_, names in PAGES.values() for name in names]
    for name in trt_var.__all__:
        if f"trt_var.{name}" not in shown:
            yield f"website/interface.py has no page for trt_var.{name}"
    places = {_found(name).path for name in shown} | ELSEWHERE
    for name in shown:
        own = name in PAGES["inside"][2]
        for place, one in _members(name):
            said = _docstring(one)
            if not said:
                yield f"{place} has no docstring"
            for parameter in one.parameters if isinstance(one, griffe.Function) and not own else ():
                if parameter.name not in EVERYWHERE and not _mentions(said, parameter.name):
                    yield f"the docstring of {place} does not say what {parameter.name} is"
            for returned in () if own else _returned(one):
                if returned not in places and returned.split(".")[-1] != "Self":
                    yield f"{place} returns {returned}, which no page shows"


def _mentions(said: str, parameter: str) -> bool:
    """Whether a docstring has the parameter, or the place where it is described."""
    return bool(re.search(rf"\b{parameter}\b", said) or re.search(r"(?i)\bsee ``|^As ``", said))


@cache
def _package() -> griffe.Module:
    loaded = griffe.load("trt_var", search_paths=[RUNTIME], docstring_parser="google", allow_inspection=False)
    return cast(griffe.Module, loaded)  # a package is a module


def _found(name: str) -> griffe.Object:
    """What a public name stands for."""
    found = _package()[name.removeprefix("trt_var.")]
    return found.final_target if isinstance(found, griffe.Alias) else found


def _members(name: str) -> Iterator[tuple[str, griffe.Object]]:
    """A name, and what is public of it."""
    one = _found(name)
    yield name, one
    if isinstance(one, griffe.Class):
        for member, found in one.all_members.items():
            target = found.final_target if isinstance(found, griffe.Alias) else found
            method = isinstance(target, griffe.Function) or "property" in target.labels
            if method and not member.startswith("_"):
                yield f"{name}.{member}", target


def _docstring(one: griffe.Object) -> str:
    return one.docstring.value if one.docstring else ""


def _returned(one: griffe.Object) -> Iterator[str]:
    """Types of this package in what a function returns or a property is."""
    annotation = one.returns if isinstance(one, griffe.Function) else getattr(one, "annotation", None)
    if isinstance(annotation, griffe.Expr):
        for part in annotation.iterate(flat=True):
            if isinstance(part, griffe.ExprName) and part.canonical_path.startswith("trt_var."):
                found = _package()[part.canonical_path.removeprefix("trt_var.")]
                yield (found.final_target if isinstance(found, griffe.Alias) else found).path
