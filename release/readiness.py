"""Whether the tree is a version that can be published, and how that is done: ``make release`` asks first and says last.

python release/readiness.py [--how]
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOW = """\
trt-var {version} is in dist/, checked. To publish it:

    git tag --annotate v{version} --message "trt-var {version}"
    git push origin v{version}    # .github/workflows/release.yml builds and checks it again, and waits for an approval

or by hand: twine upload dist/*"""


def git(root: Path, *arguments: str) -> str:
    """What git says; it ends the program with git's own words if it fails."""
    ran = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout.strip()


def version(root: Path) -> str:
    """The version, from the one place that has it."""
    found = re.search(r'^__version__ = "(.+)"$', (root / "runtime/trt_var/__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("runtime/trt_var/__init__.py has no line __version__ = …; expected one")
    return found[1]


def problems(root: Path) -> Iterator[str]:
    """What stands between a tree and its publication, a line each."""
    name = version(root)
    if changed := git(root, "status", "--porcelain"):
        yield f"the tree differs from its commit in {len(changed.splitlines())} files; commit or remove them (git status)"
    heading = rf"^## {re.escape(name)} \(\d{{4}}-\d\d-\d\d\)$"
    if not re.search(heading, (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE):
        yield f"CHANGELOG.md has no heading '## {name} (YYYY-MM-DD)'; give the version its section and its date"
    if f"\nversion: {name}\n" not in (root / "CITATION.cff").read_text("utf-8"):
        yield f"CITATION.cff is of another version; expected 'version: {name}'"
    here = git(root, "tag", "--points-at", "HEAD", "--list", "v*").splitlines()
    if git(root, "tag", "--list", f"v{name}") and f"v{name}" not in here:
        yield f"the tag v{name} is on another commit; raise __version__ in runtime/trt_var/__init__.py"
    if others := sorted({*here} - {f"v{name}"}):
        yield f"this commit has the tag {', '.join(others)}, and is version {name}; expected v{name}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what is wrong, or how to publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--how", action="store_true", help="say how dist/ is published")
    how = parser.parse_args(arguments).how
    if found := list(problems(ROOT)):
        raise SystemExit("not ready to be released:\n" + "\n".join(f"- {problem}" for problem in found))
    name = version(ROOT)
    if how and not (ROOT / f"dist/trt_var-{name}-py3-none-any.whl").exists():
        raise SystemExit(f"dist/ does not hold trt-var {name}; run make package first")
    print(HOW.format(version=name) if how else f"trt-var {name} is ready to be released")


if __name__ == "__main__":
    main()
