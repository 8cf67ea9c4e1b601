"""``hf://owner/name@revision/folder``: where on the hub a bundle is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from trt_var.errors import UsageError

SCHEME = "hf:"
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
FORM = "expected hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/folder"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
# refs/pr/1 has strokes of its own; so may branches, written as %2F
_ADDRESS = re.compile(rf"//?(?P<name>{_PART}/{_PART})(?:@(?P<revision>refs/pr/[0-9]+|[^/@]+))?(?P<folder>(?:/[^/]+)*)/?")


@dataclass(frozen=True)
class Address:
    """A folder of a repository at a revision.

    Attributes:
        repository: owner and name.
        revision: a commit, a branch or a tag.
        folder: below the repository's root, or nothing.
    """

    repository: str
    revision: str = MAIN
    folder: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, and stays what it is."""
        return COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Address:
        """The same place at a commit."""
        return replace(self, revision=commit)

    def inside(self, name: str) -> str:
        """A file's path in the repository."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        revision = self.revision if self.revision.startswith("refs/pr/") else quote(self.revision, safe="")
        return f"hf://{self.repository}@{revision}{folder}"


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address on the hub; ``pathlib`` leaves one stroke of it, on Windows the other one."""
    return os.fspath(path).replace("\\", "/").startswith(f"{SCHEME}/")


def parsed(path: str | os.PathLike[str]) -> Address:
    """The parts of an address.

    Raises:
        UsageError: it has another form, or would lead out of the repository.
    """
    text = os.fspath(path).replace("\\", "/")
    found = _ADDRESS.fullmatch(text.removeprefix(SCHEME))
    revision = unquote((found and found["revision"]) or MAIN)
    folder = found["folder"].strip("/") if found else ""
    if not found or not _is_plain(revision) or not (folder == "" or _is_plain(folder)):
        raise UsageError(f"{text[:200]!r} is no address on the hub; {FORM}")
    return Address(found["name"], revision, folder)


def short_name(path: str | os.PathLike[str]) -> str:
    """What clients call a bundle: its repository, or its folder.

    Raises:
        UsageError: an address of another form.
    """
    return parsed(path).repository.partition("/")[2] if is_address(path) else Path(path).resolve().name


def _is_plain(path: str) -> bool:
    """Whether a path stays below where it begins, and has nothing that a terminal or a URL takes otherwise."""
    parts = path.split("/")
    return path.isprintable() and not set("\\:?#*") & set(path) and not any(part in ("", ".", "..") for part in parts)
