"""The manual page, of the same parsers as ``--help``: ``python -m trt_var.cli.shell.manual`` prints it.

The wheel has it as share/man/man1/trt-var.1 (hatch_build.py), where ``man trt-var`` finds it beside the command.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from trt_var import __version__
from trt_var.cli.commands import COMMANDS, tasks
from trt_var.cli.main import parser as main_parser

COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of argparse since Python 3.14
PLAIN = ("positional arguments", "options")  # titles of argparse's own, which need no heading
CODES = {
    "0": "done",
    "1": "failed: a bundle, picture, backend or file is not as it has to be",
    "2": "a request that cannot be meant: an option, or a value out of its range",
    "130": "interrupted; nothing unfinished is left",
}
VARIABLES = {
    "NO_COLOR": "no colours, not even on terminals",
    "FORCE_COLOR": "colours, in pipes too",
    "HF_HOME, HF_ENDPOINT": "cache and address of the hub, for released weights",
}


class Option(NamedTuple):
    """As it is typed, in all its spellings, and what is said of it."""

    spellings: list[str]
    help: str


class Group(NamedTuple):
    """Options under one title, none for those that need no heading."""

    title: str
    description: str
    options: list[Option]


def groups(parser: argparse.ArgumentParser) -> Iterator[Group]:
    """What a parser takes, without ``--help`` and commands."""
    formatter = parser._get_formatter()
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS and not isinstance(one, hidden)]
        options = [Option(_spelled(one), COLOUR.sub("", formatter._expand_help(one)) if one.help else "") for one in actions]
        if options:
            yield Group("" if group.title in PLAIN else group.title or "", group.description or "", options)


def _spelled(action: argparse.Action) -> list[str]:
    takes = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    takes = " ".join(takes) if isinstance(takes, tuple) else takes
    if not action.option_strings:
        return [takes + (" …" if action.nargs in ("*", "+") else "")]
    return [option if action.nargs == 0 else f"{option} {takes}" for option in action.option_strings]


def page() -> str:
    """The page, in man's macros of roff."""
    parser = main_parser().filled()
    made = os.environ.get("SOURCE_DATE_EPOCH")  # a build's, so that the same sources give the same page
    day = datetime.fromtimestamp(int(made), timezone.utc).date() if made else ""
    lines = [
        f'.TH TRT\\-VAR 1 "{day}" "trt\\-var {__version__}" "User Commands"',
        ".SH NAME",
        "trt\\-var \\- VAR image models with Collaborative Decoding: build, draw, serve",
        ".SH SYNOPSIS",
        ".B trt\\-var",
        "[\\fB\\-v\\fR] \\fICOMMAND\\fR [\\fIOPTION\\fR ...]",
        ".SH DESCRIPTION",
        _text(parser.description),
        ".SH COMMANDS",
    ]
    for task, names in tasks().items():
        rows = _entries(((f"\\fB{_text(name)}\\fR", COMMANDS[name].help) for name in names), indent=" 14")
        lines += [f".SS {_text(task)}", ".PD 0", *rows, ".PD"]
    lines += [".SH OPTIONS", *_options(parser), ".SH FIRST STEPS", *_examples(parser)]
    for name, command in parser.commands.items():
        lines += [f'.SH "TRT\\-VAR {_text(name.upper())}"', *_synopsis(command), ".PP", _text(command.description)]
        lines += [*_options(command), ".SS examples", *_examples(command)]
    for title, table in (("EXIT STATUS", CODES), ("ENVIRONMENT", VARIABLES)):
        lines += [f".SH {title}", *_entries((f"\\fB{_text(name)}\\fR", said) for name, said in table.items())]
    return "\n".join(lines) + "\n"


def _synopsis(command: argparse.ArgumentParser) -> list[str]:
    """What has to be given, and that there is more."""
    needed = [_spelled(one)[0] for one in command._actions if one.required]
    words = [f"\\fB{_text(command.prog)}\\fR", "[\\fIOPTION\\fR ...]", *(f"\\fI{_text(word)}\\fR" for word in needed)]
    return [" ".join(words)]


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in groups(parser):
        if group.title:
            yield f'.SS "{_text(group.title)}"'
        if group.description:
            yield _text(group.description)
        yield from _entries((", ".join(map(_bold, one.spellings)), one.help) for one in group.options)


def _bold(spelling: str) -> str:
    """``--engines DIR``: the option bold, what it takes in italics."""
    option, _, takes = spelling.partition(" ")
    if not option.startswith("-"):
        return f"\\fI{_text(spelling)}\\fR"
    return f"\\fB{_text(option)}\\fR" + (f" \\fI{_text(takes)}\\fR" if takes else "")


def _entries(entries: Iterator[tuple[str, str]], indent: str = "") -> Iterator[str]:
    for name, said in entries:
        yield from (f".TP{indent}", name, _text(said) or "\\&")


def _examples(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The lines as they are, without their title."""
    yield from (".EX", *map(_text, (parser.epilog or "").splitlines()[1:]), ".EE")


def _text(text: str | None) -> str:
    """As roff takes it for plain text."""
    text = (text or "").replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    print(page(), end="")
