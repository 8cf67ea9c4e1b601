"""The manual page: all that the help has, in roff that man and mandoc take without a word, and in the wheel."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trt_var.cli.commands import COMMANDS
from trt_var.cli.main import parser
from trt_var.cli.shell import manual

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("man") / "trt-var.1"
    path.write_text(manual.page(), "utf-8")
    return path


missing = pytest.fail if os.environ.get("TRT_VAR_REQUIRE_SHELLS") == "1" else pytest.skip


def checked(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run by a program that is there, or skip."""
    if shutil.which(str(command[0])) is None:
        missing(f"{command[0]} is not installed")
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANROFFOPT": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_man_says_all_that_the_help_says(page: Path) -> None:
    shown = checked("man", "--warnings", "-l", page)
    assert (shown.returncode, shown.stderr) == (0, "")
    said = " ".join(re.sub(".\b", "", shown.stdout).replace("‐\n", "").split()).replace("‐ ", "")
    for name, command in parser().filled().commands.items():
        part = said.partition(f"TRT-VAR {name.upper()} ")[2]
        assert COMMANDS[name].help in said
        for group in manual.groups(command):
            for option in group.options:
                assert ", ".join(option.spellings) in part, f"{name} {option}"
                assert " ".join(option.help.split())[:30] in part, f"{name} {option}"


def test_mandoc_finds_nothing(page: Path) -> None:
    told = checked("mandoc", "-T", "lint", "-W", "warning", page).stdout.splitlines()
    assert [line for line in told if "missing date" not in line] == []  # a build's, from SOURCE_DATE_EPOCH


def test_groff_finds_nothing(page: Path) -> None:
    told = checked("groff", "-man", "-ww", "-z", "-K", "utf-8", page)
    assert (told.returncode, told.stderr) == (0, "")


def test_text_is_text() -> None:
    assert manual._text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._text("a\\b's -x") == "a\\eb\\(aqs \\-x"


def test_a_build_puts_it_into_the_wheel(tmp_path: Path) -> None:
    """With the build's date, and without a package beside hatchling."""
    importlib.import_module("hatchling") if os.environ.get("TRT_VAR_REQUIRE_SITE") == "1" else pytest.importorskip(
        "hatchling"
    )
    pytest.importorskip("hatch_fancy_pypi_readme")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1764150000"}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".data/data/share/man/man1/trt-var.1"))
        text = archive.read(name).decode()
    assert text.replace('"2025-11-26"', '""', 1) == manual.page()
