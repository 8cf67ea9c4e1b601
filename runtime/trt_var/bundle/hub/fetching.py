"""A bundle from the hub: its manifest, what that promises, then the files that it names, into the client's own cache."""

from __future__ import annotations

import inspect
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from trt_var.bundle import manifest as manifests
from trt_var.bundle.hub.address import Address
from trt_var.bundle.hub.client import is_final, library, said, told
from trt_var.bundle.manifest import File, Manifest
from trt_var.errors import BundleError

log = logging.getLogger(__name__)
MAX_FILES = 1000
MAX_TOTAL = 128 << 30  # bytes; d36 in float32 takes 10
AT_ONCE = 4  # downloads
MOMENT = 2.0  # seconds in which those that are stopped may remove what they have


def fetch(address: Address) -> tuple[Path, Address]:
    """The folder with a bundle's files, and its address at the commit that the revision stands for.

    A commit that lies in the cache is taken from there without a word to the hub; so is, where the hub does not answer, what
    a branch stood for last.

    Raises:
        BundleError: the client is not installed; no such repository, revision or bundle; no network; more or larger files
            than a bundle has; what the hub holds is not what the manifest says.
    """
    hub = library()
    with told("load", address):
        file = _manifest(hub, address)
        fixed = address.at(_commit(address, file))
        if not (address.pinned or address.revision == fixed.revision):
            _warn(address, fixed)
        manifest = manifests.decode(file.read_bytes(), str(fixed))
        _check_bounds(fixed, manifest)
        missing = {name: entry for name, entry in manifest.files.items() if not _is_there(file.with_name(name), entry)}
        if missing:
            _compare(hub, fixed, missing)
            _download(hub, fixed, file.parent, missing)
        log.info("%s is in %s", fixed, file.parent)
    return file.parent, fixed


@cache
def _warn(address: Address, fixed: Address) -> None:
    """Once a process; a command may open a bundle twice."""
    log.warning("%s is %s now, and may be another tomorrow; pin it: %s", address, fixed.revision[:12], fixed)


def _manifest(hub: Any, address: Address) -> Path:
    """The manifest in the cache, fetched if need be."""
    name = address.inside(manifests.FILE_NAME)
    if address.pinned and isinstance(cached := _cached(hub, address), str):
        return Path(cached)
    try:
        found = hub.get_hf_file_metadata(hub.hf_hub_url(address.repository, name, revision=address.revision))
    except Exception as error:
        if is_final(error) or not isinstance(cached := _cached(hub, address), str):
            raise
        log.warning("%s: the hub does not answer (%s); taken from the cache as it was last", address, said(error))
        return Path(cached)
    if found.size is None or found.size > manifests.MAX_BYTES:
        raise BundleError(
            f"{address}: manifest.json has {found.size} bytes, expected at most {manifests.MAX_BYTES}; refused"
        )
    file = Path(_downloaded(hub, address, name))
    # the client asks again, and takes what it has where it hears nothing: perhaps what the branch was before
    if found.commit_hash and _commit(address, file) != found.commit_hash:
        file = Path(_downloaded(hub, address.at(found.commit_hash), name))
    return file


def _commit(address: Address, file: Path) -> str:
    """Of a manifest in the cache: snapshots/COMMIT/folder/manifest.json."""
    return file.parents[address.inside("").count("/")].name


def _cached(hub: Any, address: Address) -> Any:
    return hub.try_to_load_from_cache(address.repository, address.inside(manifests.FILE_NAME), revision=address.revision)


def _check_bounds(address: Address, manifest: Manifest) -> None:
    """Before anything is downloaded."""
    count, total = len(manifest.files), sum(file.size for file in manifest.files.values())
    if count > MAX_FILES or total > MAX_TOTAL:
        raise BundleError(
            f"{address} names {count} files of {total / 1e9:.0f} GB together, expected at most {MAX_FILES} of "
            f"{MAX_TOTAL / 1e9:.0f} GB; refused"
        )


def _is_there(path: Path, entry: File) -> bool:
    return path.is_file() and path.stat().st_size == entry.size


def _compare(hub: Any, address: Address, missing: dict[str, File]) -> None:
    """What the hub says of its files, against the manifest: a bundle that is not whole is not fetched in part.

    It knows the sha256 of files in large storage alone; all are hashed when they are first used, as any bundle's.
    """
    paths = [address.inside(name) for name in missing]
    listed = hub.HfApi().get_paths_info(address.repository, paths, revision=address.revision)
    found = {one.path: one for one in listed if hasattr(one, "size")}
    for name, entry in missing.items():
        one = found.get(address.inside(name))
        if one is None:
            raise BundleError(f"{address} has no {name}, which its manifest names; it was not uploaded whole")
        sha256 = one.lfs.sha256 if one.lfs else entry.sha256
        if (one.size, sha256) != (entry.size, entry.sha256):
            raise BundleError(
                f"{name} in {address} is not what the manifest says: {one.size} bytes, sha256 {sha256[:12]}…, expected "
                f"{entry.size}, {entry.sha256[:12]}…; upload the bundle again"
            )


def _download(hub: Any, address: Address, folder: Path, missing: dict[str, File]) -> None:
    total, free = sum(entry.size for entry in missing.values()), shutil.disk_usage(folder).free
    if total > free:
        raise BundleError(
            f"{address} needs {total / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; make room or set HF_HOME"
        )
    log.info("fetching %d files of %s, %.1f MB", len(missing), address, total / 1e6)

    stop = threading.Event()
    options = _stoppable(hub, stop)

    def get(name: str) -> None:
        # a file that is there has another size: the client would leave it
        _downloaded(hub, address, address.inside(name), again=(folder / name).exists(), **options)

    _side_by_side(get, missing, stop)


def _stoppable(hub: Any, stop: threading.Event) -> dict[str, Any]:
    """What ends a transfer at its next block: a progress bar that raises; the client removes what it has then."""
    if "tqdm_class" not in inspect.signature(hub.hf_hub_download).parameters:  # before 1.0
        return {}

    def update(self: Any, n: float | None = 1) -> Any:
        if stop.is_set():
            raise InterruptedError("another file failed, or Ctrl-C")
        return hub.utils.tqdm.update(self, n)

    return {"tqdm_class": type("Bar", (hub.utils.tqdm,), {"update": update})}


def _side_by_side(work: Callable[[str], None], names: Iterable[str], stop: threading.Event) -> None:
    """In threads that are not waited for at a failure or Ctrl-C, but for a moment: a block of a file may take long."""
    todo, ended = deque(names), SimpleQueue[BaseException | None]()

    def run() -> None:
        while True:
            try:
                name = todo.popleft()
            except IndexError:
                return
            try:
                work(name)
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

    count = len(todo)
    threads = [threading.Thread(target=run, name="hub", daemon=True) for _ in range(min(AT_ONCE, count))]
    for one in threads:
        one.start()
    try:
        for _ in range(count):
            if error := ended.get():
                raise error
    finally:
        todo.clear()  # what has not begun does not
        stop.set()
        until = time.monotonic() + MOMENT
        for one in threads:
            one.join(max(0.0, until - time.monotonic()))


def _downloaded(hub: Any, address: Address, path: str, again: bool = False, **options: Any) -> str:
    found: str = hub.hf_hub_download(
        address.repository, path, revision=address.revision, force_download=again, library_name="trt-var", **options
    )
    return found
