"""NumPy files that may be damaged or made to do harm: what they announce is compared before it is read."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# what NumPy and zipfile raise for damaged files; RuntimeError covers compressions and recursions that they do not take
UNREADABLE = (
    OSError, ValueError, LookupError, EOFError, SyntaxError, TypeError, OverflowError, RuntimeError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
PIECE = 1 << 22
Expected = Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]


def check_npz(path: Path, expected: Expected) -> None:
    """Compare the headers of an npz's arrays with what they must be: name → shape, names of types. Nothing is unpacked.

    Raises:
        ValueError: an array missing or too many, of another shape or type.
        UNREADABLE: a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        names, wanted = sorted(archive.namelist()), sorted(f"{name}.npy" for name in expected)
        if names != wanted:
            raise ValueError(f"it holds {', '.join(names)[:99]}; expected {', '.join(wanted)}")
        for name, (shape, types) in expected.items():
            with archive.open(f"{name}.npy") as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{name} is not of NumPy's format 1.0")
                found, _, dtype = np.lib.format.read_array_header_1_0(file)
            if found != shape or dtype.name not in types:
                raise ValueError(f"{name} has shape {found} {dtype}; expected {shape} {' or '.join(types)}")


def all_finite(path: Path, table: NDArray[np.floating], offset: int) -> bool:
    """Whether an array in a file, from ``offset`` on, has neither NaN nor infinity; a piece in memory at a time."""
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, table.size, PIECE):
            piece = np.fromfile(file, table.dtype, min(PIECE, table.size - start))
            if not np.isfinite(piece).all():
                return False
    return True
