"""A bundle onto the hub: one commit, which is there whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_var.bundle import manifest as manifests
from trt_var.bundle.hub.address import MAIN, Address, parsed
from trt_var.bundle.hub.client import library, told
from trt_var.bundle.manifest import Manifest, identity
from trt_var.bundle.opening import Bundle
from trt_var.bundle.sharing import card
from trt_var.errors import BundleError, BundleExistsError, UsageError

log = logging.getLogger(__name__)
OWN = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "LICENSE.md", card.NAME}  # of any repository
MAX_MESSAGE = 500
MAX_CARD = 1 << 20
KEPT = "the README.md in %s is somebody's own, and may tell of another bundle; it stays. To replace it, put one at %s"


@dataclass(frozen=True)
class _There:
    """What the hub has: the head of the branch, its files, the manifest of the bundle among them; whether it is new."""

    commit: str
    files: frozenset[str]
    manifest: Manifest | None
    new: bool


def push(bundle: Bundle, name: str, *, revision: str = MAIN, private: bool = False, message: str = "") -> Address:
    """Upload the files that a bundle's manifest names, the manifest, and a model card.

    The card is the folder's ``README.md``; without one it is written, unless the repository has one that was not. Every
    file is hashed first. A bundle that is there is replaced, and files that only it named go; what else lies in the
    repository stays. TensorRT engines belong to one machine and are not uploaded.

    Args:
        bundle: opened; with ``verify``, so that large files are hashed again.
        name: ``owner/name``; made if it is not there.
        revision: a branch; made if it is not there.
        private: of a repository that is made; one that is there must be so.
        message: of the commit.

    Returns:
        Its address at the commit, to be pinned.

    Raises:
        UsageError: the name or the revision cannot be one; ``private``, and the repository is public.
        BundleError: the bundle is damaged, or the hub refuses.
        BundleExistsError: the repository holds something else.
    """
    address = replace(_address(name), revision=revision)
    if parsed(str(address)) != address or address.pinned:
        raise UsageError(f"--revision {revision!r} is no branch; a commit cannot be written to")
    if len(message) > MAX_MESSAGE or not message.isprintable():
        raise UsageError(f"--message takes one line of at most {MAX_MESSAGE} characters")
    bundle.verify()
    hub = library()
    with told("push to", address):
        own = _own_card(hub, bundle)
        api = hub.HfApi()
        there = _prepared(hub, api, address, private)
        names = [*bundle.manifest.files, manifests.FILE_NAME]
        given: dict[str, Any] = {one: bundle.path / one for one in names}
        if card.NAME not in given:
            if own is not None:
                given[card.NAME] = own
            elif card.NAME not in there.files or _is_former_card(hub, address.at(there.commit), there.manifest):
                given[card.NAME] = card.card(bundle, f"hf://{address.repository}").encode()
            else:
                log.warning(KEPT, address.repository, bundle.path / card.NAME)
        former = {*there.manifest.files} if there.manifest else set()
        with _told_of_what_is_left(address, there.new):
            made = api.create_commit(
                address.repository,
                [
                    *(hub.CommitOperationAdd(one, content) for one, content in given.items()),
                    *(hub.CommitOperationDelete(one) for one in sorted((former & there.files) - given.keys() - OWN)),
                ],
                commit_message=message or f"Bundle {identity(bundle.manifest)[:12]}, {bundle.manifest.generator}",
                revision=revision,
                parent_commit=there.commit,
            )
    return address.at(made.oid)


@contextmanager
def _told_of_what_is_left(address: Address, new: bool) -> Iterator[None]:
    try:
        with told("push to", address):
            yield
    except BundleError as error:
        if not new:
            raise
        raise BundleError(
            f"{error}; {address.repository} was made for it, and is empty: push again, or delete it"
        ) from error


def _address(name: str) -> Address:
    """Owner and name, and no more."""
    address = parsed(f"hf://{name.removeprefix('hf://')}")
    if address != Address(address.repository):
        raise UsageError(f"{name[:200]!r} is no repository; expected owner/name, and --revision for a branch")
    return address


def _own_card(hub: Any, bundle: Bundle) -> bytes | None:
    """The folder's own; a link that leads out of it, or out of the hub's cache, would publish a file that nobody meant."""
    path = bundle.path / card.NAME
    if card.NAME in bundle.manifest.files:
        return None  # uploaded as any other
    root = Path(hub.constants.HF_HUB_CACHE) if bundle.source else bundle.path
    if not os.path.lexists(path):
        return None
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{path} is no file of this folder, and would be uploaded; put a copy there or remove it")
    with path.open("rb") as file:
        content = file.read(MAX_CARD + 1)
    if len(content) > MAX_CARD:
        raise BundleError(f"{path} is larger than {MAX_CARD} bytes: not a model card; shorten or remove it")
    return content


def _is_former_card(hub: Any, address: Address, manifest: Manifest | None) -> bool:
    """Whether the card there is what was written for the bundle there, and nobody's own."""
    if manifest is None:
        return False

    def fetched(name: str) -> Path:
        return Path(hub.hf_hub_download(address.repository, name, revision=address.revision))

    there = fetched(card.NAME)
    try:
        for name in filter(None, (manifest.class_names, manifest.report)):  # what a card reads
            fetched(name)
        return card.card(Bundle(there.parent, manifest), f"hf://{address.repository}").encode() == there.read_bytes()
    except (BundleError, hub.errors.EntryNotFoundError):
        return False


def _prepared(hub: Any, api: Any, address: Address, private: bool) -> _There:
    """The branch, made where it is missing; nothing but a bundle lies there."""
    new = False
    try:
        public = not api.repo_info(address.repository).private
    except hub.errors.GatedRepoError:
        raise
    except hub.errors.RepositoryNotFoundError:
        api.create_repo(address.repository, private=private)
        log.info("%s is new, %s", address.repository, "private" if private else "public")
        new, public = True, not private
    if private and public:
        raise UsageError(f"{address.repository} is there, and public; leave --private out, or make it private on the hub")
    try:
        info = api.repo_info(address.repository, revision=address.revision)
    except hub.errors.RevisionNotFoundError:
        api.create_branch(address.repository, branch=address.revision)
        info = api.repo_info(address.repository, revision=address.revision)
    files = frozenset(one.rfilename for one in info.siblings)
    return _There(info.sha, files, _manifest(hub, address.at(info.sha), files), new)


def _manifest(hub: Any, address: Address, files: frozenset[str]) -> Manifest | None:
    """Of the bundle that is there.

    Raises:
        BundleExistsError: files, but no bundle.
    """
    if manifests.FILE_NAME not in files:
        if others := sorted(files - OWN):
            shown = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
            raise BundleExistsError(f"{address} holds something else ({shown}); give another repository or --revision")
        return None
    path = Path(hub.hf_hub_download(address.repository, manifests.FILE_NAME, revision=address.revision))
    try:
        with path.open("rb") as file:
            return manifests.decode(file.read(manifests.MAX_BYTES), f"{address}/{manifests.FILE_NAME}")
    except BundleError as error:
        raise BundleExistsError(
            f"the manifest.json in {address} is none that this version reads, and is not replaced: {error}"
        ) from error
