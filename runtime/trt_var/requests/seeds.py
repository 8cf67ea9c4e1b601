"""Seeds of a request: what the numbers of every image are drawn from."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

from trt_var.errors import UsageError

log = logging.getLogger(__name__)
RANDOM, MAX_SEED = -1, 2**64 - 1
RANDOM_BITS = 32  # few enough digits to be copied by hand


def resolve(seeds: Sequence[int], images: int, consecutive: bool) -> list[int]:
    """The seed of every image: the given ones, or those that follow the only one; −1 stands for one drawn at random.

    Raises:
        UsageError: another number of seeds than of images, or one out of range.
    """
    numbers = [_drawn() if seed == RANDOM else seed for seed in seeds]
    if consecutive:
        numbers = [numbers[0] + i for i in range(images)]
    if len(numbers) != images:
        raise UsageError(f"{len(numbers)} seeds for {images} labels; give one each, or the first of consecutive ones")
    check_range(min(numbers), max(numbers), f"{RANDOM} asks for a random one")
    return numbers


def check_range(first: int, last: int, hint: str = "a series must be able to go on, so that no random one is drawn") -> None:
    """Compare the least and the largest of several seeds with what seeds may be.

    Raises:
        UsageError: out of range.
    """
    span = f"seeds must lie in 0 to {MAX_SEED} (2^64 − 1)"
    if first < 0:
        raise UsageError(f"{span}, and {first} does not; {hint}")
    if last > MAX_SEED:
        raise UsageError(f"{span}, and {last} does not")


def _drawn() -> int:
    found = secrets.randbits(RANDOM_BITS)
    log.info("random seed %d", found)
    return found
