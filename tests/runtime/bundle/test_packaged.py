"""Kind: what is installed. The package imported from a zip archive."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trt_var.bundle.opening import PACKAGED
from trt_var.bundle.packaged import is_packaged, packaged

SCRIPT = """
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
import trt_var
from trt_var import BundleError, Pipeline
assert trt_var.__file__.startswith(sys.argv[1])
try:
    pipeline = Pipeline.load("digits", "onnxruntime")
except BundleError as error:
    sys.exit(str(error))
print(pipeline._models.open().path.parent)
assert pipeline.generate(3).images.any()
assert pickle.loads(pickle.dumps(pipeline)).generate(3).images.any()
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
assert pipeline._models.open().path.is_dir()
"""


def imported(archive: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(archive)]
    environment = {**os.environ, "TMPDIR": str(archive.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.fixture
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The package without what the test's parameter names."""
    root = PACKAGED.parents[1]
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as written:
        for path in (PACKAGED.parent).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and getattr(request, "param", "\0") not in path.parts:
                written.write(path, path.relative_to(root))
    return tmp_path / "app.zip"


def test_digits_from_an_archive(archive: Path) -> None:
    result = imported(archive)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder.parent == archive.parent
    assert not folder.exists()  # gone with the process, not with its child


@pytest.mark.parametrize("archive", ["digits"], indirect=True)
def test_an_archive_without_the_digits(archive: Path) -> None:
    result = imported(archive)
    assert result.returncode == 1
    assert f"no bundle at {archive}" in result.stderr
    assert "Traceback" not in result.stderr


def test_installed_as_files_nothing_is_copied() -> None:
    assert packaged("digits") == PACKAGED / "digits"
    assert is_packaged(PACKAGED / "digits", "digits")
    assert not is_packaged(PACKAGED, "digits")
