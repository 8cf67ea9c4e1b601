"""Examples in the docstrings of public names run as they are; every public class has one."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from pathlib import Path

import pytest

import trt_var

pytest.importorskip("griffe", reason="the list of public names needs trt-var[docs]")
import interface  # website/, which imports the above

NAMES = [name for *_, names in interface.PAGES.values() for name in names]
# raised by what needs PyTorch alone
OF_THE_EXPORT = {"trt_var.BundleExistsError", "trt_var.CheckpointError", "trt_var.ExportError", "trt_var.TrainingError"}
# the method that makes one has the example
MADE_BY = {
    "trt_var.requests.checking.Run": "trt_var.Pipeline.prepare",
    "trt_var.requests.checking.Kept": "trt_var.Pipeline.kept",
    "trt_var.decoding.chain.Chain": "trt_var.Pipeline.chain",
}


def examples(name: str) -> list[doctest.DocTest]:
    """Of a name, and of its own and inherited methods."""
    found = pkgutil.resolve_name(name)
    things = {name: found}
    if inspect.isclass(found):
        things |= {f"{name}.{key}": getattr(found, key) for key in dir(found) if not key.startswith("_")}
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    made = []
    for place, thing in things.items():
        if (module := inspect.getmodule(thing)) and module.__name__.startswith("trt_var"):
            made += finder.find(thing, place, module=False, globs=dict(vars(module)))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", ["trt_var", *NAMES])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    tests = examples(name) if name != "trt_var" else doctest.DocTestFinder(recurse=False).find(trt_var, name)
    for test in tests:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
    assert not list(tmp_path.iterdir()), "an example leaves files"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_THE_EXPORT])
def test_every_public_name_has_one(name: str) -> None:
    if inspect.isfunction(pkgutil.resolve_name(name)) and name.endswith((".read_images", ".read_picture")):
        return  # of one with another
    assert examples(MADE_BY.get(name, name)), f"the docstring of {name} has no example"
