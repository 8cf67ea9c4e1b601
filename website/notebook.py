"""The notebook as a page: its words as they are, code in fences, what the cells printed and drew below them.

mkdocs-jupyter would bring styles and scripts of its own, some of them fetched from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples/tour.ipynb"


def pages() -> dict[str, str]:
    """The notebook as Markdown, by the path that it has on the site."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {"examples/tour.md": "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"}


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    """A cell's own text, then its outputs."""
    text = "".join(cell["source"])
    yield text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
    for output in cell.get("outputs", ()):
        if "text" in output:
            yield f"```text\n{''.join(output['text']).rstrip()}\n```"
        for kind, content in output.get("data", {}).items():
            if kind.startswith("image/"):
                yield f'<img alt="what the cell draws" src="data:{kind};base64,{"".join(content).replace(chr(10), "")}">'
