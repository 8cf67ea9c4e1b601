"""Graphs for engines that take weights from the graph's own folder alone, and follow no link out of it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_var.bundle import external
from trt_var.files.paths import UNFINISHED

log = logging.getLogger(__name__)


@contextmanager
def beside_weights(path: Path) -> Iterator[Path]:
    """A graph's path, or, if links lead out of its folder, that of a copy which lies where its weights are, for a while.

    In a store that cannot be written, the weights are copied too, into the system's folder for temporary files.

    Raises:
        OSError: neither can be written.
    """
    linked = external.through_link(path)
    if linked is None or path.parent.resolve() in linked[1].parents:
        yield path
        return
    data, weights = linked
    staged = weights.with_name(f".graph{UNFINISHED}{secrets.token_hex(4)}.onnx")
    try:
        try:
            staged.write_bytes(external.relocated(data, weights.name))
        except OSError as error:
            if os.access(weights.parent, os.W_OK):  # full
                raise
            with tempfile.TemporaryDirectory(prefix="trt-var-") as folder:
                size = weights.stat().st_size / 1e6
                log.warning("%s cannot be written (%s): %.0f MB copied to %s", weights.parent, error.strerror, size, folder)
                copied = Path(folder) / path.name
                copied.write_bytes(external.relocated(data, "weights"))
                shutil.copyfile(weights, copied.with_name("weights"))
                yield copied
            return
        yield staged
    finally:
        staged.unlink(missing_ok=True)
