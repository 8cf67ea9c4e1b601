"""Parsers that import a command once it is asked for, complain in one line, and list the commands by task."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from typing import Any, NoReturn

from trt_var.cli.commands import COMMANDS, tasks
from trt_var.cli.progress import RED, painted

USAGE = 2  # exit code of what cannot be meant


class Formatter(argparse.HelpFormatter):
    """Wraps what is said in one line, and leaves lines of examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # where RawDescriptionHelpFormatter differs, too
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """One-line errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{painted(f'{self.prog}:', RED, sys.stderr)} {_nearer(message)}; see {self.prog} --help\n")


def _nearer(message: str) -> str:
    """A command that is none, with one that is like it, not with all."""
    given = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
    if given is None:
        return message
    import difflib  # 10 ms, for those alone who mistype

    near = difflib.get_close_matches(given[1], COMMANDS, 1)
    return f"there is no command {given[1]!r}{f'; did you mean {near[0]}?' if near else ''}"


class Lazy(Parser):
    """A command's, whose options are there once it parses, so that one command does not wait for the others."""

    def __init__(self, command: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.set_defaults(name=command)
        self._wanting = command

    def fill(self) -> None:
        """Have the command's module add its options."""
        name, self._wanting = self._wanting, ""
        if name:
            importlib.import_module(f"trt_var.cli.{COMMANDS[name].module}").add(self, name)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said by the command, whose help has what there is; argparse leaves it to the main parser
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class Main(Parser):
    """The commands by task, in its help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        made = self.add_subparsers(metavar="COMMAND", parser_class=Lazy)
        self.set_defaults(name="", command=lambda _: self.print_help())
        self.commands: dict[str, Lazy] = {
            name: made.add_parser(name, command=name, help=one.help) for name, one in COMMANDS.items()
        }

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for task, names in tasks().items():
            formatter.start_section(task)
            formatter.add_arguments(argparse.Action([], name, help=COMMANDS[name].help, metavar=name) for name in names)
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(action for action in self._actions if action.option_strings)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def filled(self) -> Main:
        """Itself, with the options of every command."""
        for command in self.commands.values():
            command.fill()
        return self
