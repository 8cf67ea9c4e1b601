"""The command line; commands.py lists the commands, each of which has a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from trt_var import __version__
from trt_var.backends.installed import trouble
from trt_var.cli.embedded import messages, readable_streams, terminable
from trt_var.cli.parsing import USAGE, Main
from trt_var.cli.progress import RED, painted
from trt_var.errors import TrtVarError, UsageError, printable

FAILURE, INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 for a failure, 2 for a request that cannot be meant, 130 after Ctrl-C.

    May be called from a program, a notebook or a thread: signals, streams and loggers are afterwards what they were.

    Raises:
        SystemExit: after ``--help`` and ``--version``, and for options that cannot be read, as argparse does.
    """
    if sys.stdout is None:
        return _complain("trt-var", "standard output is closed; send it to a file or to /dev/null", FAILURE)
    with readable_streams():
        try:
            code = _run(arguments)
        except SystemExit as stop:  # --help, or argparse's own complaint
            raise SystemExit(_flushed(stop.code)) from None
        return int(_flushed(code) or 0)


def _run(arguments: Sequence[str] | None) -> int:
    command = "trt-var"
    try:
        options = parser().parse_args(arguments)
        command = f"trt-var {options.name}"
        with messages.shown(options.verbose), terminable():
            options.command(options)
    except UsageError as error:
        return _complain(command, error, USAGE)
    except TrtVarError as error:
        return _complain(command, error, FAILURE)
    except KeyboardInterrupt:
        _say("\ninterrupted; nothing unfinished was left behind")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILURE
    except MemoryError as error:
        return _complain(command, f"out of memory; ask for a smaller batch or fewer images {error}".rstrip(), FAILURE)
    except ImportError as error:  # NumPy, Pillow and the like; what is optional has a message of its own
        return _complain(command, f"a package that this needs {trouble(error, (), 'pip install trt-var')}", FAILURE)
    except (OSError, UnicodeError, RecursionError) as error:
        return _complain(command, f"{type(error).__name__}: {error}", FAILURE)
    return 0


def _complain(command: str, error: object, code: int) -> int:
    """One line, whatever file names or manifests brought into it."""
    _say(f"{painted(f'{command}:', RED, sys.stderr)} {printable(str(error))}")
    return code


def _say(text: str) -> None:
    if sys.stderr is not None:  # as without a console; print would take standard output instead
        print(text, file=sys.stderr)


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


def parser() -> Main:
    """The parser; its commands have their options once one of them parses, or all of them after ``filled``."""
    made = Main(
        prog="trt-var",
        description="Class-conditional images from VAR models with Collaborative Decoding, without PyTorch at run time. "
        "trt-var COMMAND --help has the options and examples of a command.",
        epilog="\n".join(
            (
                "first steps:",
                "  trt-var demo                                 # a grid of digits, without any download",
                "  trt-var build --drafter d30 --refiner d16    # the released pair → engines/d30-d16",
                '  trt-var run --labels "golden retriever,360"  # → grid.png',
            )
        ),
    )
    made.add_argument("--version", action="version", version=f"trt-var {__version__}")
    made.add_argument("-v", "--verbose", action="store_true", help="say what is chosen and done")
    return made
