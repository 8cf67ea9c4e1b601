"""The order of a series for evaluators that look at stretches of it: as good as random, and every class soon again.

The ADM evaluator takes its Inception Score over runs of 5000 images. Sorted by class, a run holds few classes and the score
collapses; in strict turns, every run is more even than a random one and the score comes out too high. So the order is
random, and the few classes that a stretch happens to lack are put into it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ROUNDS = 5  # blocks are at most so many images a class long, so that any stretch of twice that contains a whole block
KEY = np.array([0x61646D, 0x6D6978], np.uint64)  # of the random numbers; part of what the order is


def by_class(num: int, classes: int) -> NDArray[np.int64]:
    """The classes of ``num`` images, rising, of each as many as of any other, or one more: [num]."""
    return np.arange(num, dtype=np.int64) * classes // num


def mixed(num: int, classes: int) -> NDArray[np.int64]:
    """The order in which the images of ``by_class`` are written: their positions there, [num].

    It depends on the two numbers alone. Any 2 · ROUNDS · classes consecutive images hold all classes that there are.
    """
    # the raw numbers of a bit generator are the same in all versions of NumPy, those of its permutation() need not be
    order = np.argsort(np.random.Philox(key=KEY).random_raw(num), kind="stable")
    if num >= ROUNDS * classes:
        _spread(order, by_class(num, classes), classes)
    return order


def _spread(order: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> None:
    """Exchange images of an order in place until every block of it holds every class."""
    count = -(-len(order) // (ROUNDS * classes))
    bounds = np.arange(count + 1) * len(order) // count
    blocks = [order[start:stop] for start, stop in pairwise(bounds)]
    held = np.stack([np.bincount(labels[block], minlength=classes) for block in blocks])
    for here, missing in np.argwhere(held == 0):
        if held[here, missing]:  # an earlier exchange brought one
            continue
        there, spare = held[:, missing].argmax(), held[here].argmax()  # two or more are held of each, so none goes missing
        given = np.flatnonzero(labels[blocks[there]] == missing)[0]
        taken = np.flatnonzero(labels[blocks[here]] == spare)[0]
        blocks[there][given], blocks[here][taken] = blocks[here][taken], blocks[there][given]
        held[[here, there], missing] += [1, -1]
        held[[there, here], spare] += [1, -1]
