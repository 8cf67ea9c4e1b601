"""Engines that share the cores: how many ``trt-var serve`` opens."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trt_var import Pipeline
from trt_var.cli import options as arguments
from trt_var.cli.main import main
from trt_var.serving import server

THREADS = ["--threads", "2"]
ALONE = "--batch-invariant"
OPENED: dict[str, tuple[list[str], list[int]]] = {
    "by default, one a core": ([], [2, 1, 1]),
    "as many as are asked for": (["--side-by-side", "3"], [2, 1, 1, 1]),
    "one": (["--side-by-side", "1"], [2]),
    "none where images are drawn alone": ([ALONE], [2]),
    "none there, and none is asked for": ([ALONE, "--side-by-side", "1"], [2]),
}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int | None]:
    """Of the pipelines that are opened, while the command runs up to where it would serve."""
    found: list[int | None] = []
    opening = arguments.pipeline

    def opened(options: argparse.Namespace) -> Pipeline:
        pipeline = opening(options)
        found.append(pipeline.threads)
        return pipeline

    monkeypatch.setattr(arguments, "pipeline", opened)
    monkeypatch.setattr(server, "serve", lambda *given: 0)
    monkeypatch.setattr(server, "log_to_stderr", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    return found


def run(*given: str) -> int:
    return main(
        ["serve", "--engines", "digits", "--backend", "onnxruntime", "--port", "0", "--batch", "1", *THREADS, *given]
    )


@pytest.mark.parametrize("name", OPENED)
def test_engines_side_by_side(threads: list[int | None], name: str) -> None:
    given, expected = OPENED[name]
    assert run(*given) == 0
    assert threads == expected


def test_images_drawn_alone_have_all_threads(threads: list[int | None], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ALONE, "--side-by-side", "2") == 2
    assert "--side-by-side and --batch-invariant do not go together" in capsys.readouterr().err
    assert threads == [2]
