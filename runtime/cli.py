"""The command line; commands/ has one file a command."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from trt_var import commands
from trt_var.errors import TrtVarError, UsageError

USAGE, FAILURE, INTERRUPTED = 2, 1, 130


class _Parser(argparse.ArgumentParser):
    """One-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 for a failure, 2 for a request that cannot be meant, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)  # so that a terminated build removes its unfinished folder
    try:
        options.command(options)
    except UsageError as error:
        return _complain(options, error, USAGE)
    except TrtVarError as error:
        return _complain(options, error, FAILURE)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; nothing unfinished was left behind\n")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILURE
    return 0


def _complain(options: argparse.Namespace, error: TrtVarError, code: int) -> int:
    sys.stderr.write(f"trt-var {options.name}: {error}\n")
    return code


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trt-var",
        description="Class-conditional images from VAR models with Collaborative Decoding, without PyTorch at run time.",
        epilog="First steps: trt-var demo; then trt-var build --drafter d30 --refiner d16 and trt-var run --labels 207.",
    )
    parser.add_argument("--version", action="version", version=f"trt-var {version('trt-var')}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is chosen and done")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add in commands.COMMANDS.items():
        add(subparsers, name)
    return parser
