"""The help: commands by task, examples that parse, options of one name, meaning and order; colours on terminals only."""

from __future__ import annotations

import argparse
import io
import os
import pty
import shlex
import subprocess
import sys
from collections import defaultdict
from itertools import takewhile
from typing import Any

import pytest

from trt_var.cli.commands import COMMANDS, tasks
from trt_var.cli.main import main, parser
from trt_var.cli.parsing import Lazy
from trt_var.cli.progress import RED, painted

PARSERS = parser().filled().commands
# those that several commands have, as they follow each other in all of them
ORDER = [
    *("--drafter", "--refiner", "--vae", "--drafter-key", "--refiner-key", "--vae-key"),
    *("--engines", "--backend", "--batch-invariant", "--threads", "--keep-compiled", "--class-names"),
    *("--labels", "--label", "--num", "--per-class", "--n-draft", "--seed"),
    *("--preset", "--cfg", "--guided-scales", "--scales", "--top-k", "--top-p", "--more-smooth", "--temperature"),
    *("--batch-size", "--batch", "--device", "--out", "--out-dir", "--save-npz", "--adm-npz", "--force", "--json"),
]
LISTS = {"bench", "eval", "engines", "build", "load", "plan", "serve"}  # N, batches and the like may be several there
OTHERWISE = {
    "--verify": {"finetune", "load"},  # the old name, kept, of --check-pictures and --against
    "--json": {"eval"},  # the old name, kept, of --out
    "--backend": {"load"},  # of --against
    "--steps": {"run", "finetune"},  # of drawing, of training
    "--device": {"plan"},  # of a data sheet
    "--objective": {"load", "plan"},  # a latency; also a share of requests
}


def options(command: Lazy) -> dict[str, argparse.Action]:
    return {option: action for action in command._actions for option in action.option_strings}


def test_commands_are_listed_by_task_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = parser().format_help().splitlines()
    for task, names in tasks().items():
        first = lines.index(f"{task}:") + 1
        assert [line.split()[0] for line in lines[first : first + len(names)]] == names
        assert lines[first + len(names)] == ""


def examples(epilog: str | None) -> list[list[str]]:
    """The words of every line behind the title, up to a pipe or a redirection."""
    found = []
    for line in (epilog or "").splitlines()[1:]:
        words = shlex.shlex(line, posix=True, punctuation_chars="|>")
        words.whitespace_split = True
        found.append([*takewhile(lambda word: word not in ("|", ">"), words)])
    return found


@pytest.mark.parametrize("name", ["trt-var", *COMMANDS])
def test_examples_parse(name: str) -> None:
    shown = examples((PARSERS[name] if name in PARSERS else parser()).epilog)
    assert shown
    assert name == "trt-var" or any(words[1] == name for words in shown)
    for words in shown:
        assert words[0] == "trt-var"
        parser().parse_args(words[1:])


def test_a_stale_example_would_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = examples('examples:\n  trt-var run --labels "golden retriever" --gone 3   # was an option')
    assert words == ["trt-var", "run", "--labels", "golden retriever", "--gone", "3"]
    with pytest.raises(SystemExit):
        parser().parse_args(words[1:])
    assert "unrecognized arguments: --gone 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_shared_options_have_one_order(name: str) -> None:
    own = [option for option in options(PARSERS[name]) if option in ORDER and name not in OTHERWISE.get(option, ())]
    if name == "build":  # those of calibrate and engines follow, in groups
        own = own[: own.index("--force") + 1]
    assert own == sorted(own, key=ORDER.index)


def test_options_of_one_name_mean_one_thing() -> None:
    kinds: dict[str, dict[object, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, command in PARSERS.items():
        for option, action in options(command).items():
            if name not in OTHERWISE.get(option, ()) and not (action.metavar and name in LISTS):
                metavar = None if option == "--out" else action.metavar  # a file or a folder, as the command writes
                kinds[option][action.dest, metavar, action.nargs, action.type, str(action.choices)].append(name)
    assert not {option: dict(found) for option, found in kinds.items() if len(found) > 1}


def test_commands_are_imported_when_they_are_asked_for() -> None:
    code = """import sys; from trt_var.cli.main import parser; parser().parse_args(["backends"])
print(sorted(name for name in sys.modules if name.startswith("trt_var.cli.") and name.count(".") == 3))"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "['trt_var.cli.measuring.backends']\n"


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_colours(terminal: bool, variables: dict[str, str], coloured: bool) -> None:
    """Of a list on standard output, and of a complaint on standard error."""
    usual = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = usual | {"TERM": "xterm"} | variables
    for arguments in (["backends"], ["run", "--top-k", "x"]):
        ours, theirs = pty.openpty() if terminal else os.pipe()
        command = [sys.executable, "-m", "trt_var", *arguments]
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
            os.close(theirs)
            said = b""
            while part := _read(ours):
                said += part
        os.close(ours)
        assert (b"\x1b[" in said) is coloured, said


def test_streams_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    closed = io.StringIO()
    closed.close()
    odd: list[Any] = [None, object(), closed]
    assert [painted("text", RED, stream) for stream in odd] == ["text"] * 3


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how a terminal ends on Linux
        return b""


def test_without_a_command_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "first steps:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"), [("runn", "there is no command 'runn'; did you mean run?"), ("xyz", "there is no command 'xyz'")]
)
def test_a_command_that_is_none(capsys: pytest.CaptureFixture[str], given: str, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([given])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"trt-var: {said}; see trt-var --help\n"
