"""What is served: OpenAI's models, and the classes that can be asked for."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trt_var.requests.labels import folded
from trt_var.serving.app.answers import as_json
from trt_var.serving.app.faults import Refusal, no_such_model
from trt_var.serving.app.service import Service

MOST_LISTED, LONGEST = 1000, 200


async def models(request: Request) -> Response:
    """``GET /v1/models``."""
    return as_json({"object": "list", "data": [_model(request.app.state.service)]})


async def model(request: Request) -> Response:
    """``GET /v1/models/{id}``."""
    service: Service = request.app.state.service
    if request.path_params["id"] != service.settings.model:
        raise no_such_model(repr(request.path_params["id"][:80]), repr(service.settings.model))
    return as_json(_model(service))


async def classes(request: Request) -> Response:
    """``GET /v1/classes``: those whose name or number holds ``q``, names that begin with it first."""
    service: Service = request.app.state.service
    served, wanted = service.served(), folded(request.query_params.get("q", "")[:LONGEST])
    limit = _limit(request.query_params.get("limit", "20"))
    lines = served.names or tuple(str(label) for label in range(served.classes))
    found = []
    for label, line in enumerate(lines):
        names = [folded(name) for name in line.split(",")]
        if wanted in (str(label), "") or any(wanted in name for name in names):
            begins = str(label) == wanted or any(name.startswith(wanted) for name in names)
            found.append((not begins, label, line))
    found.sort()
    data = [{"label": label, "name": line} for _, label, line in found[:limit]]
    return as_json({"object": "list", "data": data, "total": len(found)})


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_LISTED):
        told = f"limit is {text[:40]!r}; expected 1 to {MOST_LISTED}"
        raise Refusal(400, told, param="limit", code="invalid_value")
    return int(text)


def _model(service: Service) -> dict[str, Any]:
    served = service.served()
    return {
        "id": service.settings.model,
        "object": "model",
        "created": service.started,
        "owned_by": "trt-var",
        "backend": served.backend,
        "n_draft": {
            "default": served.ceiling,
            "serves": served.serves,
            "floor": served.floor,
            "ceiling": served.ceiling,
            "auto": served.floor < served.ceiling,
        },
        "presets": served.presets,
        "size": served.size,
        "scales": len(served.schedule),
        "schedule": served.schedule,
        "classes": served.classes,
        "max_images": service.settings.images,
        "max_top_k": served.max_top_k,
        "more_smooth": served.more_smooth,
        "batch": served.batch,
        "side_by_side": served.side_by_side,
        "timeout": served.timeout,
        "seconds": {str(n): round(seconds, 6) for n, seconds in sorted(served.seconds.items())},
        "reproducible": served.reproducible,
        "exact": served.exact,
    }
