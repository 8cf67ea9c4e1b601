"""The tour: every cell runs, from the first to the last, and what is stored in the file is what such a run gave."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples/tour.ipynb"
REQUIRED = os.environ.get("TRT_VAR_REQUIRE_SITE") == "1"  # what is missing is then a failure
for needed in ("nbclient", "nbformat", "ipykernel", "matplotlib"):
    importlib.import_module(needed) if REQUIRED else pytest.importorskip(needed, reason="needs trt-var[notebook]")

import nbclient  # noqa: E402
import nbformat  # noqa: E402


def drawn(notebook: dict[str, Any]) -> dict[str, list[str]]:
    """What kinds of picture every cell of code gives."""
    return {
        cell["id"]: [kind for output in cell["outputs"] for kind in output.get("data", {}) if kind.startswith("image/")]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    }


def said(notebook: dict[str, Any], cell: str) -> str:
    """What a cell prints."""
    outputs = next(one["outputs"] for one in notebook["cells"] if one["id"] == cell)
    return "".join("".join(output.get("text", ())) for output in outputs)


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TOUR.read_text("utf-8"))
    return found


def test_every_cell_runs(stored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # not the user's
    notebook = nbformat.read(TOUR, as_version=4)
    beside = sorted(TOUR.parent.iterdir())
    resources = {"metadata": {"path": str(TOUR.parent)}}  # where its readers open it
    nbclient.NotebookClient(notebook, timeout=300, startup_timeout=300, resources=resources).execute()
    assert sorted(TOUR.parent.iterdir()) == beside
    assert drawn(notebook) == drawn(stored)
    assert said(notebook, "grown") == said(stored, "grown")
    read = re.findall(r"\b\d\b", said(notebook, "scores"))  # float32's ten and int8's
    assert sum(int(one) == number % 10 for number, one in enumerate(read)) >= 17


def test_it_is_stored_whole_and_small(stored: dict[str, Any]) -> None:
    assert TOUR.stat().st_size < 300_000
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert sum(map(len, drawn(stored).values())) == 6
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert not re.search(r"/(?:home|root|tmp|work)/", TOUR.read_text("utf-8"))


def test_a_broken_cell_fails(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("from trt_var import Nothing")])
    resources = {"metadata": {"path": str(tmp_path)}}
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="Nothing"):
        nbclient.NotebookClient(notebook, timeout=300, startup_timeout=300, resources=resources).execute()


def test_what_it_links_to_exists(stored: dict[str, Any]) -> None:
    text = "\n".join("".join(cell["source"]) for cell in stored["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#:\s]+)\)", text)
    assert links and not [link for link in links if not (TOUR.parent / link).exists()]
