"""Progress and colour on a terminal, neither in a pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

RED, GREEN, FAINT = 31, 32, 2


def painted(text: str, colour: int, stream: TextIO | None) -> str:
    """The text in a colour where its stream is a terminal, unless ``NO_COLOR`` or ``FORCE_COLOR`` decides otherwise."""
    if os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m" if os.environ.get("FORCE_COLOR") or _is_terminal(stream) else text


def _is_terminal(stream: TextIO | None) -> bool:
    """Also of what a program put into the place of a stream, and of one that it closed."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


class Bars:
    """One progress bar a stage, on a terminal only."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def stage(self, name: str, steps: int) -> None:
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(
            total=steps, desc=f"{name:22}", unit="", disable=None, bar_format="{desc} {bar:30} {n}/{total} {elapsed}"
        )

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
