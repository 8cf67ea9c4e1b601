"""Every call to TensorRT, PyCUDA and cuda-core exists there, with that many arguments: none of them runs without a GPU."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_var.backends.tensorrt import bindings as cuda_bindings
from trt_var.backends.tensorrt import graph as engine
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt import runtime as tensorrt
from trt_var_export import engines as builder

API = Path(__file__).parents[3] / "api"
Listing = dict[str, dict[str, str | None]]
RTX_ALONE = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}

# what an expression is, by file
TENSORRT: dict[Any, dict[str, str]] = {
    tensorrt: {"trt": "", "self._runtime": "Runtime"},
    engine: {
        "trt": "",
        "backend.trt": "",
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "self._context": "IExecutionContext",
    },
    builder: {
        "trt": "",
        "self._trt": "",
        "self._builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
    },
    engines: {"trt": ""},
}


def listing(name: str) -> Listing:
    """Classes → members → parameters, or None for what is not called."""
    found: Listing = {"": {}}
    for line in (API / name).read_text().splitlines():
        if match := re.fullmatch(r"- (\w+):.*", line):
            members = found.setdefault(match[1], {})
            found[""][match[1]] = "*args" if line.endswith(": function") else None
        elif match := re.fullmatch(r"    (\w+)(?:\((.*?)\)(?: ->.*)?)?", line):
            members[match[1]] = match[2] if "(" in line else None
    return found


def uses(module: Any, names: dict[str, str], within: str | None = None) -> Iterator[tuple[str, str, int | None, str]]:
    """(class, attribute, positional and keyword arguments or None, where) of every attribute of a known expression."""
    tree: ast.AST = ast.parse(inspect.getsource(module))
    if within:
        tree = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == within)
    calls = {id(node.func): len(node.args) + len(node.keywords) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner, where = ast.unparse(node.value), f"{module.__name__}:{node.lineno} {ast.unparse(node)}"
        if owner in names:
            yield names[owner], node.attr, calls.get(id(node)), where
        elif owner.rpartition(".")[0] in names and names[owner.rpartition(".")[0]] == "":
            yield owner.rpartition(".")[2], node.attr, calls.get(id(node)), where  # trt.Enum.MEMBER


def arity(parameters: str) -> tuple[int, int]:
    """The fewest and the most arguments of a listed signature."""
    depth, parts = 0, [""]
    for character in parameters:
        depth += {"[": 1, "(": 1, "<": 1, "]": -1, ")": -1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part for part in parts if part.strip() and not part.strip().startswith("self")]
    return sum("=" not in part for part in parts), len(parts)


def problems(api: Listing, found: list[tuple[str, str, int | None, str]]) -> list[str]:
    wrong = []
    for owner, name, arguments, where in found:
        members = api.get(owner)
        if members is None or (name not in members and name != "__version__"):
            wrong.append(f"{where}: no {owner}.{name}")
        elif arguments is not None and (parameters := members.get(name)) is not None and "*args" not in parameters:
            fewest, most = arity(parameters)
            if not fewest <= arguments <= most:
                wrong.append(f"{where}: {arguments} arguments, expected {fewest} to {most}")
    return wrong


@pytest.mark.parametrize("name", ["tensorrt-11.4-api.txt", "tensorrt-rtx-1.7-api.txt"])
def test_tensorrt(name: str) -> None:
    api = listing(name)
    api |= {"ComputeCapability": {"__members__": None}} if "rtx" not in name else {}
    api["ComputeCapability"]["__members__"] = None
    found = [use for module, names in TENSORRT.items() for use in uses(module, names)]
    if "rtx" not in name:
        found = [use for use in found if not RTX_ALONE & {use[0], use[1]}]
    assert not problems(api, found)
    for names in TENSORRT.values():
        assert set(names.values()) <= {owner for owner, *_ in found}, "an expression is named here that the code lost"
    assert len(found) > 40


def test_the_check_can_fail() -> None:
    api = listing("tensorrt-11.4-api.txt")
    assert problems(api, [("ICudaEngine", "get_binding_shape", 1, "here")]) == ["here: no ICudaEngine.get_binding_shape"]
    wrong = problems(api, [("IExecutionContext", "set_device_memory", 1, "here")])
    assert wrong == ["here: 1 arguments, expected 2 to 2"]


def test_pycuda() -> None:
    api = listing("pycuda-2026.1.txt")
    names = {
        "self._cuda": "driver",
        "cuda": "driver",
        "self._device": "Device",
        "self._context": "Context",
        "self._stream": "Stream",
        "then": "Stream",
        "event": "Event",
        "allocation": "DeviceAllocation",
    }
    found = list(uses(cuda_bindings, names, "PyCuda"))
    classes = {name for name in api if name not in ("", "driver")}
    found = [("driver", name, None, where) if name in classes else use for use in found for _, name, _, where in [use]]
    api["driver"] |= dict.fromkeys(classes)
    api |= {"Context": api["Context"]}
    assert not problems(api, [use for use in found if use[1] != "Context"])
    assert set(names.values()) <= {owner for owner, *_ in found}


def test_cuda_core() -> None:
    core = pytest.importorskip("cuda.core")
    driver = pytest.importorskip("cuda.bindings.driver")
    graph = pytest.importorskip("cuda.core.graph")
    known = {"self._core": core, "core": core, "self._device": core.Device, "self._stream": core.Stream}
    known |= {
        "self._driver": driver,
        "stream": core.Stream,
        "then": core.Stream,
        "builder": graph.GraphBuilder,
        "graph": graph.Graph,
    }
    found = list(uses(cuda_bindings, {name: name for name in known}, "CudaCore"))
    functions = {name: name for name in ("stream", "builder", "graph")}
    found += [use for use in uses(cuda_bindings, functions) if "self" not in use[3]]
    assert {owner for owner, *_ in found} >= known.keys()
    for owner, name, arguments, where in found:
        assert hasattr(known[owner], name), f"{where}: not there"
        member = getattr(known[owner], name)
        if arguments is not None and callable(member) and owner in ("self._stream", "stream", "then", "builder", "graph"):
            inspect.signature(member).bind(*[None] * (arguments + 1))
