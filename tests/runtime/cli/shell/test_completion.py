"""Completion as bash, zsh and fish give it with the script: commands, options, choices, files and folders."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trt_var.cli.commands import COMMANDS
from trt_var.cli.main import main

pytest.importorskip("shtab", reason="needs trt-var[completion]")
CASES = {
    "trt-var ": set(COMMANDS),
    "trt-var inf": {"info"},
    "trt-var run --ba": {"--backend", "--batch-invariant", "--batch-size"},
    "trt-var run --backend o": {"onnxruntime", "openvino"},
    "trt-var build --precision ": {"fp32", "fp16", "bf16", "int8"},
    "trt-var completion ": {"bash", "zsh", "fish"},
    "trt-var run --out ": {"seven.png", "some.txt", "bundle"},
    "trt-var run --engines ": {"bundle"},
    "trt-var score --engines bundle ": {"seven.png", "some.txt", "bundle"},
}
BASH = """source "$1"; words=($2); [[ $2 == *" " ]] && words+=("")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE=$2; COMP_POINT=${#2}
"$(complete -p trt-var | sed 's/.*-F \\([^ ]*\\).*/\\1/')" trt-var; printf '%s\\n' "${COMPREPLY[@]}" """


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, a folder, and out of their way the scripts."""
    folder = tmp_path_factory.mktemp("typed")
    for name in ("seven.png", "some.txt"):
        (folder / name).touch()
    (folder / "bundle").mkdir()
    return folder


def script(shell: str, folder: Path) -> Path:
    if shutil.which(shell) is None:
        missing = pytest.fail if os.environ.get("TRT_VAR_REQUIRE_SHELLS") == "1" else pytest.skip
        missing(f"{shell} is not installed")
    path = folder.with_name(f"script.{shell}")
    command = [sys.executable, "-m", "trt_var", "completion", shell]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


@pytest.mark.parametrize("typed", CASES)
def test_bash(folder: Path, typed: str) -> None:
    command = ["bash", "--norc", "-c", BASH, "bash", str(script("bash", folder)), typed]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=True)
    assert {word.rstrip(" /") for word in ran.stdout.splitlines()} == CASES[typed], ran.stderr


@pytest.mark.parametrize("typed", CASES)
def test_fish(folder: Path, typed: str) -> None:
    lines = f"source {script('fish', folder)}; complete -C '{typed}'"
    command = ["fish", "--no-config", "-c", lines]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=True)
    assert {line.split("\t")[0].rstrip("/") for line in ran.stdout.splitlines()} == CASES[typed], ran.stderr


@pytest.mark.parametrize("typed", [typed for typed, found in CASES.items() if len(found) > 1])
def test_zsh(folder: Path, typed: str) -> None:
    """Its functions complete on a terminal alone, so it has one; what it lists stands there."""
    path = script("zsh", folder)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("zsh", ["zsh", "-f", "-i"], os.environ | {"TERM": "dumb", "COLUMNS": "200", "LINES": "100"})
    try:
        begin = f"PS1=; LISTMAX=999; autoload -Uz compinit; compinit -u -D; eval \"$(<{path})\"; print be''gun\n"
        os.write(terminal, begin.encode())
        assert "begun" in (said := shown(terminal, {"begun"})), said
        os.write(terminal, f"{typed}\t\t".encode())
        said = shown(terminal, CASES[typed])
        assert not {word for word in CASES[typed] if word not in said}, said
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def shown(terminal: int, wanted: set[str], seconds: float = 30) -> str:
    """What a terminal shows, until all that is wanted stands there, or for so long."""
    said, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and not all(word.encode() in said for word in wanted):
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 65536)
    return said.decode(errors="replace")


def test_without_shtab_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "pip install 'trt-var[completion]'" in said.err and said.err.count("\n") == 1
