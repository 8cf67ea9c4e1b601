"""Which of a checkpoint's tensors are the model: prefixes, models beside models, and what else training writes down.

People keep a state dict under ``model``, ``state_dict`` or ``trainer.var_wo_ddp``, wrapped as ``module.`` or ``_orig_mod.``,
with its moving average, an optimiser and counters beside it. A model is where its names are, whatever stands before them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from trt_var.errors import CheckpointError
from trt_var_export.weights.files.tensors import Checkpoint, Renamed, shown
from trt_var_export.weights.files.tree import NESTED

log = logging.getLogger(__name__)
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch.compile and others: no names
FEWEST = 3  # of a kind's landmarks, so that a model that lacks some is still known, and told what it lacks
ROOT = "."


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        noun, what: for messages.
        options: where it is given.
        landmarks: some names of its state dict.
        parts: what all its names begin with.
        training: what only its training needs.
    """

    noun: str
    what: str
    options: str
    landmarks: tuple[str, ...]
    parts: frozenset[str]
    training: frozenset[str] = frozenset()


TRANSFORMER = Kind(
    "VAR transformer",
    "a VAR transformer",
    "--drafter or --refiner",
    (
        "word_embed.weight",
        "class_emb.weight",
        "pos_start",
        "pos_1LC",
        "lvl_embed.weight",
        "head.weight",
        "blocks.0.ffn.fc1.weight",
    ),
    frozenset(
        {
            *("pos_start", "pos_1LC", "word_embed", "class_emb", "lvl_embed", "shared_ada_lin", "blocks", "head_nm", "head"),
            *("lvl_1L", "attn_bias_for_masking"),
        }
    ),
)
VQVAE = Kind(
    "VQVAE",
    "a VQVAE",
    "--vae",
    (
        "encoder.conv_in.weight",
        "decoder.conv_in.weight",
        "decoder.conv_out.weight",
        "quantize.embedding.weight",
        "quant_conv.weight",
        "post_quant_conv.weight",
    ),
    frozenset(("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")),
    frozenset({"loss"}),
)
KINDS = (TRANSFORMER, VQVAE)


@dataclass(frozen=True)
class _Name:
    """One tensor's: as the checkpoint has it, with dots alone and no wrappers, and the container that it lies in."""

    original: str
    plain: str

    @property
    def container(self) -> str:
        return self.original.rpartition(NESTED)[0]


def choose(checkpoint: Checkpoint, kind: Kind, file: str, key: str | None, option: str) -> Checkpoint:
    """The tensors of the one model of a kind, by the names of its state dict.

    Args:
        file: for messages.
        key: where in the file to look: ``ema``, ``trainer.var_wo_ddp``; ``.`` for the names without anything before them.
        option: what gives the key.

    Raises:
        CheckpointError: there is none; there are several and no key says which.
    """
    names = _plain(checkpoint.shapes)
    found = {one: _prefixes(names, one) for one in KINDS}
    fitting = [prefix for prefix in found[kind] if key is None or _under(prefix, key)]
    if not fitting:
        raise CheckpointError(f"{file} {_missing(names, found, kind, key, option)}")
    if len(fitting) > 1:
        listed = ", ".join(_described(checkpoint, names, prefix, fitting) for prefix in fitting)
        example = f"{option} {_key(fitting[0])}"
        raise CheckpointError(f"{file} holds {kind.what} {len(fitting)} times: {listed}; say which, e.g. {example}")
    (prefix,) = fitting
    others = [other for some in found.values() for other in some if other != prefix]
    chosen, aside = _split(checkpoint, names, prefix, others, kind)
    averaged = any("ema" in part.lower().split("_") for part in prefix.split("."))
    if aside or averaged:
        left = f"; left aside: {_groups(aside, prefix, others)}" if aside else ""
        log.warning("%s: taking %s at %s%s", file, kind.what, _place(prefix), left)
    elif prefix:
        log.info("%s: taking %s at %s", file, kind.what, _place(prefix))
    renamed = Renamed(checkpoint, chosen)
    if key is not None:  # two models of one file are different weights
        renamed.origin = {**checkpoint.origin, "key": _key(prefix)}
    return renamed


