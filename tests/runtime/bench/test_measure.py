"""Measurements in processes of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from trt_var import BackendError
from trt_var.bench import measure
from trt_var.bench.measure import Setting


def test_a_failed_child_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting(str(tmp_path), "onnxruntime", 4, 1, 1)
    with pytest.raises(BackendError, match=r"^onnxruntime, N = 4, batch 1: no bundle at "):
        measure.in_process(setting)
    for error, words in ((MemoryError(), "out of memory"), (RuntimeError("two\nlines"), "two lines")):
        monkeypatch.setattr(measure, "measure", lambda setting, error=error: (_ for _ in ()).throw(error))
        assert measure.child(msgspec.json.encode(setting).decode(), measure.measure) == 1
        assert capsys.readouterr().err.splitlines()[-1] == words
