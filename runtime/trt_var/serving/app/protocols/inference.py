"""The Open Inference Protocol, version 2 (KServe, Triton): labels and seeds in, images and tokens out."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from trt_var import __version__
from trt_var.serving.app.answers import JSON, as_json
from trt_var.serving.app.faults import no_such_model
from trt_var.serving.app.protocols import asking, tensors
from trt_var.serving.app.service import Service, drawn, remaining
from trt_var.serving.batching.dispatch import State
from trt_var.serving.engine import Ask

VERSION = "1"
BYTES = "application/octet-stream"


async def server(request: Request) -> Response:
    """``GET /v2``."""
    return as_json({"name": "trt-var", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """``GET /v2/health/live``."""
    alive = request.app.state.service.state() is not State.FAILED
    return as_json({"live": alive}, 200 if alive else 503)


async def ready(request: Request) -> Response:
    """``GET /v2/health/ready`` and ``/v2/models/{id}/ready``."""
    service: Service = request.app.state.service
    if "id" in request.path_params:
        _check(request, service)
    is_ready = service.state() is State.READY
    return as_json({"ready": is_ready}, 200 if is_ready else 503)


async def model(request: Request) -> Response:
    """``GET /v2/models/{id}``."""
    service: Service = request.app.state.service
    _check(request, service)
    served = service.served()
    length = sum(side**2 for side in served.schedule)
    inputs = [("label", "INT64", [-1]), ("seed", "UINT64", [-1])]
    outputs = [("images", "UINT8", [-1, served.side, served.side, 3]), ("tokens", "UINT16", [-1, length])]
    outputs += [("seed", "UINT64", [-1]), ("label", "INT64", [-1])]
    described = [
        [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in part] for part in (inputs, outputs)
    ]
    told = {"name": service.settings.model, "versions": [VERSION], "platform": "trt_var"}
    return as_json({**told, "inputs": described[0], "outputs": described[1]})


async def infer(request: Request) -> Response:
    """``POST /v2/models/{id}/infer``."""
    service: Service = request.app.state.service
    _check(request, service)
    served = service.served()
    asked = tensors.read(await request.body(), request.headers.get(tensors.HEADER), service.most_images(request))
    ask = Ask(
        labels=asked.labels,
        seeds=asked.seeds or asking.seeds(None, len(asked.labels)),
        n_draft=asking.n_draft(asked.settings),
        sampling=asking.sampling(asked.settings, served),
        timeout=asking.timeout(request.headers.get("x-request-timeout")),
    )
    made = await drawn(request, ask)
    arrays: dict[str, NDArray[Any]] = {
        "images": made.images,
        "tokens": made.tokens,
        "seed": made.seeds,
        "label": made.labels,
    }
    parameters = {"n_draft": made.n_draft, "reproducible": served.reproducible}
    told = {"model_name": service.settings.model, "model_version": VERSION, "parameters": parameters}
    body, length = tensors.write(arrays, asked, told)
    remaining(request, ask)
    binary = any(asked.outputs.values())
    headers = {"Inference-Header-Content-Length": str(length)} if binary else {}
    return Response(body, headers=headers, media_type=BYTES if binary else JSON)


def _check(request: Request, service: Service) -> None:
    name, version = request.path_params["id"], request.path_params.get("version", VERSION)
    if (name, version) != (service.settings.model, VERSION):
        asked, served = f"{name[:80]!r} of version {version[:20]}", f"{service.settings.model!r}, {VERSION}"
        raise no_such_model(asked, served, param=None)
