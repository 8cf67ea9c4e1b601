"""The documentation site: nothing public is missing from it, and it needs nothing from elsewhere.

``make docs`` does the rest: it builds strictly, so that broken links, stale command lines and undocumented names fail.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trt_var

ROOT = Path(__file__).parents[1]
REQUIRED = os.environ.get("TRT_VAR_REQUIRE_SITE") == "1"  # what is missing is then a failure
for needed in ("mkdocs", "material", "mkdocstrings", "griffe"):
    importlib.import_module(needed) if REQUIRED else pytest.importorskip(needed, reason="the site needs trt-var[docs]")

import interface  # noqa: E402  # website/, which imports the above
import parsers  # noqa: E402
import schema  # noqa: E402
from trt_var.bundle.manifest import Manifest  # noqa: E402
from trt_var.cli import main as cli  # noqa: E402


def built(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), *more]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    made = built(out)
    assert made.returncode == 0, made.stdout + made.stderr
    return out


def test_every_command_and_option_is_there(site: Path) -> None:
    page = (site / "reference/command-line.html").read_text("utf-8")
    for name, command in parsers.commands(cli.parser()).items():
        assert f'id="trt-var-{name}"' in page, name
        part = page.partition(f'id="trt-var-{name}"')[2].partition("<h2")[0]
        for action in command._actions:
            for option in action.option_strings if "--help" not in action.option_strings else ():
                assert f"<code>{option}" in part, f"{name} {option}"


def test_every_public_name_is_there(site: Path) -> None:
    anchors = "".join(path.read_text("utf-8") for path in (site / "reference").glob("*.html"))
    missing = [name for name in trt_var.__all__ if f'id="trt_var.{name}"' not in anchors]
    assert not missing
    listed = (site / "reference/python.html").read_text("utf-8")
    assert not [name for name in trt_var.__all__ if f"#trt_var.{name}" not in listed]


def test_every_field_of_the_manifest_is_there(site: Path) -> None:
    page = (site / "reference/manifest.html").read_text("utf-8")
    assert not [name for name in Manifest.__struct_fields__ if f"<td><code>{name}</code></td>" not in page]
    assert (site / "reference/manifest.schema.json").stat().st_size > 1000


def test_undocumented_things_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [*interface.problems(), *schema.problems()]
    monkeypatch.setattr(interface, "_docstring", lambda one: "")
    told = list(interface.problems())
    assert "trt_var.Pipeline has no docstring" in told
    assert "the docstring of trt_var.Pipeline.generate does not say what labels is" in told
    monkeypatch.setattr(trt_var, "__all__", [*trt_var.__all__, "Other"])
    assert "website/interface.py has no page for trt_var.Other" in list(interface.problems())
    monkeypatch.setattr(schema, "_said", lambda: {})
    assert "bundle.md does not describe the manifest's field schedule" in list(schema.problems())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](bundle.md#nowhere)", "#nowhere"),
        ("`trt-var run --nonsense 3`", "--nonsense"),
        ("`python benchmarks/nowhere.py`", "benchmarks/nowhere.py"),
        (None, "other.md"),
    ],
    ids=["page", "anchor", "option", "script", "not in the navigation"],
)
def test_strict_means_strict(tmp_path: Path, text: str | None, told: str) -> None:
    """A small site with the same settings and hooks, and one thing wrong."""
    yaml = importlib.import_module("yaml")
    settings: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n{text or ''}\n", "utf-8")
    (docs / "bundle.md").write_text("# Bundles\n", "utf-8")
    if text is None:
        (docs / "other.md").write_text("# Other\n", "utf-8")
    beside = [f"reference/{page}.md" for page in ("command-line", "python", "manifest", *interface.PAGES)]
    beside += [
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "examples/digits/MODEL_CARD.md",
        "examples/serving/README.md",
        "examples/tour.md",
    ]
    settings |= {
        "nav": ["index.md", "bundle.md", *beside],
        "hooks": [str(ROOT / "website/hooks.py")],
        "plugins": [],
        "theme": "mkdocs",
        "docs_dir": str(docs),
        "watch": [],
    }
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings), "utf-8")
    made = built(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert made.returncode == 1
    assert told in made.stderr


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*\shref=\"?(?:https?:)?//[^>]*stylesheet"
    )
    pages = [*site.rglob("*.html")]
    assert len(pages) > 40
    assert not [page.name for page in pages if fetched.search(page.read_text("utf-8"))]
    sheets = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert not [sheet[:80] for sheet in sheets if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet)]


def test_two_clicks_from_home(site: Path) -> None:
    """What a newcomer asks has its place on the home page, and the page that it leads to says it."""
    home = (site / "index.html").read_text("utf-8")
    for page, said in {
        "tasks/build.html": "trt-var run --engines engines/mine",
        "tasks/serve.html": "trt-var serve",
        "concepts/memory.html": "What do d30 and d16 need together",
        "concepts/exactness.html": "depend on the batch",
    }.items():
        assert f'href="{page}"' in home.partition("<article")[2], page
        assert said in re.sub(r"<[^>]+>", "", (site / page).read_text("utf-8")), page
