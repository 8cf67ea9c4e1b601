"""The reference of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator

from trt_var.cli import main as cli

TITLES = {"positional arguments": "", "options": "", "optional arguments": ""}  # argparse's own; need no heading
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def pages() -> dict[str, str]:
    """Markdown of the page."""
    parser = cli._parser()
    os.environ["COLUMNS"] = "88"  # argparse asks it for the width of usage lines
    parts = [
        "# Command line",
        "Generated from the parsers of this version; `trt-var COMMAND --help` says the same.",
        parser.description or "",
        *_options(parser),
        *_closing(parser),
    ]
    listed = {choice.dest: choice.help or "" for choice in _subparsers(parser)._choices_actions}
    parts.append("| command | what it does |\n|---|---|")
    rows = [f"| [`trt-var {name}`](#trt-var-{name}) | {escaped(help_)} |" for name, help_ in listed.items()]
    parts[-1] = "\n".join([parts[-1], *rows])
    for name, command in commands(parser).items():
        parts += [f"## trt-var {name} {{ #trt-var-{name} }}", escaped(command.description or listed.get(name, ""))]
        parts += [f"```text\n{COLOUR.sub('', command.format_usage()).strip()}\n```", *_options(command), *_closing(command)]
    return {"reference/command-line.md": "\n\n".join(part for part in parts if part) + "\n"}


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by name."""
    return dict(_subparsers(parser).choices)


def escaped(text: str) -> str:
    """Help as Markdown takes it for plain text."""
    return re.sub(r"([\\*_<>\[\]|])", r"\\\1", text)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A definition an option, under the titles of their groups."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        ]
        title = TITLES.get(group.title or "", group.title or "")
        if shown and title:
            yield f"**{title}**"
        for action in shown:
            said = formatter._expand_help(action) if action.help else ""
            yield f"{_name(action)}\n:   {escaped(COLOUR.sub('', said)) or '—'}"


def _name(action: argparse.Action) -> str:
    """An option as it is typed, with what it takes."""
    metavar = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    metavar = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if not action.option_strings:
        return f"`{metavar}`" + (" …" if action.nargs in ("*", "+") else "")
    takes = "" if action.nargs == 0 else f" {metavar}"
    return ", ".join(f"`{option}{takes}`" for option in action.option_strings)


def _closing(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What stands below the options: examples, as they are where they have lines of their own."""
    text = COLOUR.sub("", parser.epilog or "").strip()
    if "\n" in text:
        yield f"```text\n{text}\n```"
    elif text:
        yield escaped(text)
