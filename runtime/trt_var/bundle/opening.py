"""Opening a bundle: names are plain ones, every file is checked before anything reads it.

A file may be a link, as in the Hugging Face cache, DVC or a mounted Kubernetes volume: what it leads to is compared with the
manifest as any other file.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_var.bundle import external
from trt_var.bundle import manifest as manifests
from trt_var.bundle.hub.address import is_address, parsed
from trt_var.bundle.manifest import Graph, Manifest, Role
from trt_var.bundle.packaged import packaged
from trt_var.bundle.verified import Stamp, Verified
from trt_var.errors import BundleError
from trt_var.files import arrays
from trt_var.files.paths import AnyPath, expanded, followed
from trt_var.schedule import Schedule

log = logging.getLogger(__name__)
BLOCK = 1 << 22
MAX_GRAPH = 64 << 20
PACKAGED = Path(__file__).parent


class Bundle:
    """A folder with a manifest and the files that it names.

    Attributes:
        path: the folder.
        manifest: its checked description.
        schedule: the patch sides as a Schedule.
        source: the address that it was fetched from, with the commit; None for a folder.
    """

    def __init__(self, path: Path, manifest: Manifest, verify: bool = False, source: str | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.source = source
        self.schedule = Schedule(manifest.schedule)
        self._verified = Verified(path, trusted=not verify)
        self._checked: set[str] = set()
        self._locks = {name: threading.Lock() for name in manifest.files}

    @classmethod
    def open(cls, path: AnyPath, *, verify: bool = False) -> Bundle:
        """Read and check the manifest. Sizes are compared now, hashes when a file is first used.

        Args:
            path: a bundle's folder, or ``digits``, the one inside the package, where no folder has that name; ``~`` is
                written out, and a link followed once, so that what is read later is of the same bundle. Or an address on
                the hub, ``hf://owner/name@revision/folder``, of which the last two may be left out (docs/bundle.md).
            verify: hash large files even if they are as they were when they were last found whole (see ``verified``).

        Raises:
            BundleError: no bundle there, a newer schema, a file missing or of another size; or it cannot be fetched.
            UsageError: an address of another form.
        """
        source = None
        if is_address(path):
            from trt_var.bundle.hub.fetching import fetch  # for those who name an address

            path, address = fetch(parsed(path))
            source = str(address)
        path = expanded(path)
        try:
            if not path.exists() and path == Path("digits"):
                path = packaged("digits")
            file = path / manifests.FILE_NAME
            if not file.is_file():
                raise BundleError(
                    f"no bundle at {path} (no {manifests.FILE_NAME}): --engines digits needs none, and "
                    f"trt-var build --drafter d30 --refiner d16 --out {path} makes one"
                )
            if file.stat().st_size > manifests.MAX_BYTES:
                raise BundleError(f"{file} is larger than {manifests.MAX_BYTES} bytes: not a manifest")
            bundle = cls(followed(path), manifests.decode(file.read_bytes(), str(file)), verify, source)
            for name in bundle.manifest.files:
                bundle._check_size(name)
        except OSError as error:
            raise BundleError(f"cannot read the bundle {path}: {error.strerror or error}") from error
        return bundle

    def file(self, name: str) -> Path:
        """The path of a file whose sha256 has been compared with the manifest.

        Raises:
            BundleError: the content is not what the manifest says, or cannot be read.
        """
        try:
            return self._check_content(name)
        except OSError as error:
            raise BundleError(f"cannot read {self.path / name}: {error.strerror or error}") from error

    def _check_content(self, name: str) -> Path:
        path, expected = self._check_size(name), self.manifest.files[name].sha256
        with self._locks[name]:
            if name in self._checked:
                return path
            if not self._verified.holds("sha256", path, expected):
                before = Stamp.of(path)
                found = file_sha256(path)
                if found != expected:
                    again = (
                        f"remove {path.resolve()} and load {self.source} again" if self.source else "copy the bundle again"
                    )
                    raise BundleError(f"{path} was altered: sha256 {found[:12]}…, expected {expected[:12]}…; {again}")
                self._verified.keep("sha256", path, expected, before)
            self._checked.add(name)
        return path

    def graph(self, graph: Graph) -> Path:
        """The path of a graph, itself and its weights checked.

        Raises:
            BundleError: the content is not what the manifest says, or the graph reads another file than its weights.
        """
        self.file(graph.weights)
        path = self.file(graph.onnx)
        try:
            if path.stat().st_size > MAX_GRAPH:
                raise BundleError(f"{path} is larger than {MAX_GRAPH} bytes: no graph beside its weights; build it again")
            read = external.locations(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} is not an ONNX graph ({error}); build the bundle again") from error
        if not read <= {graph.weights}:
            other = min(read - {graph.weights})[: manifests.MAX_NAME]
            raise BundleError(f"{path} reads weights from {other!r} instead of {graph.weights}; refused, build it again")
        return path

    def verify(self) -> None:
        """Compare every file's sha256, as far as ``file`` has not.

        Raises:
            BundleError: for the first file that differs.
        """
        for name in self.manifest.files:
            self.file(name)

    def conditions(self, role: Role) -> NDArray[np.floating]:
        """The class table of a model, memory-mapped, [classes + 1, M, C]; the last row is the null class.

        Raises:
            BundleError: damaged, of another shape, or with values that are not finite.
        """
        model = self.manifest.models[role]
        path = self.file(model.conditions)
        try:
            table: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
        except arrays.UNREADABLE as error:
            raise BundleError(f"{path} is not a condition table ({error}); build the bundle again") from error
        expected = (self.manifest.classes + 1, model.vectors, model.width)
        if not isinstance(table, np.memmap):
            raise BundleError(f"{path} is not a condition table (an archive of arrays); build the bundle again")
        if table.shape != expected or table.dtype.kind != "f":
            raise BundleError(f"{path} has shape {table.shape} {table.dtype}, expected {expected} of floats")
        self._check_finite(path, table)
        return table

    def _check_finite(self, path: Path, table: NDArray[np.floating]) -> None:
        sha256 = self.manifest.files[path.name].sha256
        if self._verified.holds("finite", path, sha256):
            return
        before = Stamp.of(path)
        if not arrays.all_finite(path, table, getattr(table, "offset", 0)):
            raise BundleError(f"{path} holds values that are not finite; build the bundle again")
        self._verified.keep("finite", path, sha256, before)

    def class_names(self) -> list[str]:
        """One line of comma-separated names a class, or an empty list.

        Raises:
            BundleError: the file is no text, or has not a line a class.
        """
        name = self.manifest.class_names
        if not name:
            return []
        path = self.file(name)
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is no list of class names ({error}); build the bundle again") from error
        if len(names) != self.manifest.classes:
            raise BundleError(f"{path} names {len(names)} classes, expected {self.manifest.classes}; build the bundle again")
        return names

    def _check_size(self, name: str) -> Path:
        path, entry = self.path / name, self.manifest.files[name]
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            state = "is missing" if size is None else f"has {size} bytes, expected {entry.size}"
            raise BundleError(f"{path} {state}; build or copy the bundle again")
        return path


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
