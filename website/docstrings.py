"""Docstrings as the site shows them: examples as code, names and documents as links."""

from __future__ import annotations

import re
from typing import Any

import griffe

import trt_var

NAME = re.compile(r"``((?:trt_var\.)?(\w+)(?:\.\w+)*)(?:\(\))?``")
DOCUMENT = re.compile(r"docs/(\w+)\.md")


class Shown(griffe.Extension):
    """What mkdocstrings has done to every docstring that it loads."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one."""
        if obj.docstring:
            obj.docstring.value = shown(obj.docstring.value)


def shown(text: str) -> str:
    """A docstring in Markdown; code stays as it is."""
    text = re.sub(r"^Example:", "Examples:", text, flags=re.MULTILINE)
    text = DOCUMENT.sub(lambda found: f"[{found[0]}](../{found[1]}.md)", text)
    return NAME.sub(_linked, text)


def _linked(found: re.Match[str]) -> str:
    """A public name, and what it has, as a link to its place; others as code."""
    dotted, first = found.groups()
    if first in trt_var.__all__ and hasattr(trt_var, first):
        owner = getattr(trt_var, first)
        rest = dotted.split(".")[1:]
        if not rest or (len(rest) == 1 and callable(getattr(owner, rest[0], None))):
            return f"[`{dotted}`][trt_var.{dotted}]"
    return f"`{dotted}`"
