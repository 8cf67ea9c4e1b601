"""docs/licences.md: the licences of what trt-var needs, as the packages declare them to the index.

    python release/licences.py

pip resolves what would be installed, and installs nothing. Listed is all that a run-time install brings, and of the extras
that build, train and measure what they ask for themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from readiness import ROOT

PAGE = ROOT / "docs/licences.md"
WHOLE = ("always", "cpu", "serve", "load")  # with all that their packages need
TOOLS = ("dev", "docs", "notebook", "release")  # of the project's own work: nothing of them reaches a user
ROW = re.compile(r"^\| ([\w.-]+) \| (.+) \| (.+) \|$", re.MULTILINE)


def asked(root: Path = ROOT) -> dict[str, dict[str, Requirement]]:
    """What pyproject.toml asks for: by extra, or "always", the requirements by package."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"always": project["dependencies"]} | project["optional-dependencies"]
    return {
        extra: {canonicalize_name(one.name): one for one in map(Requirement, group) if one.name != "trt-var"}
        for extra, group in groups.items()
        if extra not in TOOLS
    }


def declared(metadata: Mapping[str, Any]) -> str:
    """The licence that a package's metadata declare: an expression, else classifiers, else the first line of free text."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    classifiers = [one.rpartition(" :: ")[2] for one in metadata.get("classifier", []) if one.startswith("License :: ")]
    said = " or ".join(sorted(classifiers)) or str(metadata.get("license", "")).partition("\n")[0]
    return said.replace("|", "/") or "not declared"


def needs(metadata: Mapping[str, Any], extras: Iterable[str] = ()) -> set[str]:
    """Names of the packages that a package needs here, for itself and for some of its extras."""
    requirements = map(Requirement, metadata.get("requires_dist", []))
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    }


def resolved(requirements: Iterable[Requirement], *options: str) -> dict[str, dict[str, Any]]:
    """The metadata of what pip would install, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", *options]
        ran = subprocess.run([*command, "--report", report, *map(str, requirements)], check=False)
        if ran.returncode:
            raise SystemExit("pip could not resolve what pyproject.toml asks for")
        found = json.loads(report.read_text("utf-8"))["install"]
    return {canonicalize_name(one["metadata"]["name"]): one["metadata"] for one in found}


def rows(text: str) -> dict[str, tuple[str, str]]:
    """What the page says: licence and use, by package."""
    return {name: (licence, use) for name, licence, use in ROW.findall(text) if name != "package"}


def uses(wanted: Mapping[str, Mapping[str, Requirement]], name: str) -> str:
    """The extras that ask for a package, as the page has them."""
    return ", ".join(extra for extra, group in wanted.items() if name in group)


def page() -> str:
    """The page as it is now: its words, with a new table."""
    wanted = asked()
    whole = resolved({str(one): one for extra in WHOLE for one in wanted[extra].values()}.values())
    others = {name: one for extra, group in wanted.items() if extra not in WHOLE for name, one in group.items()}
    direct = resolved((one for name, one in others.items() if name not in whole), "--no-deps")
    lines = []
    for name, metadata in sorted({**whole, **direct}.items()):
        use = uses(wanted, name) or "of " + ", ".join(sorted(one for one in whole if name in needs(whole[one])))
        lines.append(f"| {name} | {declared(metadata)} | {use} |")
    words = PAGE.read_text("utf-8").partition("| package")[0]
    return words + "\n".join(["| package | licence | for |", "|---|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
