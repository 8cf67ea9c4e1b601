"""The commands as a user runs them: exit codes, one-line errors, outputs that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trt_var.bundle.memory import need
from trt_var.bundle.opening import Bundle
from trt_var.cli.commands import COMMANDS
from trt_var.cli.main import main
from trt_var.pictures import writing as images

NO_BUILD = """import sys; sys.modules["torch"] = sys.modules["onnx"] = None
from trt_var.cli.main import main; sys.exit(main(sys.argv[1:]))"""


def cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run in a process where torch and onnx cannot be imported."""
    command = [sys.executable, "-c", NO_BUILD, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_run_writes_what_was_asked_for(toy_bundle: Path, tmp_path: Path) -> None:
    result = cli(
        "run", "--engines", toy_bundle, "--labels", "1,2", "--num", 5, "--seed", 7, "--n-draft", 2, "--top-k", 50,
        "--temperature", "1.1,1,1,0.9", "--backend", "onnxruntime", "--batch-size", 2, "--out", "all.png",
        "--out-dir", "each", "--save-npz", "arrays.npz", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "ONNX Runtime" in result.stdout
    arrays = np.load(tmp_path / "arrays.npz")
    assert json.loads(str(arrays["record"]))["n_draft"] == 2
    assert {name: (arrays[name].shape, arrays[name].dtype.name) for name in arrays if name != "record"} == {
        "images": ((5, 8, 8, 3), "uint8"),
        "tokens": ((5, 30), "uint16"),
        "labels": ((5,), "int64"),
        "seeds": ((5,), "uint64"),
    }
    assert arrays["labels"].tolist() == [1, 2, 1, 2, 1]
    assert arrays["seeds"].tolist() == [7, 8, 9, 10, 11]
    pictures = sorted((tmp_path / "each").iterdir())
    assert [path.name for path in pictures[:2]] == ["00000-class1-seed7.png", "00001-class2-seed8.png"]
    assert (np.asarray(Image.open(pictures[3])) == arrays["images"][3]).all()
    assert Image.open(tmp_path / "all.png").size == (8 * 3 + 4, 8 * 2 + 2)


def test_steps(tmp_path: Path) -> None:
    common = ["run", "--engines", "digits", "--backend", "onnxruntime", "--labels", "3,4,5", "--seed", "6"]
    first = ["--steps", str(tmp_path / "steps.gif"), "--save-npz", str(tmp_path / "steps.npz")]
    assert main([*common, *first]) == 0
    assert main([*common, "--steps", str(tmp_path / "steps.png"), "--save-npz", str(tmp_path / "again.npz")]) == 0
    assert main([*common, "--save-npz", str(tmp_path / "plain.npz")]) == 0
    animation = Image.open(tmp_path / "steps.gif")
    assert animation.n_frames == 6
    assert animation.size == (66, 66)
    sheet = np.asarray(Image.open(tmp_path / "steps.png"))
    assert sheet.shape == (3 * 34 - 2, 6 * 34 - 2, 3)
    plain, stepped = np.load(tmp_path / "plain.npz"), np.load(tmp_path / "steps.npz")
    for name in ("images", "tokens", "labels", "seeds"):
        assert (plain[name] == stepped[name]).all()
    assert (sheet[:32, -32:] == plain["images"][0]).all()
    smooth = [*common, "--more-smooth", "--out", str(tmp_path / "smooth.png")]
    assert main(smooth) == 0
    assert main([*common, "--steps", str(tmp_path / "steps.txt")]) == 1


def test_presets_and_names(golden_bundle: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    common = ["run", "--engines", golden_bundle, "--backend", "onnxruntime", "--n-draft", 6]
    assert cli(*common, "--preset", "code", "--labels", "Golden Retriever", "--save-npz", first).returncode == 0
    temperature = "1.1," * 7 + "1,1,1"
    assert cli(*common, "--temperature", temperature, "--labels", "207", "--save-npz", second).returncode == 0
    assert (np.load(first)["tokens"] == np.load(second)["tokens"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "11"], "classes 0 to 9"),
        (["--labels", "1,,2"], "empty one, number 2"),
        (["--labels", "+-3"], "not a class"),
        (["--labels", "1" * 5000], "has 5000 characters"),
        (["--temperature", "a,b"], "'a,b'; expected a number"),
        (["--top-p", "1e-46"], "top_p is 1e-46"),
        (["--temperature", "1e-320"], "from 0.001 to 100"),
        (["--steps", "s.gif", "--batch-size", "0"], "batch_size is 0"),
        (["--more-smooth", "--num", "40", "--batch-size", "32", "--labels", "1"], "at most 16 images"),
        (["--labels", "dog"], "not a class"),
        (["--labels", ""], "0 labels"),
        (["--top-k", "97"], "takes 1 to 96"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--top-p", "-1"], "top_p is -1"),
        (["--top-p", "1.01"], "top_p is 1.01"),
        (["--n-draft", "5"], "expected 0 to 4"),
        (["--n-draft", "-1"], "expected 0 to 4"),
        (["--batch-size", "-1"], "batch_size is -1"),
        (["--batch-size", "1000000"], "batch_size is 1000000"),
        (["--num", "0"], "--num is 0"),
        (["--num", "1000000000"], "expected 1 to 4096"),
        (["--cfg", "nan"], "cfg is nan"),
        (["--cfg", "inf"], "cfg is inf"),
        (["--temperature", "1,2"], "2 values"),
        (["--seed", "-3"], "seeds must lie"),
        (["--seed", "x"], "invalid int value"),
        (["--backend", "mxnet"], "invalid choice"),
        (["--frobnicate"], "unrecognized arguments"),
    ],
)
def test_usage_errors(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    base = [
        "run",
        "--engines",
        str(toy_bundle),
        "--backend",
        "onnxruntime",
        "--top-k",
        "9",
        "--out",
        str(tmp_path / "a.png"),
    ]
    try:
        code = main([*base, *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1, error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["missing/a.png", "a.xyz", "a"])
def test_unwritable_outputs(toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    base = ["run", "--engines", str(toy_bundle), "--backend", "onnxruntime", "--top-k", "9"]
    assert main([*base, "--out", str(tmp_path / target)]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--engines", str(tmp_path / "none"), "--out", str(tmp_path / "a.png")]) == 1
    assert "no bundle at" in capsys.readouterr().err


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(images.OutputError, match="No space left"):
        images.save_npz(tmp_path / "a.npz", a=np.zeros(3))
    assert not list(tmp_path.iterdir())


def test_info_and_backends(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(toy_bundle)]) == 0
    text = capsys.readouterr().out
    for part in ("8×8", "10 classes", "1 2 3 4 (30 tokens)", "depth 2, width 128", "checksums", "batch  cache"):
        assert part in text
    found = need(Bundle.open(toy_bundle).manifest, 2, 64)
    assert f"mapped from files, once for all processes: {found.weights / 2**20:.0f}\n" in text
    assert text.splitlines()[-1].split()[-1] == f"{(found.cache + found.activations) / 2**20:.0f}"
    assert main(["backends"]) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_help_of_every_command() -> None:
    for command in ([], *([name] for name in COMMANDS)):
        result = cli(*command, "--help")
        assert result.returncode == 0
        assert "usage: trt-var" in result.stdout or "usage: -c" in result.stdout


def test_building_without_torch_names_the_extra(tmp_path: Path) -> None:
    result = cli("build", "--drafter", "random:d2", "--vae", "random:ch32", "--out", tmp_path / "x")
    assert result.returncode == 1
    assert "pip install 'trt-var[export]'" in result.stderr
    assert "Traceback" not in result.stderr


HELP = """import sys
from trt_var.cli.main import main
try: main(["--help"])
except SystemExit: pass
print(sorted({"numpy", "onnxruntime", "openvino", "PIL", "torch", "onnx", "tqdm"} & set(sys.modules)))"""


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert result.stdout.endswith("[]\n"), result.stdout


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "a\x1b\nb"), "OSError: [Errno 5] Input/output error"),
        (MemoryError(), "out of memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UnicodeDecodeError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
)
def test_last_resort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("trt_var.backends.choosing.statuses", fails)
    assert main(["backends"]) == 1
    found = capsys.readouterr().err
    assert found.startswith(f"trt-var backends: {message}")
    assert found[:-1].isprintable()


@pytest.mark.parametrize("arguments", [["info", "digits"], ["--help"], ["run", "--help"]])
def test_standard_output_that_takes_nothing(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "trt_var", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert result.returncode == 1
    assert result.stderr == "trt-var: cannot write to standard output: No space left on device\n"
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert closed.returncode == 1
    assert closed.stderr.startswith("trt-var: standard output is closed")
    reading, writing = os.pipe()
    os.close(reading)
    piped = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert (piped.returncode, piped.stderr) == (1, "")


def test_file_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xe4.png")
    command = [sys.executable, "-m", "trt_var", "demo", "--out", str(tmp_path / name)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert rb"\udcff\udce4.png: 100 digits" in result.stdout


def test_null_class_and_default_of_n(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run", "--engines", "digits", "--backend", "onnxruntime", "--labels", "10", "--out", str(tmp_path / "a.png")]
    for cfg in ("0", "4"):
        assert main([*common, "--cfg", cfg, "--save-npz", str(tmp_path / f"{cfg}.npz")]) == 0
    found = [np.load(tmp_path / f"{cfg}.npz")["tokens"] for cfg in ("0", "4")]
    assert (found[0] == found[1]).all()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "all but two" in capsys.readouterr().out


def test_interrupted_run_leaves_nothing(golden_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trt_var", "run", "--engines", str(golden_bundle), "--num", "512", "--labels", "1"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "a.png")], stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
