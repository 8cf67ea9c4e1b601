"""FID and Inception Score of a pipeline's pictures through torch-fidelity."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trt_var.backends.failures import reason
from trt_var.backends.installed import needed
from trt_var.bulk import Bulk, sample_pictures
from trt_var.errors import BackendError, DataError, UsageError
from trt_var.pipeline import Pipeline
from trt_var.quality.references import References, look
from trt_var.quality.samples import Progress, Series

log = logging.getLogger(__name__)
SHARED = Path("/dev/shm")  # noqa: S108  where PyTorch's loaders hand pictures on
IN_FLIGHT = 10 * 64  # pictures: of four loaders two batches of 64 each, one more on either side
Say = Callable[[str], object]


def fidelity(
    real: Path,
    pipeline: Pipeline,
    series: Series,
    progress: Progress | None = None,
    drawings: Path | None = None,
    resize: bool = False,
    say: Say = log.info,
) -> dict[str, float]:
    """FID and Inception Score by torch-fidelity, which fetches the Inception weights once.

    The real pictures are looked at before the first is drawn, and what is drawn outlives whatever fails.

    Args:
        real: a folder of real pictures, or of folders of them.
        drawings: a folder for the drawn pictures, which stay there; one of an earlier run of the same is gone on with.
            Without it, a temporary folder, which stays only if something fails.
        resize: cut real pictures to squares of the drawn ones' size, as references of mixed sizes need.
        say: called with what is found and where the drawings lie.

    Raises:
        BackendError: torch-fidelity is not installed, or failed.
        UsageError: no such folder; or ``drawings`` holds something else.
        DataError: pictures that the metric would stumble over.
        OutputError: the drawings cannot be written.
    """
    metric, cuda = _torch_fidelity()
    _check_apart(real, drawings)
    references, side = look(real), pipeline.manifest.image_side
    say(f"{real}: {references}")
    _check_sizes(real, references, side, resize)
    bulk = Bulk(len(series.labels(pipeline)), series.seed, series.n_draft, series.sampling, series.batch_size)
    with _kept(drawings, say) as folder:
        count = sample_pictures(pipeline, bulk, folder, progress)
        options = {
            "samples_find_deep": references.deep,
            "samples_resize_and_crop": side if resize else 0,
            "save_cpu_ram": _loads_alone(side**2 if resize else max(side**2, references.largest)),
        }
        try:
            found = metric(input1=str(folder), input2=str(real), isc=True, fid=True, cuda=cuda, verbose=False, **options)
            return {name: float(value) for name, value in found.items()}
        except Exception as error:  # of torch, of a download, of whatever the metric calls
            raise BackendError(
                f"torch-fidelity failed ({type(error).__name__}: {reason(error)}); the {count} drawings are kept in {folder}"
                f": the same command with --drawings {folder} goes on without drawing them again"
            ) from error


def _torch_fidelity() -> tuple[Callable[..., Any], bool]:
    """The metric, and whether it can use a GPU."""
    with needed("these metrics need torch-fidelity, which", ("torch_fidelity", "torch"), "pip install 'trt-var[metrics]'"):
        import torch  # the extra metrics
        from torch_fidelity import calculate_metrics
    return calculate_metrics, torch.cuda.is_available()


def _check_apart(real: Path, drawings: Path | None) -> None:
    if drawings:
        here, there = drawings.resolve(), real.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise UsageError(f"{drawings} and {real} lie in each other; the drawings need a folder of their own")


def _check_sizes(real: Path, references: References, side: int, resize: bool) -> None:
    if resize:
        return
    if len(references.sizes) > 1:
        raise DataError(
            f"{real} holds {references}; the metric takes one size: give pictures of one, or --resize to cut them all to "
            f"{side}×{side}"
        )
    (size,) = references.sizes
    if size != (side, side):
        log.warning("the pictures in %s are %d×%d, the drawn ones %d×%d; --resize cuts to these", real, *size, side, side)


def _loads_alone(pixels: int) -> bool:
    """Whether the shared memory is too small for loading processes, so that the metric has to load by itself."""
    needed = IN_FLIGHT * 3 * pixels
    if not SHARED.is_dir() or shutil.disk_usage(SHARED).free > needed:
        return False
    log.warning("%s has less than %d MB free: pictures are loaded by one process, which takes longer", SHARED, needed >> 20)
    return True


@contextmanager
def _kept(drawings: Path | None, say: Say) -> Iterator[Path]:
    """The folder of the drawings; a temporary one goes only when all went well, or nothing was drawn."""
    if drawings:
        yield drawings
        return
    folder = Path(tempfile.mkdtemp(prefix="trt-var-drawings-"))
    say(f"{folder}: the drawings, until the figures are there; --drawings DIR keeps them elsewhere and for longer")
    try:
        yield folder
    except BaseException as error:  # Ctrl-C too
        if not any(folder.glob("*.png")):
            shutil.rmtree(folder, ignore_errors=True)
        elif str(folder) not in str(error):
            log.warning("what is drawn is kept in %s; --drawings %s goes on with it", folder, folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)
