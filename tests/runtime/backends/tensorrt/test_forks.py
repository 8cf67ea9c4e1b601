"""Kind: processes. A device belongs to the process that opened it; a forked child is told so, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, os, signal, sys
from trt_var import BackendError, Pipeline

pipeline = Pipeline.load(sys.argv[1], "tensorrt")
expected = pipeline.generate(3, seeds=5).tokens.tolist()
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        pipeline.generate(3)
    except BackendError as error:
        assert "before the process was forked" in str(error)
    else:
        sys.exit("no error")
    pipeline.close()
    del pipeline
    gc.collect()
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert pipeline.generate(3, seeds=5).tokens.tolist() == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_leaves_the_device_alone(digits: Path) -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(digits)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
