"""Kind: what is installed. A package that is empty, broken or gone takes its own backend away and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from trt_var import BackendError, Pipeline
from trt_var.backends import choosing, installed
from trt_var.backends.failures import failure
from trt_var.backends.tensorrt import devices, runtime
from trt_var.cli.main import main
from trt_var.errors import TrtVarError
from trt_var_export import build as building
from trt_var_export.engines import Builder
from trt_var_export.recipe import Recipe

BROKEN = {
    "": "has no",
    "raise OSError('libengine.so: cannot open shared object file')": "OSError: libengine.so",
    "raise RuntimeError('no plugin\\nand more')": "RuntimeError: no plugin)",
    "raise SystemError('bad magic')": "SystemError: bad magic",
    "raise ImportError()": "ImportError: ImportError",
    "raise MemoryError": "for want of memory",
    "import flatbuffers_that_is_gone": "No module named 'flatbuffers_that_is_gone'",
    "import sys; sys.exit('needs AVX2')": "SystemExit: needs AVX2",
    "def :": "SyntaxError",
}


Put = Callable[[str, str], Path]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Put]:
    """Puts a package of a name first; what was imported of the real one comes back when the test ends."""
    before = dict(sys.modules)
    touched = []

    def concerned() -> list[str]:
        return [name for name in {**sys.modules, **before} if name.startswith(tuple(touched))]

    def place(package: str, text: str) -> Path:
        folder = tmp_path / "first" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(folder.parent)
        touched.extend([package, f"trt_var.backends.{package}"])
        for name in concerned():
            sys.modules.pop(name, None)
        return folder

    yield place
    for name in concerned():
        sys.modules.pop(name, None)
    sys.modules.update({name: before[name] for name in concerned()})


@pytest.mark.parametrize(("text", "reason"), BROKEN.items(), ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_broken_engine(
    put: Put,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str,
    reason: str,
) -> None:
    other = "openvino" if name == "onnxruntime" else "onnxruntime"
    put(name, text)
    found = {status.name: status for status in choosing.statuses()}
    assert found[other].usable
    assert not found[name].usable
    assert reason.replace("has no", "has no" if name == "onnxruntime" else "opset13") in found[name].detail
    assert ("--force-reinstall" in found[name].detail) == ("MemoryError" not in text)
    assert main(["backends"]) == 0
    assert f"{name:12} no" in capsys.readouterr().out
    assert choosing.create("auto").name == other
    assert f"backend {name} not considered" in caplog.text
    assert main(["run", "--engines", "digits", "--labels", "3", "--backend", name, "--out", str(tmp_path / "a.png")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"trt-var run: backend {name} ")
    assert said.count("\n") == 1


def test_absent_engine_is_no_warning(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    put("openvino", "raise ModuleNotFoundError('No module named openvino', name='openvino')")
    with pytest.raises(BackendError, match=r"backend openvino is not installed .*: pip install 'trt-var\[cpu\]'"):
        choosing.create("openvino")
    assert choosing.create("auto").name == "onnxruntime"
    assert not caplog.text


def test_commands_go_on_with_the_other_engine(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "trt_var", "run", "--engines", "digits", "--labels", "3"]
    command += ["--out", str(tmp_path / "a.png")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    assert "on OpenVINO" in result.stdout
    assert "backend onnxruntime is not usable, what is installed is broken" in result.stderr
    assert "Traceback" not in result.stderr


class FakeDevice:
    """A GPU for engines of TensorRT."""

    kinds: ClassVar = ("tensorrt",)
    description = "a GPU"
    target = "sm90"


@pytest.mark.parametrize("text", ["", "raise RuntimeError('driver too old')", "__version__ = '11'"])
def test_broken_tensorrt(monkeypatch: pytest.MonkeyPatch, put: Put, text: str) -> None:
    put("tensorrt", text)
    monkeypatch.setattr(devices, "create", FakeDevice)
    with pytest.raises(BackendError, match=r"tensorrt is not usable, what is installed is broken .*--force-reinstall"):
        runtime.create()
    assert choosing.create("auto").name in ("openvino", "onnxruntime")
    with pytest.raises(BackendError, match=r"tensorrt is not usable, what is installed is broken .*--force-reinstall"):
        Builder("tensorrt")


@pytest.mark.parametrize("text", ["", "raise OSError('libcuda.so.1')", "from . import driver"])
@pytest.mark.parametrize("package", ["pycuda", "cuda"])
def test_broken_seam_to_the_driver(monkeypatch: pytest.MonkeyPatch, put: Put, package: str, text: str) -> None:
    folder = put(package, text)
    if "driver" in text:
        (folder / "driver.py").touch()
    seam = "pycuda" if package == "pycuda" else "cuda-core"
    monkeypatch.setenv(devices.VARIABLE, seam)
    with pytest.raises(BackendError, match=f"no access to a GPU: {seam} is not (usable|installed)"):
        devices.create()
    assert choosing.create("auto").name in ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    "error", [OSError("libtorch_cpu.so: cannot open"), AttributeError("no Tensor"), RuntimeError("nms")]
)
def test_broken_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "trt_var_export.workshop":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "trt_var_export.workshop", raising=False)
    with pytest.raises(BackendError, match=r"building needs PyTorch .* broken .*force-reinstall 'trt-var\[export\]'"):
        building.build(Recipe("random:d2", None, "random:ch32", tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_own_errors_pass_through() -> None:
    with pytest.raises(TrtVarError, match="^mine$"), installed.needed("a", ("b",), "pip install c"):
        raise TrtVarError("mine")
    with pytest.raises(KeyboardInterrupt), installed.needed("a", ("b",), "pip install c"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), r"out of memory \(MemoryError\); ask for a smaller batch_size"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("FullyConnected node with name 'node_linear_3' can't alloc"), "out of memory"),
        (RuntimeError("Resource temporarily unavailable"), "out of memory"),
        (
            RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 9"),
            "out of mem",
        ),
        (RuntimeError(""), "X failed: RuntimeError$"),
        (RuntimeError("one\ntwo"), "X failed: one$"),
    ],
)
def test_engine_failures_are_one_line(error: Exception, said: str) -> None:
    found = failure("X failed", error)
    assert isinstance(found, BackendError)
    with pytest.raises(BackendError, match=said):
        raise found


STARVED = """
import resource, sys
from trt_var import BackendError, Pipeline
pipeline = Pipeline.load("digits", sys.argv[1])
pipeline.generate([1] * 256, batch_size=256, n_draft=6)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20),) * 2)
try:
    pipeline.generate([1] * 256, batch_size=256, n_draft=6)
