"""Which class every folder of pictures is: numbers are numbers, WordNet ids ImageNet's classes, names those of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from trt_var.errors import DataError
from trt_var_export.weights.checkpoint import shown
from trt_var_export.weights.names import IMAGENET_CLASSES, imagenet_ids

NUMBER = re.compile(r"[0-9]{1,9}")
WORDNET = re.compile(r"n[0-9]{8}(?![0-9])")  # n02085620, n02085620-Chihuahua
SHOWN = 6
Rule = Literal["names", "numbers", "ids", "order"]
SAID: dict[Rule, str] = {
    "names": "by the model's class names",
    "numbers": "by their numbers",
    "ids": "by their WordNet ids, in ImageNet's order",
    "order": "by the order of their names",
}


@dataclass(frozen=True)
class Assignment:
    """Folders and their classes.

    Attributes:
        labels: folder → class number, rising.
        rule: how that is known. Only ``order`` needs a folder for every class.
    """

    labels: Mapping[str, int]
    rule: Rule

    def __str__(self) -> str:
        pairs = [f"{shown(folder)} → {label}" for folder, label in self.labels.items()]
        if len(pairs) > SHOWN:
            pairs = [*pairs[: SHOWN - 1], "…", pairs[-1]]
        return f"{SAID[self.rule]}: {', '.join(pairs)}"


def assign(folders: Sequence[str], classes: int | None = None, names: Sequence[str] = ()) -> Assignment:
    """Say which class every folder is.

    Args:
        folders: their names, without hidden ones.
        classes: how many the model knows; None for any number.
        names: a line of comma-separated names a class, if the model has names.

    Raises:
        DataError: it is not clear. The message says how the folders would have been taken, and what to do.
    """
    if names and (named := _named(folders, names)):
        return _rising(named, "names")
    numbers = [folder for folder in folders if NUMBER.fullmatch(folder)]
    ids = [folder for folder in folders if WORDNET.match(folder)]
    for some, what in ((numbers, "numbers"), (ids, "WordNet ids")):
        if some and len(some) < len(folders):
            other = next(folder for folder in folders if folder not in some)
            raise DataError(
                f"{len(some)} folders are named by {what}, e.g. {some[0]}, and {len(folders) - len(some)} are not, e.g. "
                f"{shown(other)}; take out what is no class, or say what is: --class-names FILE"
            )
    if numbers:
        return _numbered(folders, classes)
    if ids and classes == IMAGENET_CLASSES:
        order = {name: label for label, name in enumerate(imagenet_ids())}
        found = {folder: order.get(folder[:9]) for folder in folders}
        if known := {folder: label for folder, label in found.items() if label is not None}:
            if len(known) < len(folders):
                other = next(folder for folder, label in found.items() if label is None)
                raise DataError(f"{shown(other)} is none of ImageNet's 1000 classes, which {len(known)} other folders are")
            return _rising(known, "ids")
    return _ordered(folders, classes)


def natural(name: str) -> tuple[list[str | int], str]:
    """A key by which class2 comes before class10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def _named(folders: Sequence[str], names: Sequence[str]) -> dict[str, int] | None:
    """By names, if they are names of the model; None if none is."""
    index: dict[str, set[int]] = {}
    for label, line in enumerate(names):
        for name in (line, *line.split(",")):
            index.setdefault(_fold(name), set()).add(label)
    found = {folder: index.get(_fold(folder), set()) for folder in folders}
    unknown = [folder for folder, labels in found.items() if not labels]
    if len(unknown) == len(folders):
        return None
    if unknown:
        raise DataError(
            f"{len(folders) - len(unknown)} folders are named as the model's classes, and {len(unknown)} are not, e.g. "
            f"{shown(unknown[0])}; take out what is no class, or say what is: --class-names FILE"
        )
    for folder, labels in found.items():
        if len(labels) > 1:
            listed = ", ".join(map(str, sorted(labels)))
            raise DataError(f"{shown(folder)} is the name of several classes: {listed}; name the folders by number")
    return {folder: labels.pop() for folder, labels in found.items()}


def _numbered(folders: Sequence[str], classes: int | None) -> Assignment:
    found = {folder: int(folder) for folder in folders}
    top = max(found, key=lambda folder: found[folder])
    if classes is not None and found[top] >= classes:
        first = "; classes are numbered from 0, these folders perhaps from 1" if found[top] == classes else ""
        raise DataError(
            f"folder {top} is no class of a model that knows 0 to {classes - 1}{first}: rename the folders, or say what "
            "they are: --class-names FILE"
        )
    return _rising(found, "numbers")


def _ordered(folders: Sequence[str], classes: int | None) -> Assignment:
    taken = Assignment({folder: label for label, folder in enumerate(sorted(folders, key=natural))}, "order")
    if classes is not None and len(folders) != classes:
        raise DataError(
            f"{len(folders)} folders for the {classes} classes that the model knows, and it is not clear which they are ("
            f"{taken}); name them by class numbers, 0 to {classes - 1}, or say what they are: --class-names FILE"
        )
    return taken


def _rising(labels: Mapping[str, int], rule: Rule) -> Assignment:
    """By class; one folder each."""
    folders = sorted(labels, key=lambda folder: (labels[folder], folder))
    for one, other in pairwise(folders):
        if labels[one] == labels[other]:
            raise DataError(f"the folders {shown(one)} and {shown(other)} are both class {labels[one]}; join them")
    return Assignment({folder: labels[folder] for folder in folders}, rule)


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
