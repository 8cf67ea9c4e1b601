"""A pickle module for ``torch.load`` that rebuilds tensors and containers and runs nothing else of a file.

Whatever else a pickle names, such as NumPy scalars, an ``argparse.Namespace``, a whole ``nn.Module`` or ``os.system``,
becomes an inert object that remembers what it was given. No module is imported for it and none of its code runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import _utils as rebuilding


class Inert:
    """Stands for an object of a class that is no tensor and no plain container.

    Attributes:
        origin: the class or function in the file, ``argparse.Namespace``.
        entries: what was put in by keys.
        state: what its attributes would have been.
    """

    origin = ""
    dump_patches = False  # asked for where torch's old format has a module's source beside it

    def __new__(cls, *_: object, **__: object) -> Inert:
        made = super().__new__(cls)
        made.entries, made.state = {}, None
        return made

    entries: dict[Any, Any]
    state: Any

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.entries[len(self.entries)] = value

    add = append

    def extend(self, values: list[Any]) -> None:
        for value in values:
            self.append(value)


class _Ordered(dict[Any, Any]):
    """For ``collections.OrderedDict``: without attributes, since a file's could hide methods."""

    def __setstate__(self, state: object) -> None:
        pass


class _Function:
    """A function without attributes that a file could change."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"sets {name} of a function")


_REBUILT: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuilding._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuilding._rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": rebuilding._rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda call, kind, arguments, state: call(*arguments),
}


class Unpickler(pickle._Unpickler):  # not the C one, whose memo a file of a few bytes can make as large as the memory
    """Resolves no name but those of tensors and ordered dicts."""

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin in _REBUILT:
            return _Function(_REBUILT[origin])
        if origin == "collections.OrderedDict":
            return _Ordered
        if origin == "torch.Size":
            return torch.Size
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        return dtype if isinstance(dtype, torch.dtype) else type("Inert", (Inert,), {"origin": origin})


def load(file: BinaryIO, **options: Any) -> Any:
    """As ``pickle.load``."""
    return Unpickler(file, **options).load()