except BackendError as error:
    sys.exit(0 if "out of memory" in str(error) and "smaller batch_size" in str(error) else str(error))
"""


def test_arrays_that_find_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy may be the one that asks for too much, before the engine or after it."""

    def starve(*_: object) -> None:
        raise MemoryError("Unable to allocate 8.25 MiB")

    with Pipeline.load("digits", "onnxruntime") as pipeline:
        for place in ("loop", "feeds"):
            monkeypatch.setattr(f"trt_var.decoding.{place}.arrays", starve)
        with pytest.raises(BackendError, match="drawing failed: out of memory .*smaller batch_size"):
            pipeline.generate(1)
        with pytest.raises(BackendError, match="drawing failed: out of memory .*smaller batch_size"):
            list(pipeline.stream(1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_little_memory(name: str) -> None:
    result = subprocess.run([sys.executable, "-c", STARVED, name], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_broken_package_that_everything_needs(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "trt_var", "info", "digits"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "a package that this needs is not usable, what is installed is broken" in result.stderr


def test_openvino_reports_nothing(tmp_path: Path) -> None:
    """Its package sends an event when it is imported, from a process forked for that."""
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry/__init__.py").write_text("raise SystemExit('asked to report')")
    code = """
import os
os.fork = lambda: exit("forked")
import trt_var.backends.openvino.runtime
from trt_var import Pipeline
with Pipeline.load("digits", "openvino") as pipeline:
    pipeline.generate(1)
import sys
assert "openvino_telemetry" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
