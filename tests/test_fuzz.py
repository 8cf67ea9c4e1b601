"""A short run of the fuzzer: every kind of file, damaged a few times. docs/reliability.md has the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


def test_damaged_files(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZER), "--cases", "120", "--out", str(tmp_path / "fuzz.json")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "fuzz.json").read_text(encoding="utf-8"))
    assert found["failures"] == []
    assert sum(sum(outcomes.values()) for outcomes in found["counts"].values()) == 120
    assert any("error" in outcomes for outcomes in found["counts"].values()), "nothing was damaged"
