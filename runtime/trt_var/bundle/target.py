"""Where a new bundle goes."""

from __future__ import annotations

from pathlib import Path

from trt_var.bundle.manifest import FILE_NAME
from trt_var.errors import BundleExistsError


def check_bundle_target(out: Path, force: bool) -> None:
    """Refuse to write a bundle over anything but an older one, and that only with ``force``.

    Raises:
        BundleExistsError: something is there.
    """
    if out.exists() and not force:
        raise BundleExistsError(f"{out} exists; choose another --out, or --force to replace the bundle there")
    if out.exists() and not (out / FILE_NAME).is_file():
        raise BundleExistsError(f"{out} exists and is no bundle; --force replaces bundles only")
