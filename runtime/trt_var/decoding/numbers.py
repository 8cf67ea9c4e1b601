"""Numbers as people have them, Python's, NumPy's or a tensor's with one value, as Python's own."""

from __future__ import annotations

import operator
from typing import Any

from trt_var.errors import UsageError

BITS = 64
SHOWN, LONGEST = 40, 200  # characters of a value in a message, and of a message


def plain(value: Any) -> Any:
    """A scalar of NumPy or of a tensor library as Python's own; anything else as it is. No such library is imported."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


def shown(value: object) -> str:
    """The beginning of a value, on one line, for a message."""
    return " ".join(repr(value).split())[:SHOWN]


def whole(value: object, name: str) -> int:
    """A whole number: anything that Python could index with, but for bools.

    Raises:
        UsageError: anything else, bools and floats too; or of more than 64 bits.
    """
    number = plain(value)
    if isinstance(number, bool):
        raise UsageError(f"{name} is {number}, a truth value; expected a whole number")
    if isinstance(number, float) and number.is_integer() and abs(number) < 1 << BITS:
        raise UsageError(f"{name} is {number!r}, a float; expected a whole number such as {number:.0f}")
    try:
        if getattr(number, "ndim", 0):
            raise TypeError
        index = operator.index(number)
    except TypeError as error:
        raise UsageError(f"{name} is {shown(number)}; expected a whole number") from error
    if abs(index) >= 1 << BITS:
        raise UsageError(f"{name} has more than {BITS} bits; expected a smaller number")
    return index


def is_scalar(value: object) -> bool:
    """Whether it is one value rather than a sequence: a number, a truth value, a text, nothing at all."""
    return (
        value is None or isinstance(value, (str, float)) or (hasattr(value, "__index__") and not getattr(value, "ndim", 0))
    )


def lies_in(value: object, smallest: float, largest: float) -> bool:
    """Whether it is a number of Python's, no bool, of a range; NaN lies in none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and smallest <= value <= largest
