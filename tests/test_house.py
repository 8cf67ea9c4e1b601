"""The house keeps its order: contracts that fail when broken, small files and folders, imports in their places."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = ("runtime", "export", "calibration", "training")
SOURCES = sorted(file for root in ROOTS for file in (ROOT / root).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = [*SOURCES, *TESTS, *(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
NEEDED = ("numpy", "msgspec", "PIL", "platformdirs", "tqdm", "onnxruntime", "google", "flatbuffers", "packaging")
TRIED = (Path(__file__).name, "test_packaged.py")  # this list; a program that imports the package from a zip file
WIDE = {"runtime/trt_var": 17}  # eleven rooms and what stands between them; docs/architecture.md


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize(("files", "limit"), [(SOURCES, 300), (TESTS, 400)], ids=["sources", "tests"])
def test_files_are_small(files: list[Path], limit: int) -> None:
    lengths = {named(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert not {file: lines for file, lines in lengths.items() if lines > limit}


def test_folders_are_small() -> None:
    folders: dict[str, set[str]] = {}
    for file in SOURCES:
        for parent in file.parents:
            if parent == ROOT:
                break
            inside = file.relative_to(parent).parts[0]
            if inside != "__init__.py":
                folders.setdefault(named(parent), set()).add(inside)
    wide = {folder: sorted(inside) for folder, inside in folders.items() if len(inside) > WIDE.get(folder, 12)}
    assert not wide


def test_no_links_and_no_edited_path() -> None:
    links = [
        path
        for root in (*ROOTS, "tests", "examples", "benchmarks")
        for path in (ROOT / root).rglob("*")
        if path.is_symlink()
    ]
    assert not links
    edits = ("sys.path.insert", "sys.path.append", "sys.path[", "sys.path +")
    assert not [
        named(file) for file in EVERYTHING if file.name not in TRIED and any(e in file.read_text("utf-8") for e in edits)
    ]


def late_imports(file: Path) -> Iterator[tuple[int, str]]:
    """Imports that run when a function does, with their line numbers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node.lineno, ast.unparse(node)


def test_imports_inside_functions_say_why() -> None:
    """Those of two rooms have one reason each, in the room's docstring; others give theirs beside or above."""
    rooms = [ROOT / "runtime/trt_var" / name for name in ("cli", "pictures")]
    assert all("import" in (ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or "") for room in rooms)
    silent = []
    for file in SOURCES:
        if any(file.is_relative_to(room) for room in rooms):
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        for line, statement in late_imports(file):
            # a reason stands for the imports that follow it without a gap
            first = line
            while lines[first - 2].strip().startswith(("import ", "from ")):
                first -= 1
            if not any("#" in text for text in lines[first - 2 : line]):
                silent.append(f"{named(file)}:{line}: {statement}")
    assert not silent


def test_examples_and_benchmarks_import_what_there_is() -> None:
    """They are not run here, most of them: they take minutes, or a GPU."""
    missing = []
    for file in (file for folder in ("examples", "benchmarks") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trt_var"):
                module = importlib.import_module(node.module or "")
                missing += [
                    f"{named(file)}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name) and importlib.util.find_spec(f"{node.module}.{alias.name}") is None
                ]
    assert not missing


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts, to break."""
    for root in ROOTS:
        shutil.copytree(ROOT / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__", "digits"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def contracts(house: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(house / root) for root in ROOTS)}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("runtime/trt_var/errors.py", "from trt_var import pipeline", "Rooms of the runtime"),
        ("runtime/trt_var/decoding/loop.py", "import onnxruntime", "NumPy and one backend alone"),
        ("runtime/trt_var/pipeline.py", "import torch", "Inference without torch and onnx"),
        ("runtime/trt_var/bulk/shards.py", "import trt_var_export", "Packages, top to bottom"),
    ],
)
def test_contracts_fail_when_broken(house: Path, file: str, line: str, broken: str) -> None:
    path = house / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    result = contracts(house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{broken}" in result.stdout and "BROKEN" in result.stdout


def test_contracts_hold(house: Path) -> None:
    result = contracts(house)
    assert result.returncode == 0, result.stdout + result.stderr


def test_runtime_needs_no_more_than_it_says(tmp_path: Path) -> None:
    """``PYTHONPATH=runtime`` alone, and nothing installed but NumPy, msgspec, Pillow, platformdirs, tqdm and a backend."""
    packages = Path(sysconfig.get_paths()["purelib"])
    for found in packages.iterdir():
        name = found.name.split("-")[0].split(".")[0]
        if name in NEEDED or found.suffix == ".libs":
            (tmp_path / found.name).symlink_to(found)
    code = (
        "import sys, trt_var; from trt_var import Batcher, Batching, Pipeline; p = Pipeline.load('digits', 'onnxruntime')\n"
        "print(p.generate(3, n_draft=4).images.shape)\n"
        "with Batcher(p, Batching(batch=2)) as batcher: assert batcher.submit('seven').result().labels == 7\n"
        "print(sorted(set(sys.modules) & {'torch', 'onnx', 'onnx_ir', 'safetensors', 'matplotlib', 'scipy'}))"
    )
    environment = {"PYTHONPATH": os.pathsep.join((str(ROOT / "runtime"), str(tmp_path))), "PATH": os.environ["PATH"]}
    # -S: site-packages stay off the path
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n")[:2] == ["(1, 32, 32, 3)", "[]"], ran.stdout
