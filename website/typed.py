"""Command lines that documents show, compared with the parsers."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from trt_var.cli import main as cli

ROOT = Path(__file__).parents[1]


def typed(text: str) -> Iterator[list[str]]:
    """Words of every command in code: fenced lines, and inline code that gives a whole command."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`((?:trt-var|python|bash) [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in (*lines, *inline):
        words = [*takewhile(lambda word: word not in ("|", ">", ">>"), shlex.split(line, comments=True))]
        if words:
            yield words


def problems(text: str) -> Iterator[str]:
    """Scripts that are not there, options that no parser knows."""
    for words in typed(text):
        if words[0] in ("python", "bash"):
            script = next((word for word in words if word.endswith((".py", ".sh"))), None)
            if script and "/" in script and not (ROOT / script).is_file():
                yield f"there is no {script}: {' '.join(words)}"
        elif words[0] == "trt-var" and len(words) > 1:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    cli.parser().parse_args(words[1:])
            except SystemExit as stop:
                if stop.code and "required" not in said.getvalue():  # shortened in running text
                    yield f"{' '.join(words)}: {said.getvalue().strip()}"
