"""The examples of serving: files that parse, metrics that there are, options that there are, apps that answer."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from PIL import Image

from trt_var import DeadlineError, OverloadedError, Pipeline
from trt_var.cli import main as cli

for needed in ("prometheus_client", "starlette", "uvicorn"):
    pytest.importorskip(needed)
yaml = pytest.importorskip("yaml")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from trt_var.serving.app.guarding.metrics import Metrics  # noqa: E402

FOLDER = Path(__file__).parents[3] / "examples" / "serving"
DOCUMENTS = ("compose.yaml", "compose.cuda.yaml", "prometheus.yml", "alerts.yml", "alerts.test.yml", "kubernetes.yaml")
METRIC = re.compile(r"\b(?:trt_var|process)_\w+|\bup\b")


def parsed(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


def known_metrics() -> set[str]:
    """Names of all series that a service has once it has done everything once."""
    metrics = Metrics()
    metrics.watch(lambda: 0, lambda: 0, lambda: 4)
    metrics.built("0", "digits", "none")
    metrics.requests.labels("/", "200").inc()
    metrics.durations.labels("/", "true").observe(1)
    metrics.first.observe(1)
    metrics.began(1, [1.0])
    metrics.scale(0, 1.0)
    metrics.batch(4, 1, 1.0)
    metrics.rejected("full", 1)
    metrics.cancelled("queued", 1)
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name for family in families for sample in family.samples}


def expressions() -> dict[str, list[str]]:
    """Every query of the alerts and the dashboard."""
    rules = [rule["expr"] for group in parsed("alerts.yml")[0]["groups"] for rule in group["rules"]]
    board = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return {"alerts.yml": rules, "grafana.json": panels + variables}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_parse(name: str) -> None:
    assert all(isinstance(document, dict) and document for document in parsed(name))


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_metrics_that_are_asked_for_exist(name: str) -> None:
    named = {found for expression in expressions()[name] for found in METRIC.findall(re.sub(r'"[^"]*"', "", expression))}
    assert len(named) > 5 and not named - known_metrics() - {"up"}


def test_every_route_of_a_query_is_one_that_draws() -> None:
    routes = ("/v1/images/generations", "/v1/images/edits", "/v2/models/{id}/infer")
    patterns = {one for all_ in expressions().values() for text in all_ for one in re.findall(r'route=~"([^"]*)"', text)}
    assert patterns and all(re.fullmatch(pattern, route) for pattern in patterns for route in routes)
    assert not any(re.fullmatch(pattern, "/metrics") for pattern in patterns)


def options_of_serve(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["serve", "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def commands() -> dict[str, list[str]]:
    """What each file starts the service with, after ``trt-var serve``."""
    unit = (FOLDER / "trt-var.service").read_text("utf-8").replace("\\\n", " ")
    started = re.findall(r"^ExecStart=\S*/trt-var serve (.*)$", unit, re.MULTILINE)
    images = re.findall(r"^CMD (\[.*\])$", (FOLDER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    pod = parsed("kubernetes.yaml")[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    composed = parsed("compose.yaml")[0]["services"]["trt-var"]["command"]
    found = {"trt-var.service": started[0].split(), "compose.yaml": composed, "kubernetes.yaml": pod}
    return {**found, **{f"Dockerfile {i}": json.loads(text) for i, text in enumerate(images)}}


def options_of(words: list[str]) -> argparse.Namespace:
    """Of a command, with variables as they are if not set."""
    return cli.parser().parse_args(["serve", *(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in words)])


def test_commands_can_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    known, started = options_of_serve(capsys), commands()
    assert len(started) == 5
    for name, words in started.items():
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, name  # none is shortened
        assert options_of(words).api_key_file, name  # none is open to whoever reaches the port


def test_options_in_comments_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = options_of_serve(capsys)
    for file in ("kubernetes.yaml", "trt-var.service", "compose.yaml", "Caddyfile", "README.md"):
        text = (FOLDER / file).read_text("utf-8")
        named = set(re.findall(r"--(?:drain-delay|patience|request-timeout|n-draft[a-z-]*|max-[a-z]+|key-[a-z]+)", text))
        assert named <= known, file


def test_supervisors_wait_longer_than_the_service() -> None:
    options = {name: options_of(words) for name, words in commands().items() if not name.startswith("Dockerfile")}
    needed = {name: one.drain_delay + one.patience for name, one in options.items()}
    pod = parsed("kubernetes.yaml")[0]["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + needed["kubernetes.yaml"]
    assert float(unit()["Service"]["TimeoutStopSec"]) > needed["trt-var.service"]
    grace = parsed("compose.yaml")[0]["services"]["trt-var"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > needed["compose.yaml"]


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)  # settings may come twice
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((FOLDER / "trt-var.service").read_text("utf-8").replace("\\\n", " "))
    return found


def test_unit_is_hardened() -> None:
    service = unit()["Service"]
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices"):
        assert service[name] == "yes"
    assert (service["ProtectSystem"], service["KillSignal"], service["Restart"]) == ("strict", "SIGTERM", "on-failure")
    assert service["CapabilityBoundingSet"] == "" and service["MemoryMax"]


def test_containers_are_hardened() -> None:
    for name, service in parsed("compose.yaml")[0]["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    pod = parsed("kubernetes.yaml")[0]["spec"]["template"]["spec"]
    context = pod["containers"][0]["securityContext"] | pod["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"] and context["runAsNonRoot"]
    stages = (FOLDER / "Dockerfile").read_text("utf-8").split("\nFROM ")
    finals = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert len(finals) == 2 and all("USER 10001:10001" in one and "g++" not in one and "/readyz" in one for one in finals)


def test_files_that_others_name_are_there() -> None:
    compose = parsed("compose.yaml")[0]
    mounted = [one.partition(":")[0] for s in compose["services"].values() for one in s["volumes"] if isinstance(one, str)]
    named = [one for one in mounted if one.startswith("./")]
    named += parsed("prometheus.yml")[0]["rule_files"] + parsed("alerts.test.yml")[0]["rule_files"]
    assert not [one for one in named if not (FOLDER / one).is_file()]
    build, dockerfile = compose["services"]["trt-var"]["build"], (FOLDER / "Dockerfile").read_text("utf-8")
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file() and f"AS {build['target']}\n" in dockerfile
    seen = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    copied = " ".join(re.findall(r"^COPY (?!--from)(.*) /source\S*$", dockerfile, re.MULTILINE)).split()
    assert copied and all(f"!{one}" in seen and (FOLDER.parents[1] / one).exists() for one in copied)


CHECKS = {
    "promtool": ["test", "rules", "alerts.test.yml"],
    "caddy": ["validate", "--adapter", "caddyfile", "--config", "Caddyfile"],
    "systemd-analyze": ["verify", "--man=no", "trt-var.service"],
}


@pytest.mark.parametrize("program", CHECKS)
def test_programs_take_their_files(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    ran = subprocess.run([program, *CHECKS[program]], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    said = ran.stdout + ran.stderr
    elsewhere = "/opt/trt-var/bin/trt-var is not executable"  # on the machine that the unit is for, it is
    assert ran.returncode == 0 or elsewhere in said, said


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


Answer = tuple[int, dict[str, str], bytes]


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> Answer:
    """One request to an ASGI app, without a socket."""
    path, _, query = path.partition("?")
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "http_version": "1.1", "scheme": "http", "method": method, "path": path, "root_path": ""}
    scope |= {"query_string": query.encode(), "headers": headers}  # type: ignore[dict-item]
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:])


def within(app: Any, *requests: tuple[Any, ...]) -> list[Answer]:
    """Answers to requests, one after the other, while the app lives."""

    async def go() -> list[Answer]:
        async with app.router.lifespan_context(app):
            return [await ask(app, *request) for request in requests]

    return anyio.run(go)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Pipeline.load`` takes the backend that loads fastest."""
    original = Pipeline.load
    monkeypatch.setattr(Pipeline, "load", lambda path, **rest: original(path, "onnxruntime", **rest))


