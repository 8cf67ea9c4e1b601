"""Values of every option of ``trt-var serve`` that cannot be meant: one line, status 2, and nothing is loaded for long."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from talking import get
from trt_var import Pipeline
from trt_var.cli import options as arguments
from trt_var.cli.main import main
from trt_var.serving import server
from trt_var.serving.batching.batcher import Batcher

KEY = "sk-0123456789abcdef"
LONG = "9" * 40
REFUSED = [
    *(["--port", value] for value in ("-1", "65536", LONG, "http", "1.5", "")),
    *(["--host", value] for value in ("", "0.0.0.0", "::", "0", "no.such.invalid", "a" * 300, "localhost.", "127.0.0.1:80")),
    *(["--host", value, "--insecure"] for value in ("no.such.invalid", "127.0.0.1:80", "http://localhost")),
    *(["--drain-delay", value] for value in ("-1", "nan", "inf", "-inf", "1e9", "x", "")),
    *(["--patience", value] for value in ("-1", "nan", "inf", "1e99", "x")),
    *(["--tls-certificate", "FILE"], ["--tls-key", "FILE"], ["--tls-certificate", "nowhere", "--tls-key", "FILE"]),
    ["--tls-certificate", "FOLDER", "--tls-key", "FOLDER"],
    *(["--log-format", value] for value in ("xml", "", "JSON")),
    *(["--api-key-file", value] for value in ("nowhere", "FOLDER", "FILE", "/dev/null")),
    *(["--key-rate", value] for value in ("1", "0", "x")),
    *(["--key-images", value] for value in ("1", "0", "1.5")),
    *(["--n-draft", value] for value in ("x", "-1", "7", "4.5", "", LONG, "AUTO", "1e0")),
    *(["--n-draft-floor", value] for value in ("1", "x")),
    *(["--n-draft-ceiling", value] for value in ("1", "x")),
    *(["--n-draft", "auto", "--n-draft-floor", value] for value in ("-1", "7", LONG, "1.5")),
    *(["--n-draft", "auto", "--n-draft-ceiling", value] for value in ("-1", "7", LONG)),
    ["--n-draft", "auto", "--n-draft-floor", "5", "--n-draft-ceiling", "2"],
    *(["--target-latency", value] for value in ("0", "-1", "nan", "inf", "1e9", "x")),
    *(["--batch", value] for value in ("0", "-1", LONG, "1.5", "x")),
    *(["--max-waiting", value] for value in ("0", "-1", LONG, "x")),
    *(["--request-timeout", value] for value in ("0", "-1", "nan", "inf", "1e9", "x")),
    *(["--max-images", value] for value in ("0", "-1", "1001", LONG, "x")),
    *(["--backend", value] for value in ("x", "", "ONNXRUNTIME")),
    *(["--frob"], ["more"], ["--port"], ["--insecure", "1"]),
]
TAKEN = {
    "--key-rate is not compared with anything": [["--key-rate", value] for value in ("0", "-1", "nan", "inf")],
    "--key-images is not compared with anything": [["--key-images", value] for value in ("0", "-5")],
    "a name that no route finds, or that cannot be encoded": [["--model-name", value] for value in ("a/b", "a\udcff", "..")],
    "cut after nine letters": [["--n-draft", "4        x"]],
    "a name with a port is none that comes": [["--allow-host", value] for value in ("example.org:80", "http://example.org")],
}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: Pipeline, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs ``trt-var serve`` up to where it would serve; its status, and what it said. Opens nothing but what is open."""

    @contextmanager
    def opened(options: Any) -> Iterator[Pipeline]:
        yield digits

    monkeypatch.setattr(arguments, "pipeline", opened)
    monkeypatch.setattr(Batcher, "start", lambda self: None)
    monkeypatch.setattr(server, "serve", lambda *given: 0)
    monkeypatch.setattr(server, "log_to_stderr", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("rubbish")
    (tmp_path / "FILE").chmod(0o600)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "keys").write_text(f"a {KEY}")
    (tmp_path / "keys").chmod(0o600)

    def call(*given: str) -> tuple[int, str]:
        try:
            status = main(["serve", "--engines", "digits", "--port", "0", "--side-by-side", "1", *given])
        except SystemExit as stop:
            status = int(str(stop.code))
        return status, capsys.readouterr().err

    return call


