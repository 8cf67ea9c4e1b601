"""What the documents tell people to type exists: commands with these options, scripts, paths and imports."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from typed import problems

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands(document: Path) -> None:
    assert not list(problems(document.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths(document: Path) -> None:
    """Files of the project that inline code names."""
    folders = "runtime|export|calibration|training|tests|docs|examples|benchmarks"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", document.read_text(encoding="utf-8"))
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(document: Path) -> None:
    """Every name of the packages that the Python examples import, and every dotted name in inline code."""
    text = document.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    imported = [
        f"{module}.{name.split(' as ')[0].strip()}"
        for module, names in re.findall(r"^from (trt_var[\w.]*) import ([^\n(]+)", blocks, re.MULTILINE)
        for name in names.split(",")
    ]
    missing = [name for name in (*imported, *re.findall(r"`(trt_var[\w.]*)", text)) if not _found(name)]
    assert not missing


def _found(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        return bool(module) and _found(module) and hasattr(importlib.import_module(module), last)
    return True
