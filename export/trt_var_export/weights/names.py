"""What the classes of a model are called: told by the user, carried by its weights, or ImageNet's of a released model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from trt_var.bundle.manifest import Role
from trt_var.errors import CheckpointError, UsageError
from trt_var.files.paths import expanded
from trt_var_export.weights.checkpoint import Checkpoint, RandomWeights, shown
from trt_var_export.weights.sources import CCA, CODE, DDO, VAR

log = logging.getLogger(__name__)
IMAGENET = "imagenet"
IMAGENET_CLASSES = 1000
KEY = "class_names"  # in the metadata of a .safetensors file: a JSON list with a line of names a class
MAX_BYTES = 64 << 20
HERE = Path(__file__).parent


def imagenet_names() -> list[str]:
    """A line of comma-separated WordNet lemmas for each of ImageNet's 1000 classes."""
    return (HERE / "imagenet.txt").read_text(encoding="utf-8").splitlines()


def imagenet_ids() -> list[str]:
    """The WordNet id of each of ImageNet's 1000 classes, which is what the folders of ImageNet are called."""
    return (HERE / "imagenet_ids.txt").read_text(encoding="utf-8").split()


def told_names(text: str, classes: int | None, option: str = "--class-names") -> list[str]:
    """What ``--class-names`` names.

    Args:
        text: ``imagenet``, or a text file with a line a class, of one name or several separated by commas.
        classes: how many the model knows; None for as many as are named.
        option: what gives the text, for messages.

    Raises:
        UsageError: no such file, no text, another number of lines, an empty line or control characters.
    """
    given = f"{option} {shown(text)}"
    if text == IMAGENET:
        names = imagenet_names()
    else:
        try:
            with expanded(text).open("rb") as file:
                names = file.read(MAX_BYTES).decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read {given}: {reason}; give {IMAGENET} or a text file, a line a class") from error
    if not names:
        raise UsageError(f"{given} names no class; give a line for each, in the order of their numbers")
    if problem := _problem(names, len(names) if classes is None else classes):
        raise UsageError(f"{given} {problem}")
    return names


def known_names(checkpoints: Mapping[Role, Checkpoint], classes: int) -> list[str] | None:
    """What the weights' sources say; None if they say nothing.

    Raises:
        CheckpointError: names that are no list of one line a class, or two models that name their classes differently.
    """
    found = {role: names for role, checkpoint in checkpoints.items() if (names := _carried(checkpoint, classes))}
    if not found:
        files = [role for role, checkpoint in checkpoints.items() if not isinstance(checkpoint, RandomWeights)]
        if files and classes == IMAGENET_CLASSES:
            log.warning("the %s does not say what its classes are; if they are ImageNet's: --class-names imagenet", files[0])
        return None
    first, *others = found.values()
    if any(names != first for names in others):
        where = next(i for i, lines in enumerate(zip(*found.values(), strict=True)) if len(set(lines)) > 1)
        listed = ", ".join(f"{shown(names[where])!r} of the {role}" for role, names in found.items())
        raise CheckpointError(f"class {where} is {listed}; say with --class-names what the classes are")
    return first


def as_metadata(names: Sequence[str] | None) -> dict[str, str]:
    """Names for the metadata of a ``.safetensors`` file."""
    return {KEY: json.dumps(list(names), ensure_ascii=False)} if names else {}


def _carried(checkpoint: Checkpoint, classes: int) -> list[str] | None:
    if checkpoint.origin.get("repository") in [known.name for known in (VAR, CODE, CCA, DDO)]:
        return imagenet_names()
    text = checkpoint.metadata.get(KEY)
    if text is None:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or _problem(names, classes):
        path = shown(checkpoint.origin.get("path", "a checkpoint"))
        raise CheckpointError(f"{path} carries class names that are no list of {classes}; say what they are: --class-names")
    return names


def _problem(names: Sequence[str], classes: int) -> str | None:
    """Why lines are no class names."""
    if len(names) != classes:
        return f"names {len(names)} classes, the model knows {classes}; give a line for each, in the order of their numbers"
    wrong = [i for i, name in enumerate(names) if not name.strip() or not name.isprintable()]
    return f"has no name that can be shown in line {wrong[0] + 1}" if wrong else None
