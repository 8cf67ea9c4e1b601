"""The command line; commands/ has one file a command."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from trt_var.cli import commands
from trt_var.errors import TrtVarError, UsageError, printable

USAGE, FAILURE, INTERRUPTED = 2, 1, 130


class _Parser(argparse.ArgumentParser):
    """One-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 for a failure, 2 for a request that cannot be meant, 130 after Ctrl-C."""
    if sys.stdout is None:
        return _complain("trt-var", "standard output is closed; send it to a file or to /dev/null", FAILURE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
    except SystemExit as stop:  # --help, or argparse's own complaint
        raise SystemExit(_flushed(stop.code)) from None
    return int(_flushed(code) or 0)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    command = f"trt-var {options.name}"
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)  # so that a terminated build removes its unfinished folder
    try:
        options.command(options)
    except UsageError as error:
        return _complain(command, error, USAGE)
    except TrtVarError as error:
        return _complain(command, error, FAILURE)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; nothing unfinished was left behind\n")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILURE
    except MemoryError as error:
        return _complain(command, f"out of memory; ask for a smaller batch or fewer images {error}".rstrip(), FAILURE)
    except (OSError, UnicodeError, RecursionError) as error:
        return _complain(command, f"{type(error).__name__}: {error}", FAILURE)
    return 0


def _complain(command: str, error: object, code: int) -> int:
    """One line, whatever file names or manifests brought into it."""
    print(f"{command}: {printable(str(error))}", file=sys.stderr)
    return code


def _flushed(code: str | int | None) -> str | int | None:
    """Write out what is still buffered; a failure of that is the command's."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # or the interpreter tries once more, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code or isinstance(error, BrokenPipeError):
            return code or FAILURE  # said already; or nobody reads on, as with head
        return _complain("trt-var", f"cannot write to standard output: {error.strerror or error}", FAILURE)
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