def named(given: list[str]) -> str:
    return " ".join(one[:20] for one in given).encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("given", REFUSED, ids=named)
def test_refused(run: Callable[..., tuple[int, str]], given: list[str]) -> None:
    status, said = run(*given)
    lines = [line for line in said.splitlines() if not line.startswith("WARNING: /dev/null may be read by others")]
    assert status == 2 and len(lines) == 1, said
    assert lines[0].startswith(("trt-var serve: ", "trt-var: ")) and len(lines[0]) < 600


@pytest.mark.parametrize(
    "given",
    [given for several in TAKEN.values() for given in several],
    ids=named,
)
def test_taken(run: Callable[..., tuple[int, str]], given: list[str]) -> None:
    keys = ["--api-key-file", "keys"] if given[0].startswith("--key") else []
    status, said = run(*keys, *given)
    assert status == 2 and len(said.splitlines()) == 1, said


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "a\udcff"], ids=named)
def test_hosts_that_are_no_names(run: Callable[..., tuple[int, str]], host: str) -> None:
    status, said = run("--host", host, "--insecure")
    assert status == 2 and said.startswith("trt-var serve: host "), said


@pytest.mark.parametrize(
    "given",
    [
        ["--host", "localhost"],
        ["--host", "127.0.0.2"],
        ["--host", "0.0.0.0", "--insecure"],
        ["--host", "0.0.0.0", "--api-key-file", "keys"],
        ["--n-draft", "auto"],
        ["--n-draft", "0"],
        ["--n-draft", "auto", "--n-draft-floor", "2", "--n-draft-ceiling", "5"],
        ["--drain-delay", "0", "--patience", "0"],
        ["--batch", "256", "--max-waiting", "100000", "--max-images", "1000"],
        ["--api-key-file", "keys", "--key-rate", "0.1", "--key-images", "1"],
        ["--model-name", "Größe 1"],
        ["--no-page", "--log-format", "text"],
    ],
    ids=named,
)
def test_what_can_be_meant(run: Callable[..., tuple[int, str]], given: list[str]) -> None:
    assert run(*given) == (0, "")


@pytest.mark.parametrize("engines", ["/nowhere", "FOLDER", ""])
def test_no_bundle(there: Callable[..., Any], tmp_path: Path, engines: str) -> None:
    found = there("--engines", str(tmp_path) if engines == "FOLDER" else engines)
    found.process.wait()
    assert found.process.returncode == 1
    [line] = found.log.read_text().splitlines()
    assert line.startswith("trt-var serve: no bundle at ")


@pytest.mark.parametrize(("option", "value"), [("--threads", "0"), ("--threads", LONG), ("--side-by-side", "0")])
def test_threads(there: Callable[..., Any], option: str, value: str) -> None:
    found = there(option, value)
    found.process.wait()
    assert found.process.returncode == 2
    assert len(found.log.read_text().splitlines()) == 1


def pair(folder: Path, *more: str) -> tuple[str, str]:
    """A certificate and its key."""
    found = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "1", "-subj", "/CN=localhost", *more]
    try:
        subprocess.run([*command, "-out", found[0], "-keyout", found[1]], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    return found


@pytest.mark.parametrize("kind", ["rubbish", "of another", "encrypted"])
def test_certificates_that_are_none(there: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    certificate, key = pair(tmp_path, *(["-passout", "pass:secret"] if kind == "encrypted" else ["-nodes"]))
    if kind == "rubbish":
        Path(key).write_text("rubbish")
    elif kind == "of another":
        (tmp_path / "other").mkdir()
        key = pair(tmp_path / "other", "-nodes")[1]
    found = there("--tls-certificate", certificate, "--tls-key", key)
    found.process.wait()
    [line] = found.log.read_text().splitlines()
    assert found.process.returncode == 2 and line.startswith("trt-var serve: ") and key in line


def test_a_name_of_all_letters(there: Callable[..., Any]) -> None:
    served = there("--model-name", "Größe 1: \N{SNOWMAN}").ready()
    assert get(served.url, "/v1/models").json["data"][0]["id"] == "Größe 1: \N{SNOWMAN}"
    assert get(served.url, "/v1/models/Gr%C3%B6%C3%9Fe%201:%20%E2%98%83").status == 200
    assert "Größe 1: \N{SNOWMAN}" in get(served.url, "/metrics").body.decode()
    assert served.stop() == 0
