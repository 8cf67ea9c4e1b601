"""Building a bundle: checkpoints → checked ONNX graphs, condition tables and a manifest."""

from __future__ import annotations

from pathlib import Path

from trt_var.backends.installed import needed
from trt_var.bundle.manifest import FILE_NAME
from trt_var.bundle.target import check_bundle_target
from trt_var.errors import UsageError
from trt_var.files.paths import expanded
from trt_var.files.writing import appearing
from trt_var_export.recipe import Progress, Recipe, Silent

MAX_TOP_K = 3840  # TensorRT's TopK takes no more


def build(recipe: Recipe, progress: Progress | None = None) -> Path:
    """Build a bundle into ``recipe.out``; it appears there complete or not at all.

    Raises:
        UsageError: the recipe contradicts itself, or the target exists.
        CheckpointError: weights missing, damaged, not finite, beyond the precision's range, or of models that do not belong
            together; a file with several models and no key.
        BackendError: the ``export`` extra is not installed, or broken.
        ExportError: a graph disagrees with the torch model.
        OutputError: the target cannot be written.
    """
    check(recipe)
    with needed("building needs PyTorch and ONNX, and one of them", ("torch", "onnx"), "pip install 'trt-var[export]'"):
        from trt_var_export.workshop import Workshop  # imports torch; a bad request is told without it

    workshop = Workshop.open(recipe, progress or Silent())
    with appearing(recipe.out, last=FILE_NAME) as folder:
        workshop.fill(folder)
    return expanded(recipe.out)


def check(recipe: Recipe) -> None:
    """Refuse before anything is fetched or traced.

    Raises:
        UsageError: a value out of range or an empty name; BundleExistsError: something lies at ``recipe.out``.
        OutputError: nothing can be written there.
    """
    for option, name in {"drafter": recipe.drafter, "refiner": recipe.refiner, "vae": recipe.vae}.items():
        if name is not None and not name.strip():
            plain = "; leave --refiner out for plain VAR" if option == "refiner" else ""
            raise UsageError(f"--{option} is empty; give a released name, a file or random weights{plain}")
    if recipe.refiner is None and recipe.refiner_key is not None:
        raise UsageError("--refiner-key looks into the refiner's file; give --refiner too")
    if not 1 <= recipe.max_top_k <= MAX_TOP_K:
        raise UsageError(f"--max-top-k is {recipe.max_top_k}; expected 1 to {MAX_TOP_K}, what TensorRT's TopK takes")
    if recipe.finetuned is not None and recipe.refiner is None:
        raise UsageError("--finetuned names a pair; give --refiner d16 too")
    check_bundle_target(recipe.out, recipe.force)
