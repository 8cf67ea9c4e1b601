"""Requests as they come: every field checked for its type, none ignored in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from trt_var.serving.app.faults import Refusal

PLACE, MISSING = re.compile(r"`\$\.(\w+)"), re.compile(r"missing required field `(\w+)")
Request = TypeVar("Request", bound=msgspec.Struct)
Text = Annotated[str, Meta(max_length=32_000)]
Name = Annotated[str, Meta(max_length=512)]
Number = int | float


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The least and the most scales that the drafter may draw: load decides."""

    min: int
    max: int


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How images are drawn; what OpenAI's protocol does not have."""

    n_draft: int | Literal["auto"] | Range | None = None
    cfg: Number | None = None
    guidance_scale: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    temperature: Number | Annotated[list[Number], Meta(max_length=64)] | None = None
    guided_scales: int | None = None
    scales: int | None = None
    more_smooth: bool | None = None
    preset: Name | None = None


class Generate(Settings, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """``POST /v1/images/generations``.

    Fields that change nothing are taken; those that would be ignored in silence are refused (``images``).
    """

    prompt: int | Text
    model: Name | None = None
    n: int | None = None
    size: Name | None = None
    quality: Name | None = None
    background: Name | None = None
    output_format: Name | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    response_format: Name | None = None
    moderation: Name | None = None
    user: Name | None = None
    safety_identifier: Name | None = None
    stream: bool | None = None
    partial_images: int | None = None
    seed: int | None = None


def parse(body: bytes, kind: type[Request]) -> Request:
    """A request from its JSON.

    Raises:
        Refusal: no JSON object, a name that comes twice, a field that there is not or that is of another type.
    """
    try:
        found = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise Refusal(400, "the request is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise Refusal(400, f"the request is no JSON: {error}", code="invalid_json") from error
    return convert(found, kind)


def convert(found: Any, kind: type[Request], strict: bool = True) -> Request:
    """A request from what a parser made of it; not ``strict``, of texts alone.

    Raises:
        Refusal: as above.
    """
    if not isinstance(found, Mapping):
        raise Refusal(400, f"the request is {type(found).__name__}; expected a JSON object", code="invalid_json")
    known = kind.__struct_fields__
    strangers = [name for name in found if name not in known]
    if strangers:
        raise Refusal(
            400,
            f"{strangers[0][:80]!r} is not known here; expected {', '.join(sorted(known))}",
            param=strangers[0][:80],
            code="unknown_parameter",
        )
    try:
        return msgspec.convert(found, kind, strict=strict)
    except (msgspec.ValidationError, OverflowError, RecursionError, UnicodeError) as error:
        raise Refusal(400, str(error), param=_where(str(error)), code="invalid_value") from error


def _where(text: str) -> str | None:
    """The field that msgspec names: ``… - at `$.seed```."""
    found = PLACE.search(text) or MISSING.search(text)
    return found[1] if found else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return number
