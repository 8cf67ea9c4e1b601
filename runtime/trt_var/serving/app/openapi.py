"""The service's OpenAPI document: from the structs that requests are checked with, and what the routes answer."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from trt_var import __version__
from trt_var.serving.app.answers import FORM, JSON
from trt_var.serving.app.protocols.tensors import Infer
from trt_var.serving.app.protocols.wire import Generate
from trt_var.serving.app.settings import Settings

Json = dict[str, Any]
REF = "#/components/schemas/{name}"
FAULTS = {
    400: "A value that cannot be meant",
    401: "No valid API key",
    403: "Another host's name, or another site's page",
    404: "No such model or route",
    408: "The request did not arrive in time",
    413: "The request is too large",
    415: "The request is of another type",
    429: "This key asks for too much; Retry-After says when to ask again",
    499: "The client went before the answer",
    500: "A fault of the service",
    503: "Overloaded, starting, draining, or failed; Retry-After says when to ask again",
    504: "Not done by the deadline",
}
TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
DRAWN = {
    "usage": {"type": "object"},
    "model": TEXT,
    "n_draft": WHOLE,
    "backend": TEXT,
    "reproducible": {"enum": ["tokens", "images", "no"]},
    "timing": {"type": "object", "properties": {"queue_s": NUMBER, "draw_s": NUMBER}},
}


def document(settings: Settings) -> Json:
    """As JSON has it."""
    found = _base()
    found["security"] = [{"bearer": []}, {"basic": []}] if settings.keys else []
    return found


@cache
def _base() -> Json:
    (generate, infer), schemas = msgspec.json.schema_components((Generate, Infer), ref_template=REF)
    schemas |= {
        "Error": _error(),
        "Plain": _object({"error": TEXT}),
        "Images": _images(),
        "Model": _object({"id": TEXT}, True),
    }
    return {
        "openapi": "3.2.0",
        "info": {"title": "trt-var", "version": __version__, "description": "Class-conditional images from VAR models."},
        "paths": _paths(generate, infer),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _paths(generate: Json, infer: Json) -> Json:
    picture = {"type": "string", "format": "binary"}
    edit = _object({"image": picture, "mask": picture, "prompt": TEXT}, True)
    one = {"name": "id", "in": "path", "required": True, "schema": TEXT}
    version = {"name": "version", "in": "path", "required": True, "schema": TEXT}
    query = [{"name": "q", "in": "query", "schema": TEXT}, {"name": "limit", "in": "query", "schema": WHOLE}]
    listed = _object({"object": {"const": "list"}, "data": {"type": "array"}}, True)
    anything: Json = {"type": "object"}
    images, stream = _ref("Images"), {"text/event-stream": {"itemSchema": _event()}}
    bad = (400, 403, 404)
    drawing = (*bad, 408, 413, 415, 429, 499, 500, 503, 504)
    paths: Json = {
        "/v1/images/generations": {"post": _operation("Draw images", images, drawing, (JSON, generate), also=stream)},
        "/v1/images/edits": {"post": _operation("Redraw a region", images, drawing, (FORM, edit), also=stream)},
        "/v1/models": {"get": _operation("What is served", listed, (*bad, 503))},
        "/v1/models/{id}": {
            "get": _operation("What is served", _ref("Model"), (*bad, 503)),
            "parameters": [one],
        },
        "/v1/classes": {"get": _operation("Classes by name or number", listed, (*bad, 503)), "parameters": query},
        "/v2": {"get": _operation("The server", anything, bad, plain=True)},
        "/v2/health/live": {"get": _operation("Alive", anything, (*bad, 503), plain=True, keys=False)},
        "/v2/health/ready": {"get": _operation("Ready", anything, (*bad, 503), plain=True, keys=False)},
        "/healthz": {"get": _operation("Alive", anything, (*bad, 503), keys=False)},
        "/readyz": {"get": _operation("Ready", anything, (*bad, 503), keys=False)},
        "/metrics": {"get": _operation("For Prometheus", None, bad)},
        "/version": {"get": _operation("What serves", anything, (*bad, 503))},
        "/openapi.json": {"get": _operation("This document", anything, bad)},
    }
    for base, parameters in (("/v2/models/{id}", [one]), ("/v2/models/{id}/versions/{version}", [one, version])):
        paths[base] = {"get": _operation("Inputs and outputs", anything, (*bad, 503), plain=True), "parameters": parameters}
        paths[f"{base}/ready"] = {"get": _operation("Ready", anything, (*bad, 503), plain=True), "parameters": parameters}
        asked = _operation("Draw images", anything, drawing, (JSON, infer), plain=True)
        paths[f"{base}/infer"] = {"post": asked, "parameters": parameters}
    return paths


def _operation(
    summary: str,
    answer: Json | None,
    faults: tuple[int, ...],
    body: tuple[str, Json] | None = None,
    also: Json | None = None,
    plain: bool = False,
    keys: bool = True,
) -> Json:
    good = {"text/plain": {"schema": TEXT}} if answer is None else {JSON: {"schema": answer}, **(also or {})}
    # a probe that is not ready answers with its state, not with an error
    error = answer if not keys and answer else _ref("Plain" if plain else "Error")
    told = sorted({*faults, *((401,) if keys else ())})
    bad = {str(code): {"description": FAULTS[code], "content": {JSON: {"schema": error}}} for code in told}
    found: Json = {"summary": summary, "responses": {"200": {"description": "Done", "content": good}, **bad}}
    if not keys:
        found["security"] = []
    if body:
        kind, schema = body
        found["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return found


def _ref(name: str) -> Json:
    return {"$ref": REF.format(name=name)}


def _object(properties: Json, open_ended: bool = False) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": open_ended}


def _error() -> Json:
    optional = {"type": ["string", "null"]}
    return _object({"error": _object({"message": TEXT, "type": TEXT, "param": optional, "code": optional})})


def _event() -> Json:
    """Of a stream, each; the data are one line of JSON."""
    return _object({"event": TEXT, "data": {"type": "string", "contentMediaType": JSON}}, True)


def _images() -> Json:
    image = _object({"b64_json": TEXT, "revised_prompt": TEXT, "seed": WHOLE, "label": WHOLE})
    shared = {
        "created": WHOLE,
        "data": {"type": "array", "items": image},
        "background": TEXT,
        "output_format": TEXT,
        "size": TEXT,
    }
    return _object({**shared, **DRAWN})