def _plain(originals: Iterable[str]) -> list[_Name]:
    """Names with their containers as prefixes, without what torch.compile puts into them unless that would join two."""
    dotted = {original: original.replace(NESTED, ".") for original in originals}
    short = {
        original: ".".join(part for part in name.split(".") if part not in WRAPPERS) for original, name in dotted.items()
    }
    counts = Counter(short.values())
    return [_Name(one, short[one] if counts[short[one]] == 1 else dotted[one]) for one in dotted]


def _prefixes(names: list[_Name], kind: Kind) -> list[str]:
    """What stands before a kind's landmarks, ``model.module.`` or nothing, wherever most of them are."""
    counts: Counter[str] = Counter()
    for name in names:
        for mark in kind.landmarks:
            if name.plain == mark or name.plain.endswith(f".{mark}"):
                counts[name.plain.removesuffix(mark)] += 1
    return sorted(prefix for prefix, count in counts.items() if count >= FEWEST)


def _under(prefix: str, key: str) -> bool:
    inside = "".join(f"{part}." for part in key.split(".") if part and part not in WRAPPERS)
    return prefix.startswith(inside) if inside else not prefix


def _split(
    checkpoint: Checkpoint, names: list[_Name], prefix: str, others: list[str], kind: Kind
) -> tuple[dict[str, str], list[str]]:
    """The model's names, and those that are none of its: other models, what training needs, counters.

    Whatever else lies among the model's tensors stays, and is refused by name when the model is compared with its shape.
    """
    inner = [other for other in others if len(other) > len(prefix) and other.startswith(prefix)]
    home = {name.container for name in names if name.plain.removeprefix(prefix) in kind.landmarks}
    chosen, aside = {}, []
    for name in names:
        rest = name.plain.removeprefix(prefix)
        part = rest.split(".")[0]
        beside = part in kind.training or name.container not in home or math.prod(checkpoint.shapes[name.original]) <= 1
        foreign = not name.plain.startswith(prefix) or any(name.plain.startswith(other) for other in inner)
        if foreign or (part not in kind.parts and beside):
            aside.append(name.plain)
        else:
            chosen[rest] = name.original
    return chosen, aside


def _missing(names: list[_Name], found: dict[Kind, list[str]], kind: Kind, key: str | None, option: str) -> str:
    """Why no model of a kind is there."""
    places = f" at {', '.join(map(_key, found[kind]))}" if found[kind] else ""
    if key is not None:
        tops = ", ".join(sorted({shown(name.plain.split(".")[0]) for name in names})[:8])
        return f"holds no {kind.noun} at {option} {shown(key)}" + (f"; it has one{places}" if places else f"; it has {tops}")
    for other in KINDS:
        if found[other]:
            return f"holds {other.what}, not {kind.what}: give it as {other.options}"
    listed = ", ".join(shown(name.plain) for name in names[:4])
    return f"is another kind of model? It has no {kind.landmarks[0]}, and begins with {listed}; expected {kind.what}"


def _described(checkpoint: Checkpoint, names: list[_Name], prefix: str, all_: list[str]) -> str:
    inner = tuple(other for other in all_ if other != prefix and other.startswith(prefix))
    inside = [name.original for name in names if name.plain.startswith(prefix) and not name.plain.startswith(inner)]
    count = sum(math.prod(checkpoint.shapes[name]) for name in inside)
    return f"{_key(prefix)} ({len(inside)} tensors, {count / 1e6:.1f}M numbers)"


def _key(prefix: str) -> str:
    return shown(prefix.rstrip(".")) or ROOT


def _place(prefix: str) -> str:
    return _key(prefix) if prefix else "the top"


def _groups(names: list[str], prefix: str, others: list[str], most: int = 6) -> str:
    """Names by the model that they are of, or what they begin with, and how many there are."""
    groups = Counter(
        next(
            (other.rstrip(".") for other in others if other and name.startswith(other)),
            name.removeprefix(prefix).split(".")[0],
        )
        for name in names
    )
    listed = [shown(group) + (f" ({count} tensors)" if count > 1 else "") for group, count in groups.most_common(most)]
    return ", ".join(listed) + (", …" if len(groups) > most else "")
