"""A model card of a bundle, in the hub's form: what its own records say, and nothing that they do not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.resources import files
from string import Template

from trt_var.bundle import memory
from trt_var.bundle.manifest import Manifest, default_n_draft, identity
from trt_var.bundle.opening import Bundle
from trt_var.bundle.sharing.figures import Figures, cell, columns, compared, measured
from trt_var.errors import printable

NAME = "README.md"
MIB = 1 << 20
FRONT = {"library_name": "trt-var", "pipeline_tag": "unconditional-image-generation"}
TAGS = ("class-conditional", "image-generation", "var", "collaborative-decoding", "onnx")
UNKNOWN = "unknown"
BATCHES = (1, 8, 64)
RETRIEVER = 207  # of the ImageNet classes
Origins = Mapping[str, Mapping[str, str]]


def card(bundle: Bundle, place: str | None = None, figures: Figures | None = None) -> str:
    """The card of a bundle, Markdown behind YAML.

    Args:
        place: what one gives to load it, an address or a folder; its own if not given.
        figures: measured quality; else what the bundle records.

    Raises:
        BundleError: a file that the card tells of is damaged.
    """
    manifest, place = bundle.manifest, printable(place or bundle.source or str(bundle.path))
    origins = _origins(manifest)
    template = Template((files(__package__) / "card.md.in").read_text(encoding="utf-8"))
    return template.substitute(
        front=_front(manifest, origins),
        title=cell(_title(place)),
        shell=shlex.quote(place),
        python=json.dumps(place, ensure_ascii=False),
        label=RETRIEVER if manifest.classes > RETRIEVER else manifest.classes // 2,
        n_draft=default_n_draft(manifest),
        contents=columns(("", ""), _contents(bundle)),
        memory=columns(("batch", "weights", "cache", "activations"), map(partial(_memory, manifest), BATCHES)),
        quality="\n\n".join([*compared(bundle), *measured(bundle, figures)]),
        origins=columns(
            ("part", "repository", "revision", "file", "sha256", "licence"),
            (
                (part, *(origin.get(name, UNKNOWN) for name in ("repository", "revision", "path", "sha256", "licence")))
                for part, origin in origins.items()
            ),
        ),
        licences=_licences(origins),
    )


def _title(place: str) -> str:
    """The last name of an address, without its revision, or of a folder."""
    return place.replace("\\", "/").rstrip("/").rpartition("/")[2].partition("@")[0] or place


def _origins(manifest: Manifest) -> Origins:
    return {**{role: model.origin for role, model in manifest.models.items()}, "vae": manifest.vae_origin}


def _front(manifest: Manifest, origins: Origins) -> str:
    """YAML; strings of JSON are strings of YAML, once what breaks its lines is escaped."""
    licence, bases = _licence(origins), sorted({one["repository"] for one in origins.values() if "repository" in one})
    found: dict[str, object] = {"license": licence.lower()} if licence else {}
    found |= FRONT | {"tags": [*TAGS, manifest.precision, *(["quantized"] if manifest.quantised else [])]}
    found |= {"base_model": bases} if bases else {}
    return "\n".join(f"{key}: {printable(json.dumps(value, ensure_ascii=False))}" for key, value in found.items())


def _licence(origins: Origins) -> str | None:
    """That of all parts, where all have the same."""
    known = {one.get("licence") for one in origins.values()}
    return known.pop() if len(known) == 1 else None


def _licences(origins: Origins) -> str:
    if (licence := _licence(origins)) is not None:
        return f"All weights are licensed {cell(licence)}."
    if any("licence" in one for one in origins.values()):
        return "The parts are under different licences, or some are unknown: all of them apply."
    return "The licence of the weights is not recorded in the bundle."


def _contents(bundle: Bundle) -> Iterator[tuple[str, object]]:
    manifest = bundle.manifest
    yield "pictures", f"{manifest.image_side} × {manifest.image_side}, {manifest.classes} classes{_named(bundle)}"
    yield "precision", f"{manifest.precision}{_quantised(manifest)}"
    for role, model in manifest.models.items():
        yield role, f"depth {model.depth}, width {model.width}, {model.parameters / 1e6:.1f} M parameters"
    yield "VQVAE", f"{manifest.vae_channels} channels, {manifest.vocabulary} codes of width {manifest.code_width}"
    yield "scales", f"{' '.join(map(str, manifest.schedule))} ({bundle.schedule.length} tokens)"
    yield "N, scales of the drafter", f"{', '.join(map(str, manifest.serves))}; {default_n_draft(manifest)} if not asked for"
    yield "top-k", f"up to {manifest.max_top_k}{', or the whole vocabulary' if manifest.untruncated else ''}"
    yield "without guidance", "one row an image, half the work" if manifest.one_row else "two rows an image, as with it"
    size = sum(file.size for file in manifest.files.values())
    yield "files", f"{len(manifest.files)}, {size / MIB:.0f} MiB, of manifest {identity(manifest)}"
    yield "built by", manifest.generator


def _named(bundle: Bundle) -> str:
    names = bundle.class_names()
    return f" with names, from {names[0]} to {names[-1]}" if names else ", without names"


def _quantised(manifest: Manifest) -> str:
    parts = (f"{part}: {', '.join(map(' '.join, kinds.items()))}" for part, kinds in (manifest.quantised or {}).items())
    return "".join(f"; {part}" for part in parts)


def _memory(manifest: Manifest, batch: int) -> tuple[str, ...]:
    need = memory.need(manifest, default_n_draft(manifest), batch)
    return str(batch), *(f"{part / MIB:.0f}" for part in (need.weights, need.cache, need.activations))
