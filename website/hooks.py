"""What the documentation site has beside docs/: files of the tree, and pages that are generated from the code.

Everything that is logged as a warning here fails ``mkdocs build --strict``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import boxes
import interface
import notebook
import parsers
import schema
import typed

log = logging.getLogger("mkdocs.hooks.trt_var")
ROOT = Path(__file__).parents[1]
BESIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "examples/digits/MODEL_CARD.md",
    "examples/serving/*",
    "examples/serving/ray/*",
)
LINK = re.compile(r"(?<!`)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()#\s]+)(#[^()\s]*)?\)")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
PICTURE = re.compile(r"^!\[([^\]]*)\]\((\S+\.svg)\)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/, at its path in the tree, and the pages of the reference."""
    for path in sorted(path for pattern in BESIDE for path in ROOT.glob(pattern) if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for source, content in (parsers.pages() | interface.pages() | schema.pages() | notebook.pages()).items():
        if beside := files.get_file_from_path(source):  # what those read who have the tree alone
            files.remove(beside)
        files.append(File.generated(config, source, content=content))
    for problem in (*interface.problems(), *schema.problems()):
        log.warning(problem)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Check the command lines that a page shows; links as they hold on the site; drawings that follow the colours."""
    here = page.file.src_uri
    if here != "CHANGELOG.md" and not here.startswith("reference/"):  # of the past; generated
        for problem in typed.problems(markdown):
            log.warning("%s: %s", here, problem)
    markdown = boxes.drawn(markdown)
    markdown = PICTURE.sub(lambda found: _inlined(found, here), markdown)
    sources = (ROOT / "docs" / here, ROOT / here, (ROOT / here).with_suffix(".ipynb"))
    beside = next((path for path in sources if path.exists()), None)
    if beside is None:
        return markdown
    folder = beside.parent.relative_to(ROOT).as_posix()
    parts = CODE.split(markdown)
    prose = [LINK.sub(lambda found: _link(found, folder, here, files, config.repo_url), part) for part in parts[::2]]
    return "".join(text for pair in zip(prose, [*parts[1::2], ""], strict=True) for text in pair)


def _link(found: re.Match[str], folder: str, here: str, files: Files, published: str | None) -> str:
    """A link of a file of the tree: to the page of what it names; else to the published tree, or its path."""
    kind, text, target, anchor = found.groups()
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    path = normpath(f"{folder}/{target}")
    if path == "README.md":
        path = "docs/index.md"
    for source in (path.removeprefix("docs/"), f"{path}/README.md", path.replace(".ipynb", ".md")):
        if files.get_file_from_path(source):
            return f"{kind}[{text}]({relpath(source, str(PurePosixPath(here).parent))}{anchor or ''})"
    if not (ROOT / path).exists():
        return found[0]  # mkdocs complains
    if published:
        return f"[{text}]({published.rstrip('/')}/blob/main/{path}{anchor or ''})"
    return text if PurePosixPath(path).name in text else f"{text} (`{path}`)"


def _inlined(found: re.Match[str], here: str) -> str:
    """A drawing as part of the page, so that it takes the page's colours; its own are for where it is a picture."""
    path = ROOT / "docs" / PurePosixPath(here).parent / found[2]
    if not path.is_file():
        return found[0]
    drawing = re.sub(r"<\?xml.*?\?>|<style>.*?</style>", "", path.read_text("utf-8"), flags=re.DOTALL)
    drawing = re.sub(r"\n\s*", "", drawing.strip())
    return f'<figure class="drawing" role="img" aria-label="{found[1]}">{drawing}</figure>'
