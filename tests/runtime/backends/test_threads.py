"""Engines take as many threads as the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_var import Pipeline, UsageError
from trt_var.backends.threads import available, checked

MANY = 10**6


@pytest.fixture(autouse=True)
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(MANY))


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, MANY),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/box\n3:memory:/\n",
            {"cpu/box/cpu.cfs_quota_us": "400000", "cpu/box/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, MANY),
        ("0::/\n", {"cpu.max": "rubbish"}, MANY),
        ("0::/\n", {"cpu.max": "1 0"}, MANY),
        ("", {}, MANY),
    ],
)
def test_quotas(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int) -> None:
    assert available(system(tmp_path, cgroup, files)) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert available(tmp_path) == MANY


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_out_of_range(threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}; expected 1 to 1024"):
        checked(threads)
    with pytest.raises(UsageError, match="threads is"):
        Pipeline.load("digits", threads=threads)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "exact"])
def test_said_and_taken(backend: str) -> None:
    with Pipeline.load("digits", backend, threads=1) as one, Pipeline.load("digits", backend, threads=2) as two:
        assert ", 1 thread;" in one.backend
        assert ", 2 threads;" in two.backend
        assert one.engine == two.engine
        assert (one.generate(3).tokens == two.generate(3).tokens).all()
