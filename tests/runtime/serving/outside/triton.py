"""Asks a service through ``tritonclient``, in an environment of its own; imports nothing of the project.

``triton.py ADDRESS OUT.npz``, with cases as JSON on standard input. Arrays that came go to the file, all else to standard
output as JSON: what the service says of itself, and an answer or an error for each case.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

OUTPUTS = ("images", "tokens", "seed", "label")


def tensor(kind: Any, name: str, values: list[Any], datatype: str, binary: bool) -> Any:
    types = {"BYTES": np.object_, "INT64": np.int64, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}
    array = np.array(values, types[datatype])
    found = kind(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def asked(module: Any, case: dict[str, Any]) -> dict[str, Any]:
    """A case as arguments of ``infer``."""
    binary = case.get("binary", True)
    inputs = [tensor(module.InferInput, "label", case["labels"], case.get("datatype", "INT64"), binary)]
    if "seeds" in case:
        inputs.append(tensor(module.InferInput, "seed", case["seeds"], "UINT64", binary))
    given: dict[str, Any] = {"model_name": case.get("model", "digits"), "inputs": inputs, **case.get("options", {})}
    if "outputs" in case:
        wanted = case["outputs"].items()
        given["outputs"] = [module.InferRequestedOutput(name, binary_data=binary) for name, binary in wanted]
    return given


def told(result: Any, arrays: dict[str, Any], name: str) -> dict[str, Any]:
    """What an answer says, without its data; the arrays are put aside."""
    answer = dict(result.get_response())
    sizes = {one["name"]: one.get("parameters", {}).get("binary_data_size") for one in answer.pop("outputs")}
    for output in OUTPUTS:
        array = result.as_numpy(output)
        if array is not None:
            arrays[f"{name}.{output}"] = array
    return {**answer, "binary": sizes}


def refused(error: InferenceServerException) -> dict[str, Any]:
    return {"status": error.status(), "message": error.message()}


def itself(client: Any) -> dict[str, Any]:
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": [
            client.is_model_ready("digits"),
            client.is_model_ready("digits", "1"),
            client.is_model_ready("digits", "2"),
        ],
        "server": client.get_server_metadata(),
        "metadata": [client.get_model_metadata("digits"), client.get_model_metadata("digits", "1")],
    }
    try:
        client.get_model_metadata("otter")
    except InferenceServerException as error:
        found["stranger"] = refused(error)
    return found


async def at_once(address: str, cases: list[dict[str, Any]], arrays: dict[str, Any]) -> dict[str, Any]:
    async with aio.InferenceServerClient(address) as client:
        results = await asyncio.gather(*(client.infer(**asked(aio, case)) for case in cases))
    return {case["name"]: told(result, arrays, case["name"]) for case, result in zip(cases, results, strict=True)}


def main(address: str, out: str) -> None:
    cases, arrays, answers = json.load(sys.stdin), {}, {}
    with http.InferenceServerClient(address, concurrency=4) as client:
        found = itself(client)
        for case in (case for case in cases if not case.get("at_once")):
            try:
                answers[case["name"]] = told(client.infer(**asked(http, case)), arrays, case["name"])
            except InferenceServerException as error:
                answers[case["name"]] = refused(error)
        together = [case for case in cases if case.get("at_once")]
        waiting = [client.async_infer(**asked(http, case)) for case in together]
        for case, result in zip(together, waiting, strict=True):
            told(result.get_result(), arrays, "async " + case["name"])
    answers |= asyncio.run(at_once(address, together, arrays))
    np.savez(out, **arrays)
    json.dump({**found, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
