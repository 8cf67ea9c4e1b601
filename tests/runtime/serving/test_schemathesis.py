"""The service keeps what its own OpenAPI document says, whatever Schemathesis makes of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients import KEY, module

module("schemathesis")

OUTSIDE = Path(__file__).parent / "outside"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
STRICT = "negative_data_rejection,unsupported_method,allow_header_conformance,missing_required_header,ignored_auth"
# most of what is invented for these would be no model, no class, no format; the rest stays as it was invented
LIKELY: dict[str, list[Any]] = {
    "path.id": ["digits"],
    "path.version": ["1"],
    "query.q": ["t", "9", ""],
    "query.limit": [1, 20],
    "body.prompt": ["3", "seven", "-1", 0, 9],
    "body.model": ["digits"],
    "body.n": [1, 2],
    "body.n_draft": [0, 3, 6],
    "body.output_format": ["png", "jpeg", "webp"],
    "body.size": ["auto", "32x32"],
    "body.quality": ["auto", "standard"],
    "body.background": ["auto", "opaque"],
    "body.response_format": ["b64_json"],
    "body.preset": ["default", "code", "var"],
    "body.top_k": [1, 100],
    "body.seed": [0, 7],
}


def asked(served: Any, folder: Path, *options: str, shaped: bool) -> subprocess.CompletedProcess[str]:
    """Schemathesis on a service: bounded, and the same every time; ``shaped``, much of what it invents is made likely."""
    lines, found = [], dict(os.environ)
    if shaped:
        for name, values in LIKELY.items():
            quoted = ", ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)
            short = name.replace(".", "-")
            lines.append(f"[dictionaries.{short}]\nvalues = [{quoted}]")
            lines.append(f'[parameters."{name}"]\ndictionary = "{short}"\nprobability = 0.8')
        path = os.pathsep.join(filter(None, (str(OUTSIDE), os.environ.get("PYTHONPATH"))))
        found |= {"SCHEMATHESIS_HOOKS": "shaping", "PYTHONPATH": path}
    config = folder / "schemathesis.toml"
    config.write_text("\n".join(lines))
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(config), "run", f"{served.url}/openapi.json", "--no-color"]
    command += ["--generation-deterministic", "--request-timeout", "30", *options]
    return subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, timeout=300, check=False)


def answers(served: Any, route: str, status: int) -> int:
    return int(served.metric(f'trt_var_requests_total{{route="{route}",status="{status}"}}'))


def test_every_operation(start: Callable[..., Any], tmp_path: Path) -> None:
    served = start()
    ran = asked(served, tmp_path, "--checks", CHECKS, "--max-examples", "25", shaped=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "18 selected / 18 total" in ran.stdout, ran.stdout
    for route in ("/v1/images/generations", "/v1/images/edits", "/v2/models/{id}/infer"):
        drawn, refused = answers(served, route, 200), answers(served, route, 400)
        assert drawn >= 5 and refused >= 10, f"{route}: {drawn} drawn, {refused} refused"
    assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()


@pytest.mark.one_process("the log is Ray's")
def test_what_is_wrong_is_refused_and_so_is_who_has_no_key(start: Callable[..., Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"someone {KEY}\n")
    keys.chmod(0o600)
    served = start("--api-key-file", str(keys))
    options = ["--checks", f"{CHECKS},{STRICT}", "--max-examples", "10", "--phases", "coverage,fuzzing"]
    ran = asked(served, tmp_path, *options, "--header", f"Authorization: Bearer {KEY}", shaped=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert {("someone", 200), (None, 401)} <= {(line.get("key"), line.get("status")) for line in lines}
