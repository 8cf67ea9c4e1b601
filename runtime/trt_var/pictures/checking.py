"""Looking through very many pictures, before work that takes hours stumbles over one of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trt_var.errors import DataError
from trt_var.pictures.reading import probe

MAX_THREADS = 16  # the reader waits for the disk, or decodes outside Python's lock
PIECE = 1024  # pictures that are handed to the threads at a time


def unreadable(
    paths: Sequence[Path],
    decode: bool = False,
    progress: Callable[[int], object] | None = None,
    sizes: Counter[tuple[int, int]] | None = None,
) -> list[str]:
    """What is wrong with those of many pictures that ``read_picture`` would refuse, in the order of the paths.

    Args:
        paths: of pictures.
        decode: every pixel of them, not the headers and ends alone; see ``probe``.
        progress: called with how many more have been looked at.
        sizes: counts widths and heights, if given.
    """

    def look(path: Path) -> tuple[int, int] | str:
        try:
            return probe(path, decode)
        except DataError as error:
            return str(error)

    broken = []
    with ThreadPoolExecutor(min(MAX_THREADS, (os.cpu_count() or 1) + 4)) as threads:
        for start in range(0, len(paths), PIECE):
            piece = paths[start : start + PIECE]
            for found in threads.map(look, piece):
                if isinstance(found, str):
                    broken.append(found)
                elif sizes is not None:
                    sizes[found] += 1
            if progress:
                progress(len(piece))
    return broken
