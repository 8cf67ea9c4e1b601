"""Where a new bundle goes."""

from __future__ import annotations

from pathlib import Path

from trt_var.bundle.manifest import FILE_NAME
from trt_var.errors import BundleExistsError, OutputError
from trt_var.files.outputs import check_targets
from trt_var.files.paths import contents, expanded, followed


def check_bundle_target(out: Path, force: bool) -> None:
    """Refuse to write a bundle over anything but an older one, and that only with ``force``; an empty folder is nothing.

    Raises:
        BundleExistsError: something is there.
        OutputError: nothing can be written there.
    """
    try:
        place = followed(expanded(out))
        there = contents(place) if place.is_dir() else [place.name] if place.exists() else []
    except OSError as error:
        raise OutputError(f"cannot write {str(out)[:120]}: {error.strerror or error}") from error
    if there and not force:
        raise BundleExistsError(f"{out} exists; choose another --out, or --force to replace the bundle there")
    if there and not (place / FILE_NAME).is_file():
        what = f"holds {there[0]} and is no bundle" if place.is_dir() else "exists and is no bundle"
        raise BundleExistsError(f"{out} {what}; --force replaces bundles only")
    check_targets(folders=[out])
