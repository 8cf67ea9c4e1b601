"""What is published, built and checked as its users meet it: sdist and wheel in dist/, a bill of materials in build/.

    python release/distributions.py [--python python3.10 --python python3.14]

Both are built twice, and must be the same bytes; the wheel is installed with its engines into a fresh environment of every
interpreter that is named, and draws there. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from readiness import ROOT, git, version


def run(*command: str | Path, **more: str) -> str:
    """What a command prints; it ends the program with the command's own words if it fails.

    Args:
        command: the program and its arguments.
        more: variables of its environment.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(command, env=outside | more, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{ran.stdout}{ran.stderr}".rstrip())
    return ran.stdout.strip()


def tool(name: str) -> Path:
    """A program of this environment."""
    return Path(sys.executable).with_name(name)


def build(root: Path, out: Path) -> list[Path]:
    """Build the sdist, and from it the wheel, by the tools of this environment, with the commit's time in them.

    Returns:
        wheel and sdist.
    """
    when = git(root, "log", "-1", "--format=%ct")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, root, SOURCE_DATE_EPOCH=when)
    return [*sorted(out.glob("*.whl")), *sorted(out.glob("*.tar.gz"))]


def check(root: Path, built: Sequence[Path]) -> None:
    """Check that an index takes them, that they hold the packages whole, and nothing that git does not know."""
    run(tool("twine"), "check", "--strict", *built)
    wheel, sdist = built
    run(tool("check-wheel-contents"), "--config", root / "pyproject.toml", wheel)
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if foreign := sorted(held - {"PKG-INFO"} - set(git(root, "ls-files").splitlines())):
        raise SystemExit(f"{sdist.name} holds what git does not: {', '.join(foreign)}; commit it or remove it")


def differing(first: Sequence[Path], second: Sequence[Path]) -> list[str]:
    """Names of the files whose bytes are not the same in two builds."""
    return [one.name for one, other in zip(first, second, strict=True) if one.read_bytes() != other.read_bytes()]


def draw(wheel: Path, python: str, folder: Path) -> str:
    """Install the wheel with its engines into an environment of its own, and draw the demonstration there.

    Args:
        wheel: what is installed, with all that it needs from the index.
        python: the interpreter.
        folder: where the environment and the picture are put.

    Returns:
        What the demonstration says.
    """
    run(python, "-m", "venv", "--without-pip", folder)
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", f"{wheel}[cpu]")
    expected, said = f"trt-var {version(ROOT)}", run(folder / "bin/trt-var", "--version")
    if said != expected:
        raise SystemExit(f"the installed command says {said!r}; expected {expected!r}")
    return run(folder / "bin/trt-var", "demo", "--out", folder / "demo.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, check, install, draw; then put the files into their places."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", action="append", help="interpreter to draw with, repeatable (default: this one)")
    pythons = {python: shutil.which(python) for python in parser.parse_args(arguments).python or [sys.executable]}
    if missing := [python for python, path in pythons.items() if path is None]:
        raise SystemExit(f"no interpreter {', '.join(missing)}; expected the name or path of an installed Python")
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="package-") as working:
        folder = Path(working)
        built = build(ROOT, folder / "dist")
        if names := differing(built, build(ROOT, folder / "again")):
            raise SystemExit(f"two builds differ in {', '.join(names)}; expected the same bytes")
        check(ROOT, built)
        print(f"{', '.join(path.name for path in built)}: built twice, the same bytes")
        for number, python in enumerate(str(Path(path).absolute()) for path in pythons.values() if path):
            said = draw(built[0], python, folder / str(number))
            print(f"{run(python, '--version')}: {said.rpartition('/')[2]}", flush=True)
        bill = folder / f"trt-var-{version(ROOT)}.cdx.json"
        for origin in folder.glob("0/lib/*/site-packages/*/direct_url.json"):
            origin.unlink()  # the bill would name this folder
        run(tool("cyclonedx-py"), "environment", folder / "0/bin/python", "--output-reproducible", "-o", bill)
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        (folder / "dist").rename(ROOT / "dist")
        bill.replace(ROOT / "build" / bill.name)
    print(f"dist/ and build/{bill.name} are written")


if __name__ == "__main__":
    main()
