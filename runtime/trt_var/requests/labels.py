"""Labels of a request: class numbers, or names where they are unambiguous."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

from trt_var.errors import UsageError

NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
NO_CLASS = -1  # as in VAR
LONGEST = 200  # characters of a name; no class has so long a one


def resolve(labels: Sequence[int | str], names: Sequence[str], classes: int) -> list[int]:
    """Class numbers of labels given as numbers or names.

    ``names`` has one line of comma-separated names a class, or nothing. The number ``classes``, or −1, is the null class,
    which guidance contrasts all others with: an image of no class in particular, to which guidance does nothing.

    Raises:
        UsageError: a number out of range, an unknown name (with close ones), or a name of several classes.
    """
    index = _index(tuple(names)) if any(isinstance(label, str) for label in labels) else {}
    return [_resolve(label, index, names, classes) for label in labels]


@lru_cache(maxsize=8)
def _index(names: tuple[str, ...]) -> dict[str, list[int]]:
    """The numbers of every name, folded. Kept: a thousand lines take longer than a small picture."""
    index: dict[str, list[int]] = {}
    for number, line in enumerate(names):
        for name in line.split(","):
            index.setdefault(folded(name), []).append(number)
    return index


def _resolve(label: int | str, index: dict[str, list[int]], names: Sequence[str], classes: int) -> int:
    if not isinstance(label, str):
        return _number(label, classes)
    text = label.strip()
    if NUMBER.fullmatch(text):
        return _number(int(text), classes)
    if len(text) > LONGEST:
        raise UsageError(f"label {text[:20]!r}… has {len(text)} characters; give a class number or name")
    found = index.get(folded(text), [])
    if len(found) == 1:
        return found[0]
    if found:
        listed = "; ".join(f"{number} ({names[number]})" for number in found)
        raise UsageError(f"label {text!r} names several classes: {listed}; give the number")
    if not names:
        raise UsageError(
            f"label {text!r} is not a class of this bundle, which has no names for its classes; give a number "
            f"from 0 to {classes - 1}, or build the bundle with --class-names"
        )
    close = difflib.get_close_matches(folded(text), index, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"give a number from 0 to {classes - 1}"
    raise UsageError(f"label {text!r} is not a class of this bundle; {hint}")


def _number(number: int, classes: int) -> int:
    if 0 <= number <= classes:
        return number
    if number == NO_CLASS:
        return classes
    raise UsageError(
        f"label {number} is out of range; this bundle has classes 0 to {classes - 1}, and {classes} for no class, "
        f"or {NO_CLASS}"
    )


def folded(name: str) -> str:
    """A name as it is compared: case, hyphens and underscores do not count."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
