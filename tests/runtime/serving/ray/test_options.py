"""What an application on Ray Serve may be told, by config files and by the command. Kind: no cluster."""

from __future__ import annotations

import asyncio
import os
import pickle
import pkgutil
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs trt-var[ray]")
import yaml
from ray.dashboard.modules.job.common import JobSubmitRequest, validate_request_type
from ray.serve.schema import ServeDeploySchema

from trt_var import BackendError, Preview, UsageError
from trt_var.cli.main import main, parser
from trt_var.cli.serving.clustered import share
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.tickets import Served
from trt_var.serving.engine import Ask
from trt_var.serving.ray import app, deployments
from trt_var.serving.ray.deployments import EngineReplica
from trt_var.serving.ray.settings import CALLBACK, VARIABLE, Args

FOLDER = Path(__file__).parents[4] / "examples" / "serving" / "ray"
CPU, GPU = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}


def configs() -> dict[str, Any]:
    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text("utf-8"))
    nested = yaml.safe_load(service["spec"]["serveConfigV2"])
    return {"serve.yaml": yaml.safe_load((FOLDER / "serve.yaml").read_text("utf-8")), "rayservice.yaml": nested}


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_examples_are_what_ray_and_the_application_take(name: str) -> None:
    (found,) = ServeDeploySchema.model_validate(configs()[name]).applications
    assert pkgutil.resolve_name(found.import_path) is app
    made = app(dict(found.args))
    names = {deployments.INGRESS, deployments.ENGINE}
    assert made._bound_deployment.name in names and {one.name for one in found.deployments} <= names
    told = (FOLDER / name).read_text("utf-8")
    assert VARIABLE in told and CALLBACK in told


def test_the_example_of_a_job_is_what_ray_and_the_command_take() -> None:
    files = (FOLDER / "rayjob.yaml", FOLDER / "rayservice.yaml")
    job, service = (yaml.safe_load(file.read_text("utf-8"))["spec"] for file in files)
    validate_request_type({"entrypoint": job["entrypoint"]}, JobSubmitRequest)
    program, *given = shlex.split(job["entrypoint"])
    options = parser().parse_args(given)
    assert (program, options.ray) == ("trt-var", "auto")
    clusters = [job["rayClusterSpec"], service["rayClusterConfig"]]
    assert len({str([one[name] for name in ("rayVersion", "authOptions")]) for one in clusters}) == 1
    for group in (clusters[0]["headGroupSpec"], *clusters[0]["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert mounted.keys() == {one["name"] for one in pod["volumes"]}
        assert Path(mounted["bundle"]) == options.engines
    assert options.out.is_relative_to("/samples"), "the head's volume"


def test_args_become_settings(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice sk-0123456789abcdef\n")
    found = Args.of({"engines": "/a/b", "floor": 2, "waiting": 9, "timeout": 5, "key_file": str(keys), "hosts": ["A.b"]})
    assert found.batching() == Batching(waiting=9, timeout=5.0, floor=2)
    settings = found.settings()
    assert (settings.model, settings.hosts) == ("b", {"a.b"}) and settings.keys and settings.keys.limit("alice")
    assert Args.of({}).settings().model == "digits"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"replica": 2}, "unknown field `replica`"),
        ({"replicas": 0}, ">= 1"),
        ({"replicas": "2"}, "`int`"),
        ({"ingresses": 1001}, "<= 1000"),
        ({"timeout": 0}, "> 0"),
        ({"model": "a/b"}, "regex"),
        ({"cpus": 0}, "needs cpus or gpus"),
        ({"key_rate": 2.0}, "give key_file"),
        (["digits"], "array"),
    ],
)
def test_args_that_cannot_be_meant(given: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        app(given)


def test_a_replica_takes_what_leaves_room_for_all() -> None:
    args = {"replicas": 2, "threads": None, "backend": "auto"}
    assert share([CPU], args) == {"cpus": 4} and share([CPU, {"CPU": 4.0}], args) == {"cpus": 4}
    assert share([CPU, CPU], args) == {"cpus": 8} and share([CPU], {**args, "threads": 3}) == {"cpus": 3}
    assert share([GPU], args) == {"gpus": 1, "cpus": 0} and share([GPU], {**args, "backend": "openvino"}) == {"cpus": 4}
    for nodes, more in (([GPU], {"replicas": 3}), ([CPU], {"replicas": 9}), ([CPU], {"threads": 5}), ([], {})):
        with pytest.raises(BackendError):
            share(nodes, {**args, **more})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replicas", "2"], "--replicas belongs to --ray"),
        (["--ray", "local", "--replicas", "0"], "--replicas is 0"),
        (["--ingresses", "2"], "--ingresses belongs to --ray"),
        (["--ray", "local", "--ingresses", "-1"], "--ingresses is -1"),
        (["--ray", "local", "--patience", "3"], "--patience does not go with --ray"),
        (["--ray", "local", "--n-draft", "9"], "n_draft is 9"),
        (["--ray", "local", "--host", "0.0.0.0"], "--api-key-file"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_commands_that_cannot_be_meant(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    assert main(["serve", "--engines", "digits", *options]) != 0
    assert told in capsys.readouterr().err and dict(os.environ) == before


def test_a_replica_answers_with_errors_and_is_well_until_its_engine_fails() -> None:
    ask = Ask((3,), (7,), n_draft=4)

    async def main() -> None:
        replica = EngineReplica.__new__(EngineReplica)
        await EngineReplica.__init__(replica, Args(backend="onnxruntime", batch=1, waiting=200))  # type: ignore[misc]
        assert (await replica.describe()).batch == 1
        served = await replica.generate(ask)
        assert isinstance(served, Served) and pickle.loads(pickle.dumps(served)) == served
        events = [event async for event in replica.stream(replace(ask, previews=frozenset({1})))]
        assert events[0] is None and isinstance(events[1], Preview) and events[1].scale == 1 and events[-1] == served
        wrong = replace(ask, n_draft=9)
        for error in (await replica.generate(wrong), *[event async for event in replica.stream(wrong)]):
            assert isinstance(error, UsageError) and str(pickle.loads(pickle.dumps(error))) == str(error)

        batcher = replica._engine.batcher
        many = asyncio.ensure_future(replica.generate(Ask((3,) * 100, tuple(range(100)), n_draft=0)))
        while not batcher.planner.waiting:
            await asyncio.sleep(0)
        many.cancel()  # as Serve does for a caller that goes
        await asyncio.wait({many})
        assert many.cancelled() and not batcher.planner.waiting

        batcher._started().drain()
        await replica.check_health()
        batcher._started().break_down("odd", None)
        with pytest.raises(BackendError, match="odd"):
            await replica.check_health()
        replica.__del__()

    asyncio.run(main())
