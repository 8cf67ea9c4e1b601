"""The public names and their signatures: a change of them is seen, and meant.

After a change that is meant: ``python tests/test_interface.py``, and read the difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import trt_var

KEPT = Path(__file__).parent / "data" / "interface.txt"


def interface() -> Iterator[str]:
    for name in sorted(trt_var.__all__):
        value = getattr(trt_var, name)
        if not inspect.isclass(value):
            yield f"{name}{inspect.signature(value)}"
            continue
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})" if issubclass(value, Exception) else f"class {name}{inspect.signature(value)}"
        own = [base for base in value.__mro__ if base.__module__.startswith("trt_var.")]
        inherited = {} if issubclass(value, Exception) else {k: v for base in reversed(own) for k, v in vars(base).items()}
        for attribute, member in sorted((inherited or dict(vars(value))).items()):
            if not attribute.startswith("_"):
                yield f"    {_shown(attribute, member)}"


def _shown(name: str, member: object) -> str:
    if isinstance(member, property):
        return f"{name}: {inspect.signature(member.fget).return_annotation}" if member.fget else name
    if isinstance(member, classmethod | staticmethod):
        return f"{type(member).__name__} {name}{inspect.signature(member.__func__)}"
    return f"{name}{inspect.signature(member)}" if callable(member) else name


def test_public_names() -> None:
    assert list(interface()) == KEPT.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    KEPT.write_text("\n".join(interface()) + "\n", encoding="utf-8")
