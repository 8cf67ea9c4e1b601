"""What is published: the distributions, their metadata, the licences of what they need, the workflows that build them.

``make package`` does the rest: it installs the wheel into an environment of its own, and draws there.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest

import trt_var

ROOT = Path(__file__).parents[1]
REQUIRED = os.environ.get("TRT_VAR_REQUIRE_SITE") == "1"  # what is missing is then a failure
for needed in ("build", "hatch_fancy_pypi_readme", "check_jsonschema", "twine", "yaml"):
    importlib.import_module(needed) if REQUIRED else pytest.importorskip(needed, reason="needs trt-var[release]")

import yaml  # noqa: E402

import distributions as building  # noqa: E402  # release/, which needs the above
import licences  # noqa: E402
import readiness  # noqa: E402
from typed import problems  # noqa: E402

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def versioned(folder: Path, changelog: str = "## 0.1.0 (2026-01-01)") -> Path:
    """What tells the version, in a repository of its own, ready to be released."""
    for name in ("runtime/trt_var/__init__.py", "CITATION.cff"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}\n", "utf-8")
    return committed(folder)


def committed(folder: Path) -> Path:
    """The folder, all of it in a repository's newest commit."""
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        readiness.git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", *command)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist of what git knows of the tree as it stands."""
    folder = tmp_path_factory.mktemp("tree")
    for name in readiness.git(ROOT, "ls-files").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    committed(folder)
    first, second = (building.build(folder, folder.parent / f"{folder.name}-{run}") for run in (1, 2))
    assert not building.differing(first, second)
    building.check(folder, first)
    readiness.git(folder, "rm", "--quiet", "--cached", "LICENSE")
    with pytest.raises(SystemExit, match="holds what git does not: LICENSE"):
        building.check(folder, first)
    wheel, sdist = first
    return wheel, sdist


@pytest.fixture(scope="module")
def metadata(built: tuple[Path, Path]) -> Message:
    with zipfile.ZipFile(built[0]) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_packages_and_the_digits(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
    packages = {"trt_var", "trt_var_export", "trt_var_calibration", "trt_var_training"}
    assert {name.partition("/")[0] for name in names if "-" not in name.partition("/")[0]} == packages
    assert {f"{package}/py.typed" for package in packages} < names
    digits = {f"trt_var/bundle/digits/{path.name}" for path in (ROOT / "runtime/trt_var/bundle/digits").iterdir()}
    assert digits < names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".so"))]
    assert built[0].stat().st_size < 6 << 20


