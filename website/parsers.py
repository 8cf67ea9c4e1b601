"""The reference of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator

from trt_var.cli import main as cli
from trt_var.cli.commands import COMMANDS, tasks
from trt_var.cli.parsing import Main
from trt_var.cli.shell.manual import COLOUR, groups


def pages() -> dict[str, str]:
    """Markdown of the page."""
    parser = cli.parser()
    os.environ["COLUMNS"] = "80"  # argparse asks it for the width of usage lines
    parts = [
        "# Command line",
        "Generated from the parsers of this version; `trt-var COMMAND --help` says the same, and so does the manual page, "
        "`man trt-var`. [For programs and shells](shell.md): `--json`, completion, colours, exit codes.",
        parser.description or "",
        *_options(parser),
        *_closing(parser),
    ]
    rows = ["| task | command | what it does |", "|---|---|---|"]
    for task, names in tasks().items():
        for name in names:
            named = task if name == names[0] else ""
            rows.append(f"| {named} | [`trt-var {name}`](#trt-var-{name}) | {escaped(COMMANDS[name].help)} |")
    parts.append("\n".join(rows))
    for name, command in commands(parser).items():
        parts += [f"## trt-var {name} {{ #trt-var-{name} }}", escaped(command.description or "")]
        parts += [f"```text\n{COLOUR.sub('', command.format_usage()).strip()}\n```", *_options(command), *_closing(command)]
    return {"reference/command-line.md": "\n\n".join(part for part in parts if part) + "\n"}


def commands(parser: Main) -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by name."""
    return dict(parser.filled().commands)


def escaped(text: str) -> str:
    """Help as Markdown takes it for plain text."""
    return re.sub(r"([\\*_<>\[\]|])", r"\\\1", text)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A definition an option, under the titles of their groups."""
    for group in groups(parser):
        if group.title:
            yield f"**{group.title}**" + (f": {escaped(group.description)}" if group.description else "")
        for option in group.options:
            spelled = ", ".join(f"`{spelling}`" for spelling in option.spellings)
            yield f"{spelled}\n:   {escaped(option.help) or '—'}"


def _closing(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The examples."""
    lines = (parser.epilog or "").splitlines()
    yield f"**{lines[0].rstrip(':')}**"
    yield "\n".join(["```sh", *(line.removeprefix("  ") for line in lines[1:]), "```"])
