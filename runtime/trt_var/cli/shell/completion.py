"""``trt-var completion``: a script with which a shell completes commands, options, choices and files."""

from __future__ import annotations

import argparse

from trt_var.backends.installed import needed
from trt_var.cli import options as arguments
from trt_var.cli.commands import COMMANDS
from trt_var.cli.parsing import Main

SHELLS = ("bash", "zsh", "fish")


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Print a script that has a shell complete commands, options, choices and files (needs trt-var[completion]). "
        "It knows the options of this version: make it anew after an update, or have the shell's start ask for it.",
        'completion bash   # eval "$(trt-var completion bash)" in ~/.bashrc',
        'completion zsh    # eval "$(trt-var completion zsh)" in ~/.zshrc, after compinit',
        "completion fish > ~/.config/fish/completions/trt-var.fish",
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(command=_print)


def _print(options: argparse.Namespace) -> None:
    from trt_var.cli.main import parser

    print(script(parser(), options.shell), end="")


def script(parser: Main, shell: str) -> str:
    """The script for one of ``SHELLS``.

    Raises:
        BackendError: shtab is not installed.
    """
    with needed("completion needs shtab, which", ("shtab",), "pip install 'trt-var[completion]'"):
        import shtab
    kinds = dict.fromkeys(("FILE", "DIR|FILE", "N|FILE", "MODEL"), shtab.FILE) | {"DIR": shtab.DIRECTORY}
    for name, command in parser.filled().commands.items():
        command.description = COMMANDS[name].help  # what shtab shows beside the name
        for action in command._actions:
            if action.metavar in kinds:
                vars(action)["complete"] = kinds[action.metavar]  # where shtab looks
    return str(shtab.complete(parser, shell))