DRAW = json.dumps({"prompt": "seven", "seed": 7}).encode()


def test_app_answers(quick: None) -> None:
    ready, drawn = within(module("asgi").app(), ("GET", "/readyz"), ("POST", "/v1/images/generations", DRAW))
    assert (ready[0], json.loads(ready[2])) == (200, {"status": "ready"})
    assert drawn[0] == 200 and json.loads(drawn[2])["data"][0]["label"] == 7


def test_app_below_a_prefix_is_the_same(quick: None) -> None:
    draw = ("POST", "/pictures/v1/images/generations", DRAW)
    asked = [("GET", "/"), ("GET", "/pictures/readyz"), draw, ("GET", "/pictures/metrics")]
    hello, ready, drawn, metrics = within(module("asgi").mounted(), *asked)
    assert (hello[0], ready[0], drawn[0]) == (200, 200, 200)
    assert b'trt_var_requests_total{route="/v1/images/generations",status="200"} 1.0' in metrics[2]


class Refusing:
    """A batcher that cannot."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def generate(self, *_: object, **__: object) -> None:
        raise self.error

    async def stream(self, *_: object, **__: object) -> Any:
        raise self.error
        yield


def test_fastapi_app(quick: None) -> None:
    pytest.importorskip("fastapi")
    example = module("fastapi_app")
    picture, steps, *refused = within(
        example.app,
        ("GET", "/pictures/seven?seed=7"),
        ("GET", "/pictures/7/steps?seed=7"),
        ("GET", "/pictures/eleventy"),
        ("GET", "/pictures/7/steps?n_draft=99"),
    )
    image = Image.open(io.BytesIO(picture[2]))
    assert (picture[0], picture[1]["x-seed"], image.size) == (200, "7", (32, 32))
    assert steps[1]["content-type"].startswith("text/event-stream")
    assert re.findall(r"event: (.*)", steps[2].decode()) == [*(f"scale {i} of 6" for i in range(1, 6)), "done"]
    assert [one[0] for one in refused] == [400, 400] and b"eleventy" in refused[0][2]


@pytest.mark.parametrize(("error", "status"), [(OverloadedError("full", 2.6), 503), (DeadlineError("late"), 504)])
def test_errors_of_the_fastapi_app(error: Exception, status: int) -> None:
    pytest.importorskip("fastapi")
    app = module("fastapi_app").app
    app.state.batcher = Refusing(error)
    answers = [anyio.run(ask, app, "GET", path) for path in ("/pictures/7", "/pictures/7/steps")]
    assert [one[0] for one in answers] == [status, status]
    assert status != 503 or answers[0][1]["retry-after"] == "3"
