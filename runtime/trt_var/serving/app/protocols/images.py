"""OpenAI's Images: generations and edits, whole or as a stream of server-sent events."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from trt_var.serving.app.answers import FORM, JSON, as_json
from trt_var.serving.app.faults import Refusal, no_such_model
from trt_var.serving.app.protocols import asking
from trt_var.serving.app.protocols.events import Events, Stream
from trt_var.serving.app.protocols.pictures import FORMATS, QUALITY, encoded
from trt_var.serving.app.protocols.wanted import Wanted
from trt_var.serving.app.protocols.wire import Generate, convert, parse
from trt_var.serving.app.service import Service, drawn, remaining
from trt_var.serving.batching.tickets import Served
from trt_var.serving.engine import Ask, Description, Edit

FILES = ("image", "mask")
MULTIPART = {"max_files": 2, "max_fields": 40, "max_part_size": 64 << 10}
LISTS, RANGES = ("temperature[]",), {"n_draft[min]": "min", "n_draft[max]": "max"}  # as forms have them
NUMBERS = ("temperature", "n_draft")  # fields of a form that may be JSON
ENOUGH = {"quality": ("auto", "standard"), "background": ("auto", "opaque"), "response_format": ("b64_json",)}
STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def generations(request: Request) -> Response:
    """``POST /v1/images/generations``."""
    service: Service = request.app.state.service
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refusal(415, f"the request is no {JSON}", code="unsupported_media_type")
    given = parse(await request.body(), Generate)
    return await _answer(request, given, _wanted(request, service, given, "image_generation", None))


async def edits(request: Request) -> Response:
    """``POST /v1/images/edits``."""
    service: Service = request.app.state.service
    if not request.headers.get("content-type", "").lower().startswith(FORM):
        raise Refusal(415, f"the request is no {FORM}", code="unsupported_media_type")
    try:
        async with request.form(**MULTIPART) as form:
            fields, files = _fields(form), {}
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files[name.removesuffix("[]")] = await value.read()
    except (UnicodeError, LookupError) as error:
        raise Refusal(400, f"the form's texts cannot be read: {error}", code="invalid_value") from error
    missing = [name for name in FILES if name not in files]
    if missing or len(files) > len(FILES):
        told = missing[0] if missing else next(name for name in files if name not in FILES)
        raise Refusal(400, f"{told[:80]!r}: expected the files image and mask", param=told[:80], code="invalid_value")
    given = convert(fields, Generate, strict=False)
    edit = Edit(files["image"], files["mask"])
    return await _answer(request, given, _wanted(request, service, given, "image_edit", edit))


def _fields(form: FormData) -> dict[str, Any]:
    """The texts of a form, and the names of its files taken, each once; lists and objects as forms have them, or as JSON."""
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    for name, value in form.multi_items():
        short = name.removesuffix("[]")
        several = name in LISTS or name in RANGES
        if name in seen and name not in LISTS:
            raise Refusal(400, f"{short[:80]!r} is there twice; one image is edited at a time", param=short[:80])
        seen.add(name)
        if not isinstance(value, str):
            continue
        key = "n_draft" if name in RANGES else short
        if key in fields and not (several and isinstance(fields[key], (list, dict))):
            raise Refusal(400, f"{key[:80]!r} is there twice", param=key[:80], code="invalid_value")
        if name in LISTS:
            fields.setdefault(key, []).append(value)
        elif name in RANGES:
            fields.setdefault(key, {})[RANGES[name]] = value
        else:
            fields[key] = _structured(key, value)
    return fields


def _structured(name: str, text: str) -> Any:
    """A field of a form: numbers and objects are JSON, all else is text."""
    if name in NUMBERS and text[:1] in "{[":
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refusal(400, f"{name} is no JSON: {error}", param=name, code="invalid_value") from error
    return text


def _wanted(request: Request, service: Service, given: Generate, kind: str, edit: Edit | None) -> Wanted:
    served, settings = service.served(), service.settings
    _check(given, served, settings.model)
    images, most = 1 if given.n is None else given.n, service.most_images(request)
    if not 1 <= images <= most:
        raise Refusal(400, f"n is {images}; expected 1 to {most}", param="n", code="invalid_value")
    previews: frozenset[int] = frozenset()
    if given.stream:
        if images > 1:
            raise Refusal(400, f"n is {images}; a stream is of one image", param="n", code="invalid_value")
        scales = len(served.schedule)
        previews = _spread(given.partial_images or 0, min(max(given.scales or scales, 1), scales))
    elif given.partial_images:
        raise Refusal(400, "partial_images belong to a stream", param="partial_images", code="invalid_value")
    ask = Ask(
        labels=(given.prompt,) * images,
        seeds=asking.seeds(given.seed, images),
        n_draft=asking.n_draft(given),
        sampling=asking.sampling(given, served),
        timeout=asking.timeout(request.headers.get("x-request-timeout")),
        previews=previews,
        edit=edit,
    )
    return Wanted(ask, given.output_format or "png", given.output_compression, kind, int(time.time()))


def _check(given: Generate, served: Description, model: str) -> None:
    """Refuse what would be ignored in silence."""
    if given.model not in (None, model):
        raise no_such_model(repr(given.model), repr(model))
    if given.size not in (None, "auto", served.size):
        raise Refusal(400, f"size is {given.size!r}; this model draws {served.size}", param="size", code="invalid_value")
    for name, taken in ENOUGH.items():
        if getattr(given, name) not in (None, *taken):
            hint = "; for better pictures in more time, raise n_draft" if name == "quality" else ""
            expected = f"{name} is {getattr(given, name)!r}; expected {' or '.join(taken)}{hint}"
            raise Refusal(400, expected, param=name, code="invalid_value")
    if given.output_format not in (None, *FORMATS):
        expected = f"output_format is {given.output_format!r}; expected {', '.join(FORMATS)}"
        raise Refusal(400, expected, param="output_format", code="invalid_value")
    if given.output_compression not in (None, QUALITY) and given.output_format in (None, "png"):
        raise Refusal(400, "output_compression is for jpeg and webp", param="output_compression", code="invalid_value")


def _spread(count: int, scales: int) -> frozenset[int]:
    """So many of the scales before the last, evenly."""
    if not 0 <= count < scales:
        told = f"partial_images is {count}; expected 0 to {scales - 1}"
        raise Refusal(400, told, param="partial_images", code="invalid_value")
    return frozenset(round((i + 1) * scales / (count + 1)) - 1 for i in range(count))


async def _answer(request: Request, given: Generate, wanted: Wanted) -> Response:
    service: Service = request.app.state.service
    if given.stream:
        stream = Stream(request, wanted)
        await stream.begin()  # what is refused before the first event is an answer with a status of its own
        return Events(stream, headers=STREAMED)
    served = await drawn(request, wanted.ask)
    files = await encoded(list(served.images), wanted.form, wanted.quality)
    remaining(request, wanted.ask)
    return as_json(_body(service, wanted, served, files))


def _body(service: Service, wanted: Wanted, served: Served, files: list[str]) -> dict[str, Any]:
    described = service.served()
    data = [
        {"b64_json": file, "revised_prompt": asking.title(label, described), "seed": seed, "label": label}
        for file, label, seed in zip(files, served.labels.tolist(), served.seeds.tolist(), strict=True)
    ]
    made = {"created": wanted.created, "data": data, "background": "opaque", "output_format": wanted.form}
    return {**made, "size": described.size, **service.told(served)}
