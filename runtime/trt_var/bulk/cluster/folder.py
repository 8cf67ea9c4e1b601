"""The folder that the driver fills: what it holds, what it lacks, and who may add to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trt_var.bulk.cluster.worker import Proof
from trt_var.bulk.recipe import RECIPE, Bulk, Drawer, Recipe, Series, agreed, check_new, differences, read_recipe, recipe_of
from trt_var.bulk.shards import Progress, Shape, Shards
from trt_var.bundle.manifest import Manifest, identity
from trt_var.errors import UsageError
from trt_var.requests.checking import Run

OF_MACHINES = ("backend", "batch_size")  # what a recipe has of the machine that drew


class Folder:
    """A folder of shards, claimed already.

    Attributes:
        shards: how they are kept.
        recipe: None until the first machine has proved itself, in a new folder.
        series: labels and seeds; there when the recipe is.

    Raises:
        UsageError: it holds other images, or something else.
    """

    def __init__(self, out: Path, manifest: Manifest, bulk: Bulk, checked: Run, alone: bool) -> None:
        self._out, self._manifest, self._bulk, self._checked = out, manifest, bulk, checked
        self.shards = Shards(out, Shape.of(manifest))
        self.recipe: Recipe | None = None
        self._probe: str | None = None
        if not (out / RECIPE).exists():
            check_new(out)
            return
        found = read_recipe(out)
        wanted = self._wanted(Drawer(found.backend, False, alone))
        different = differences(found, wanted, but=("order", "probe", *OF_MACHINES))
        if different:
            raise UsageError(f"{out} holds other images: {different}; choose another folder")
        self._begin(found)

    def objection(self, proof: Proof) -> str | None:
        """Why a machine may not draw for this folder; the first one that may begins a new folder."""
        if proof.bundle != identity(self._manifest):
            return "its bundle is another one; copy the bundle of this machine there, to the same path"
        wanted = self._wanted(proof.drawer)
        if self.recipe is None:
            self._begin(agreed(self._out, wanted, lambda: proof.probe))
        found = self.recipe
        if found is not None:
            for name in OF_MACHINES:
                there, here = getattr(found, name), getattr(wanted, name)
                if there != here:
                    return f"its {name} is {here}, that of the series {there}"
        if self._probe not in (None, proof.probe):
            return f"its arithmetic differs: probe {proof.probe[:12]}, that of the series {str(self._probe)[:12]}"
        self._probe = proof.probe
        return None

    def missing(self, progress: Progress | None) -> Iterator[int]:
        """The shards that are still to be drawn, each looked at when it is asked for."""
        for index in self._bulk.own:
            labels, seeds = self.series[index]
            if not self.shards.holds(index, labels, seeds):
                yield index
            elif progress:
                progress(len(seeds))

    def _begin(self, recipe: Recipe) -> None:
        self.recipe, self._probe = recipe, recipe.probe
        self.series = Series(self._bulk, self._manifest.classes, recipe.order)

    def _wanted(self, drawer: Drawer) -> Recipe:
        return recipe_of(self._manifest, drawer, self._bulk, self._checked, "shards")
