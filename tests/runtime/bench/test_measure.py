"""Measurements in processes of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rows import row
from trt_var import BackendError, Pipeline
from trt_var.bench import measure
from trt_var.bench.measure import Row, Setting
from trt_var.bundle.opening import Bundle
from trt_var.decoding.deferred import Deferred


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


def test_threads_and_both_kinds_of_memory() -> None:
    settings = [Setting("digits", "onnxruntime", 4, batch, 1, threads=1) for batch in (1, 32)]
    one, many = [measure.in_process(setting) for setting in settings]
    assert (one.setting, many.setting) == tuple(settings)
    assert ", 1 thread;" in one.description
    assert one.anonymous and one.files and one.added and many.added, "this is Linux"
    assert max(one.anonymous, one.files) < one.peak <= 1.02 * (one.anonymous + one.files)
    assert many.added > 1.5 * one.added, "the cache of 32 digits alone is 4 MB"


def test_the_peak_is_not_the_parents() -> None:
    """What a parent held when it began a process is no memory of that process."""
    held = np.ones(2**26)
    found = measure.in_process(Setting("digits", "onnxruntime", 0, 1, 1))
    assert found.peak < held.nbytes / 2


def test_rows_are_measured_as_asked_for() -> None:
    settings = [Setting("digits", "onnxruntime", 4, 1, 1, cfg=cfg, scales=scales) for cfg, scales in ((1.5, None), (0, 5))]
    manifest = Bundle.open("digits").manifest
    guided, free = (setting.need(manifest, True) for setting in settings)
    assert free.cache < guided.cache
    assert len(measure.in_process(settings[1]).scales) == 5


def test_waiting_for_graphs() -> None:
    with Pipeline.load("digits", "openvino") as pipeline:
        chain = pipeline.chain(4)
        measure._wait_for_graphs()
        graphs = [chain.decoder, *chain.quantiser]
        assert all(isinstance(graph, Deferred) and graph._loading.done() for graph in graphs)


def test_rows_of_older_reports() -> None:
    old = msgspec.to_builtins(row(8, 1.0))
    for name in ("anonymous", "files", "added"):
        del old[name]
    del old["setting"]["threads"]
    assert msgspec.convert(old, Row) == row(8, 1.0)
