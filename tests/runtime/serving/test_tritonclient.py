"""Triton's own client, in an environment of its own: what it requires does not go with what this project does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import missing
from helpers import assert_close, assert_tokens
from trt_var import Pipeline, Sampling

PROGRAM = Path(__file__).parent / "outside" / "triton.py"
PYTHON = "TRT_VAR_TRITON_PYTHON"  # an interpreter that has tritonclient[http]
LAST = 2**64 - 1
TYPES = {"images": np.uint8, "tokens": np.uint16, "seed": np.uint64, "label": np.int64}
Ask = Callable[[list[dict[str, Any]]], tuple[dict[str, Any], dict[str, NDArray[Any]]]]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the client."""
    if PYTHON in os.environ:
        return os.environ[PYTHON]
    folder = tmp_path_factory.mktemp("triton") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    found = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    install = [found, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", "tritonclient[http]"]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
    if installed.returncode:
        missing(f"pip cannot install tritonclient[http], and {PYTHON} names no interpreter: {installed.stderr[-500:]}")
    return str(found)


@pytest.fixture
def ask(python: str, service: Any, tmp_path: Path) -> Ask:
    def run(cases: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        out = tmp_path / "out.npz"
        command = [python, "-I", str(PROGRAM), service.url.removeprefix("http://"), str(out)]
        ran = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        with np.load(out) as arrays:
            return json.loads(ran.stdout), dict(arrays)

    return run


def assert_drawn(arrays: dict[str, NDArray[Any]], name: str, digits: Pipeline, labels: list[Any], **meant: Any) -> None:
    """A case's arrays are those that the pipeline gives; tokens exactly."""
    found = {output: array for key, array in arrays.items() for case, _, output in [key.rpartition(".")] if case == name}
    assert found, f"nothing came of {name!r}"
    expected = digits.generate(labels, **{"n_draft": 4, **meant})
    meant = {"images": expected.images, "tokens": expected.tokens, "seed": expected.seeds, "label": expected.labels}
    for output, array in found.items():
        assert array.dtype == TYPES[output], (name, output, array.dtype)
        if output == "images":
            assert_close(array, meant[output], absolute=1)
        else:
            assert_tokens(array, meant[output])


def test_what_it_says_of_itself(ask: Ask) -> None:
    told, _ = ask([])
    assert (told["live"], told["ready"], told["model"]) == (True, True, [True, True, False])
    assert told["server"]["name"] == "trt-var" and "binary_tensor_data" in told["server"]["extensions"]
    assert told["metadata"][0] == told["metadata"][1]
    metadata = told["metadata"][0]
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("digits", ["1"], "trt_var")
    assert [tuple(one.values()) for one in metadata["inputs"]] == [("label", "INT64", [-1]), ("seed", "UINT64", [-1])]
    shapes = {"images": [-1, 32, 32, 3], "tokens": [-1, 130], "seed": [-1], "label": [-1]}
    assert {one["name"]: one["shape"] for one in metadata["outputs"]} == shapes
    assert {one["name"]: one["datatype"] for one in metadata["outputs"]} == {
        name: np.dtype(kind).name.upper() for name, kind in TYPES.items()
    }
    assert told["stranger"]["status"] == "404" and "'digits'" in told["stranger"]["message"]


def test_arrays_come_as_bytes_and_as_json(ask: Ask, digits: Pipeline) -> None:
    whole = {"labels": [3, 7, -1], "seeds": [7, LAST, 0]}
    json_only = dict.fromkeys(TYPES, False)
    told, arrays = ask(
        [
            {"name": "bytes", **whole},
            {"name": "json", **whole, "binary": False, "outputs": json_only},
            {"name": "json in", **whole, "binary": False},
            {"name": "json out", **whole, "outputs": json_only},
            {"name": "mixed", **whole, "outputs": {"tokens": True, "images": False, "seed": True}},
            {"name": "column", "labels": [[3], [7], [-1]], "seeds": [[7], [LAST], [0]], "options": {"model_version": "1"}},
            {"name": "int32", **whole, "datatype": "INT32"},
        ]
    )
    for name in ("bytes", "json", "json in", "json out", "mixed", "column", "int32"):
        assert_drawn(arrays, name, digits, whole["labels"], seeds=whole["seeds"])
        answer = told["answers"][name]
        assert (answer["model_name"], answer["model_version"]) == ("digits", "1") and "id" not in answer
        assert answer["parameters"] == {"n_draft": 4, "reproducible": "tokens"}
    sizes = {"images": 3 * 32 * 32 * 3, "tokens": 3 * 130 * 2, "seed": 24, "label": 24}
    assert told["answers"]["bytes"]["binary"] == sizes
    assert told["answers"]["json"]["binary"] == dict.fromkeys(TYPES)
    assert told["answers"]["mixed"]["binary"] == {"tokens": 780, "images": None, "seed": 24}
    assert {key for key in arrays if key.startswith("mixed.")} == {"mixed.tokens", "mixed.images", "mixed.seed"}


def test_names_parameters_and_random_seeds(ask: Ask, digits: Pipeline) -> None:
    cooling = [1.0, 1.0, 1.0, 0.9, 0.8, 0.7]
    several = {"n_draft": 2, "cfg": 2.5, "top_k": 30, "top_p": 0.9, "guided_scales": 4, "temperature": cooling}
    told, arrays = ask(
        [
            {"name": "names", "labels": ["seven", "3"], "datatype": "BYTES", "seeds": [1, 2]},
            {"name": "names as json", "labels": ["seven", "3"], "datatype": "BYTES", "seeds": [1, 2], "binary": False},
            {"name": "several", "labels": [5], "seeds": [3], "options": {"parameters": several, "request_id": "mine"}},
            {"name": "preset", "labels": [5], "seeds": [3], "options": {"parameters": {"preset": "code", "n_draft": 0}}},
            {"name": "fewer", "labels": [5], "seeds": [3], "options": {"parameters": {"scales": 4, "more_smooth": True}}},
            {"name": "random", "labels": [5, 5]},
        ]
    )
    assert_drawn(arrays, "names", digits, [7, 3], seeds=[1, 2])
    assert_drawn(arrays, "names as json", digits, [7, 3], seeds=[1, 2])
    sampling = Sampling(cfg=2.5, top_k=30, top_p=0.9, guided_scales=4, temperature=cooling)
    assert_drawn(arrays, "several", digits, [5], seeds=[3], n_draft=2, sampling=sampling)
    assert told["answers"]["several"]["id"] == "mine" and told["answers"]["several"]["parameters"]["n_draft"] == 2
    assert_drawn(arrays, "preset", digits, [5], seeds=[3], n_draft=0, sampling="code")
    assert_drawn(arrays, "fewer", digits, [5], seeds=[3], sampling=Sampling(scales=4, more_smooth=True))
    first, second = arrays["random.seed"].tolist()
    assert second == first + 1
    assert_drawn(arrays, "random", digits, [5, 5], seeds=[first, second])


def test_many_at_once(ask: Ask, digits: Pipeline) -> None:
    """By both of its asynchronous interfaces."""
    cases = [
        {"name": f"{label}", "at_once": True, "labels": [label] * (label % 3 + 1), "seeds": list(range(label % 3 + 1))}
        for label in range(8)
    ]
    told, arrays = ask(cases)
    assert len(told["answers"]) == 8
    for case in cases:
        for name in (case["name"], f"async {case['name']}"):
            assert_drawn(arrays, name, digits, case["labels"], seeds=case["seeds"])


def test_refusals(ask: Ask) -> None:
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("404", "'digits'", {"model": "otter"}),
        ("404", "version 2", {"options": {"model_version": "2"}}),
        ("400", "did you mean seven?", {"labels": ["sevn"], "datatype": "BYTES"}),
        ("400", "label 11 is out of range", {"labels": [11]}),
        ("400", "expected INT64 or INT32 or BYTES", {"datatype": "FP32"}),
        ("400", "expected [n], 1 to 10", {"labels": [0] * 11}),
        ("400", "expected [n], 1 to 10", {"labels": []}),
        ("400", "expected [n], 1 to 10", {"labels": [[1, 2], [3, 4]]}),
        ("400", "2 seeds for 1 labels", {"seeds": [1, 2]}),
        ("400", "'logits'", {"outputs": {"logits": True}}),
        ("400", "'n' is not known here", {"options": {"parameters": {"n": 3}}}),
        ("400", "'priority' is not known here", {"options": {"priority": 1}}),
        ("400", "n_draft is 7", {"options": {"parameters": {"n_draft": 7}}}),
        ("400", "cfg is -1", {"options": {"parameters": {"cfg": -1}}}),
        ("504", "longer timeout", {"options": {"headers": {"X-Request-Timeout": "0.001"}}}),
        ("403", "Host", {"options": {"headers": {"Host": "elsewhere.example"}}}),
    ]
    told, arrays = ask([{"name": str(i), "labels": [3], **case} for i, (_, _, case) in enumerate(cases)])
    assert not arrays
    for i, (status, text, case) in enumerate(cases):
        found = told["answers"][str(i)]
        assert found.get("status") == status and text in found["message"], (case, found)