def test_the_sdist_holds_what_the_wheel_is_built_from(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"} < names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"runtime", "export", "calibration", "training"}
    assert built[1].stat().st_size < 6 << 20


def test_an_index_shows_no_links_that_lead_nowhere(metadata: Message) -> None:
    text = str(metadata.get_payload())
    assert "# trt-var" in text and "pip install" in text
    assert not re.findall(r"\]\((?!https?:)", text)


def test_metadata(metadata: Message) -> None:
    assert metadata["Version"] == trt_var.__version__ and metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    classifiers = set(metadata.get_all("Classifier", []))
    pythons = [python for workflow in WORKFLOWS for python in re.findall(r'python: \[(".*")\]', workflow.read_text("utf-8"))]
    assert pythons == [", ".join(f'"3.{minor}"' for minor in range(10, 15))]
    assert all(f"Programming Language :: Python :: 3.{minor}" in classifiers for minor in range(10, 15))


def test_the_version_has_one_place() -> None:
    assert readiness.version(ROOT) == trt_var.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == trt_var.__version__
    assert f"## {trt_var.__version__} (" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    written = subprocess.run(
        ["git", "grep", "-lF", trt_var.__version__, "--", "*.py", "*.toml", "*.yml", "*.yaml", "*.cff", "*.sh", "Makefile"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(written.stdout.split()) - {"tests/test_release.py"} == {"runtime/trt_var/__init__.py", "CITATION.cff"}


def test_a_version_that_is_ready(tmp_path: Path) -> None:
    assert not list(readiness.problems(versioned(tmp_path)))
    readiness.git(tmp_path, "tag", "v0.1.0")
    assert not list(readiness.problems(tmp_path))


@pytest.mark.parametrize("heading", ["## 0.1.0 (unreleased)", "## 0.1.1 (2026-01-01)", "## 0.1.0", "## 0x1.0 (2026-01-01)"])
def test_a_version_without_its_section_is_refused(tmp_path: Path, heading: str) -> None:
    (problem,) = readiness.problems(versioned(tmp_path, heading))
    assert "no heading '## 0.1.0 (YYYY-MM-DD)'" in problem


def test_a_tree_that_differs_is_refused(tmp_path: Path) -> None:
    (versioned(tmp_path) / "new.txt").touch()
    (problem,) = readiness.problems(tmp_path)
    assert "differs from its commit in 1 files" in problem


def test_tags_and_citation_that_do_not_fit_are_told(tmp_path: Path) -> None:
    readiness.git(versioned(tmp_path), "tag", "v0.1.0")
    (tmp_path / "CITATION.cff").write_text("version: 0.2.0\n", "utf-8")
    readiness.git(committed(tmp_path), "tag", "v9")
    told = "\n".join(readiness.problems(tmp_path))
    assert (
        "CITATION.cff is of another version" in told and "v0.1.0 is on another commit" in told and "has the tag v9" in told
    )


def test_refusals_are_lines(tmp_path: Path) -> None:
    for script in ("readiness.py", "distributions.py"):
        (tmp_path / "release").mkdir(exist_ok=True)
        shutil.copy(ROOT / "release" / script, tmp_path / "release")
    (tmp_path / "runtime/trt_var").mkdir(parents=True)
    (tmp_path / "runtime/trt_var/__init__.py").touch()
    for command, said in (
        (["readiness.py"], "has no line __version__"),
        (["distributions.py"], "not a git repository"),
        (["distributions.py", "--python", "nowhere"], "no interpreter nowhere"),
    ):
        ran = subprocess.run(
            [sys.executable, tmp_path / "release" / command[0], *command[1:]],
            capture_output=True, text=True, check=False, env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        )  # fmt: skip
        assert ran.returncode == 1 and said in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "dist").exists() and not list((tmp_path / "build").iterdir())


def test_every_package_that_is_needed_has_its_licence() -> None:
    rows, wanted = licences.rows(licences.PAGE.read_text("utf-8")), licences.asked()
    named = {name: licences.uses(wanted, name) for group in wanted.values() for name in group}
    assert named == {name: use for name, (_, use) in rows.items() if not use.startswith("of ")}
    installed: dict[str, dict[str, Any]] = {licences.canonicalize_name(one.name): _metadata(one) for one in distributions()}
    said = {name: licences.declared(metadata) for name, metadata in installed.items() if name in rows}
    assert said == {name: licence for name, (licence, _) in rows.items() if name in said}
    assert {"numpy", "onnxruntime", "openvino", "starlette"} < said.keys()
    whole = {name for extra in licences.WHOLE for name in wanted[extra]}
    while more := set().union(*(licences.needs(installed[name]) for name in whole if name in installed)) - whole:
        whole |= more
    assert not whole - rows.keys()


def _metadata(distribution: Distribution) -> dict[str, Any]:
    return distribution.metadata.json  # type: ignore[attr-defined,no-any-return]


def test_a_package_without_a_licence_is_noticed(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace('"msgspec>=', '"left-pad", "msgspec>='), "utf-8")
    assert "left-pad" in licences.asked(tmp_path)["always"]
    assert "left-pad" not in licences.rows(licences.PAGE.read_text("utf-8"))


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT", "license": "GPL"}, "MIT"),
        ({"classifier": ["Topic :: Internet", "License :: OSI Approved :: MIT License"], "license": "x"}, "MIT License"),
        ({"license": "Apache 2.0\n\nall of its text"}, "Apache 2.0"),
        ({"license": "a|b"}, "a/b"),
        ({}, "not declared"),
    ],
)
def test_what_packages_declare(metadata: dict[str, Any], licence: str) -> None:
    assert licences.declared(metadata) == licence


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.citation-file-format", "CITATION.cff"),
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
    ],
)
def test_files_for_the_host_fit_their_schemas(schema: str, pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert files and ran.returncode == 0, ran.stdout + ran.stderr


def test_actions_are_pinned_and_commands_exist() -> None:
    for workflow in WORKFLOWS:
        text = workflow.read_text("utf-8")
        assert not [line for line in text.splitlines() if "uses:" in line and not re.search(r"@[0-9a-f]{40} # v\d", line)]
        commands = "\n".join(re.findall(r"run: ((?:trt-var|python|bash) .*)", text))
        assert commands and not list(problems(f"```sh\n{commands}\n```"))
        assert "${{ github.event" not in "".join(re.findall(r"run: .*", text))
