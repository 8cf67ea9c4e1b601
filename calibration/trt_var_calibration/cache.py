"""Statistics on disk, with what they were taken from: they are refused for other weights or another recipe."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trt_var.bundle.manifest import Manifest, Role
from trt_var.decoding.sampling import Sampling
from trt_var.errors import DataError
from trt_var.files.writing import replacing
from trt_var_calibration.observe import Observed
from trt_var_calibration.statistics import Statistics

SCHEMA = 1
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Recipe:
    """What is drawn, and how much of it was."""

    n_draft: int
    samples: int
    seed: int
    sampling: Sampling
    done: int


class _Provenance(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    weights: str
    recipe: Recipe


def weights_identity(manifest: Manifest) -> str:
    """A digest of where all weights came from; the same for every precision of one pair."""
    origins: list[Any] = [manifest.vae_origin, *((role, model.origin) for role, model in sorted(manifest.models.items()))]
    return hashlib.sha256(msgspec.json.encode(origins, order="sorted")).hexdigest()


def save(path: Path, manifest: Manifest, recipe: Recipe, observed: Observed) -> None:
    """Write statistics; the file appears whole or not at all."""
    provenance = msgspec.json.encode(_Provenance(SCHEMA, weights_identity(manifest), recipe))
    arrays: dict[str, Any] = {"provenance": np.frombuffer(provenance, np.uint8)}
    for role, found in observed.items():
        for name, one in found.items():
            arrays |= {
                f"{role}/{name}/channels": one.channels,
                f"{role}/{name}/histogram": one.histogram,
                f"{role}/{name}/edge": np.float64(one.edge),
                f"{role}/{name}/rows": one.rows,
                f"{role}/{name}/seen": np.array([one.seen, one.stride]),
            }
    with replacing(path) as file:
        np.savez(file, **arrays)


def load(path: Path, manifest: Manifest) -> tuple[Recipe, Observed]:
    """Read statistics that belong to a bundle's weights.

    Raises:
        DataError: not such a file, damaged, or of other weights.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES} bytes: not calibration statistics")
        with np.load(path, allow_pickle=False) as arrays:
            provenance = msgspec.json.decode(arrays["provenance"].tobytes(), type=_Provenance)
            if provenance.schema != SCHEMA:
                raise DataError(f"{path} is of another version; calibrate again")
            if not 0 < provenance.recipe.done <= provenance.recipe.samples:
                raise DataError(f"{path} counts more images than were to be drawn, or none: damaged; calibrate again")
            if provenance.weights != weights_identity(manifest):
                raise DataError(f"{path} was taken from other weights than this bundle's; calibrate this one")
            observed: Observed = {}
            for key in (key for key in arrays.files if key.endswith("/channels")):
                prefix = key.removesuffix("/channels")
                role, _, name = prefix.partition("/")
                one = Statistics(len(arrays[key]))
                one.channels, one.histogram, one.rows = (
                    arrays[f"{prefix}/{part}"] for part in ("channels", "histogram", "rows")
                )
                one.edge = float(arrays[f"{prefix}/edge"])
                one.seen, one.stride = arrays[f"{prefix}/seen"].tolist()
                observed.setdefault(msgspec.convert(role, Role), {})[name] = one
            return provenance.recipe, observed
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DataError(f"{path} does not hold calibration statistics ({error})") from error
