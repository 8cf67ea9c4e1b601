"""Where drawn images come from: what it takes to draw them again, as data that results and files carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from trt_var.backends.base import arithmetic
from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.chain import Chain
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.requests.checking import Run

KEPT = {"fp16": "float16 graphs, ", "bf16": "bfloat16 weights, "}


@dataclass(frozen=True)
class Provenance:
    """What drew images, and how.

    Attributes:
        bundle: sha256 of the bundle's manifest, which holds those of all its files.
        backend: as given to ``--backend``.
        engine: its version, device and arithmetic, for people.
        arithmetic: float32, bfloat16, or what else was computed in.
        n_draft: how many scales the drafter drew.
        sampling: settings, with a number for all of them.
        batch_size: how many images were drawn together at most; 1 if each was drawn alone.
        batch_invariant: whether each was drawn alone by request, so that it depends on none beside it.
        given: what else went in and is not recorded here: an image and a mask, or tokens.
        generator: the version that drew.
        source: the address on the hub that the bundle was fetched from, with the commit; None for a folder.

    Example:
        >>> from trt_var import Pipeline
        >>> made = Pipeline.load("digits", "exact").generate(7, n_draft=3).provenance
        >>> made.n_draft, made.arithmetic, made.sampling.top_p, made.source
        (3, 'float32', 0.96, None)
        >>> Provenance.from_json(made.as_json()) == made
        True
    """

    bundle: str
    backend: str
    engine: str
    arithmetic: str
    n_draft: int
    sampling: Sampling
    batch_size: int
    batch_invariant: bool = False
    given: str | None = None
    generator: str = ""
    source: str | None = None

    def as_json(self) -> str:
        """As a JSON object, which ``from_json`` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, data: str | bytes) -> Provenance:
        """From ``data``, JSON; what it holds beside is ignored, as the labels and seeds in a picture's record.

        Raises:
            UsageError: no such JSON.
        """
        found: Provenance = decoded(data, cls)
        return found


def decoded(data: str | bytes, kind: type[Any]) -> Any:
    """A value of a type from JSON.

    Raises:
        UsageError: no JSON, or of something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError) as error:
        raise UsageError(f"this is no {kind.__name__.strip('_')} as JSON: {error}") from error


def provenance_of(chain: Chain, run: Run, batch_size: int, alone: bool) -> Provenance:
    """Of what a chain draws for a request."""
    manifest, engine = chain.manifest, chain.backend.description
    given = "an image and a mask" if run.region is not None else "tokens" if run.teacher is not None else None
    return Provenance(
        bundle=manifests.identity(manifest),
        backend=chain.backend.name,
        engine=engine,
        arithmetic=KEPT.get(manifest.precision, "") + arithmetic(engine),
        n_draft=run.n_draft,
        sampling=run.sampling,
        batch_size=min(batch_size, len(run.labels)),
        batch_invariant=alone,
        given=given,
        generator=_generator(),
        source=chain.source,
    )


def is_exact(manifest: Manifest, engine: str) -> bool:
    """Whether an engine computes everything of a bundle in float32."""
    return manifest.precision != "fp16" and manifest.quantised is None and arithmetic(engine) == "float32"


def promise(alone: bool, exact: bool) -> str:
    """What can be relied on of an image drawn in one batch and in another (docs/decoding.md)."""
    if alone:
        return "every image drawn by itself, the same whatever is drawn with it"
    if exact:
        return "tokens do not depend on the batch, pixels by one step of 255 at most"
    return "rounding may depend on the size of the batch"


@cache
def _generator() -> str:
    try:
        return f"trt-var {version('trt-var')}"
    except PackageNotFoundError:  # run from a folder, or frozen into an application
        return "trt-var"
