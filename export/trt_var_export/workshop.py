"""From opened checkpoints to the files of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trt_var import __version__
from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import File, Graph, Manifest, Model, Role
from trt_var.bundle.opening import file_sha256
from trt_var.errors import UsageError
from trt_var_export.graphs import modules as graphs
from trt_var_export.graphs import tracing, verify
from trt_var_export.graphs.conditions import write_conditions
from trt_var_export.graphs.modules import Traceable
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import Vqvae, VqvaeShape
from trt_var_export.recipe import Precision, Progress, Recipe
from trt_var_export.weights import sources
from trt_var_export.weights.architecture import check_belonging, hollow, transformer_shape, unfilled, vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint
from trt_var_export.weights.files.health import examined
from trt_var_export.weights.names import known_names, told_names

OPSET: dict[Precision, int] = {"fp32": 20, "bf16": 20, "fp16": 23}  # TensorRT fuses opset 23's Attention in float16 alone


@dataclass
class Workshop:
    """The opened checkpoints, their shapes, their classes' names, and what is known of the files written so far."""

    recipe: Recipe
    progress: Progress
    checkpoints: dict[Role, Checkpoint]
    shapes: dict[Role, TransformerShape]
    vae: Checkpoint
    vae_shape: VqvaeShape
    names: list[str] | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, recipe: Recipe, progress: Progress) -> Workshop:
        """Open the checkpoints and see that they fit, each by itself and all together.

        Raises:
            UsageError, CheckpointError: see sources.resolve and architecture.
        """
        named: dict[Role, str | None] = {"drafter": recipe.drafter, "refiner": recipe.refiner}
        given = {role: text for role, text in named.items() if text is not None}
        keys = {"drafter": recipe.drafter_key, "refiner": recipe.refiner_key}
        checkpoints = {role: sources.resolve(text, role, recipe.finetuned, keys[role]) for role, text in given.items()}
        vae = sources.resolve(recipe.vae, "vae", key=recipe.vae_key)
        shapes = {role: transformer_shape(checkpoint, role, recipe.schedule) for role, checkpoint in checkpoints.items()}
        scales = shapes["drafter"].schedule.scales
        if recipe.finetuned is not None and not 1 <= recipe.finetuned < scales:
            raise UsageError(f"--finetuned is {recipe.finetuned}; a pair of {scales} scales is tuned for 1 to {scales - 1}")
        vae_shape = vqvae_shape(vae)
        check_belonging(shapes, vae_shape)
        classes, told = shapes["drafter"].classes, recipe.class_names
        names = known_names(checkpoints, classes) if told is None else told_names(told, classes)
        workshop = cls(recipe, progress, checkpoints, shapes, vae, vae_shape, names)
        workshop._examine()
        return workshop

    def _examine(self) -> None:
        """Every weight once, before anything is traced: a build takes minutes."""
        half = self.recipe.precision == "fp16"
        for role, shape in self.shapes.items():
            model = unfilled(shape)
            self.checkpoints[role] = self._examined(self.checkpoints[role], model.to_half() if half else model, role)
        vqvae = unfilled(self.vae_shape)
        self.vae = self._examined(self.vae, vqvae.to_half() if half else vqvae, "vae")

    def _examined(self, checkpoint: Checkpoint, model: nn.Module, what: str) -> Checkpoint:
        kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
        self.progress.stage(f"{what}: weights", len(kinds))
        return examined(checkpoint, kinds, what, self.progress.step)

    def fill(self, folder: Path) -> None:
        """Write every file of the bundle, the manifest last.

        Raises:
            ExportError: a graph cannot be traced or disagrees with the torch model.
        """
        self.report = {"precision": self.recipe.precision, "compared": self.recipe.compare, "scales": [], "vqvae": {}}
        models = {role: self._export_transformer(role, folder) for role in self.shapes}
        parts = self._export_vqvae(folder)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")
        shape = self.shapes["drafter"]
        if self.names:
            (folder / "classes.txt").write_text("".join(f"{line}\n" for line in self.names), encoding="utf-8")
        manifest = Manifest(
            schema=manifests.SCHEMA,
            generator=f"trt-var {__version__}",
            precision=self.recipe.precision,
            schedule=shape.schedule.sides,
            image_side=shape.schedule.side * self.vae_shape.downsampling,
            vocabulary=shape.vocabulary,
            code_width=shape.code_width,
            classes=shape.classes,
            max_top_k=min(self.recipe.max_top_k, shape.vocabulary),
            serves=self._serves(),
            models=models,
            quantiser=tuple(parts[f"quantise_{k:02d}"] for k in range(shape.schedule.scales)),
            smooth=tuple(parts[f"smooth_{k:02d}"] for k in range(shape.schedule.scales)),
            decoder=parts["decoder"],
            encoder=parts["encoder"],
            vae_origin=self.vae.origin,
            vae_channels=self.vae_shape.channels,
            files=self._files(folder),
            class_names="classes.txt" if self.names else None,
            report="report.json",
            one_row=True,
            untruncated=True,
        )
        (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))

    def _serves(self) -> tuple[int, ...]:
        scales = self.shapes["drafter"].schedule.scales
        if self.recipe.finetuned is not None:
            return (self.recipe.finetuned,)
        return tuple(range(scales + 1)) if "refiner" in self.shapes else (scales,)

    def _files(self, folder: Path) -> dict[str, File]:
        names = sorted(path.name for path in folder.iterdir())
        self.progress.stage("checksums", len(names))
        files = {}
        for name in names:
            files[name] = File((folder / name).stat().st_size, self.hashes.get(name) or file_sha256(folder / name))
            self.progress.step()
        return files

    def _export_transformer(self, role: Role, folder: Path) -> Model:
        shape, checkpoint, precision = self.shapes[role], self.checkpoints[role], self.recipe.precision
        model = hollow(shape)
        if precision == "fp16":
            model.to_half()
        graph = graphs.step(role, model, self.recipe.max_top_k)
        short = self._short(unfilled(shape).to_half())
        written = self._write([graph], folder, role, checkpoint.load, hidden=("guided_logits",), short=short)[role]
        self.progress.stage(f"{role}: class table", 1)
        write_conditions(folder / f"{role}.conditions.npy", shape, checkpoint.load, half=precision != "fp32")
        if self.recipe.compare:
            self._compare_step(role, folder)
        else:
            table = folder / f"{role}.conditions.npy"
            verify.check_first_scale(role, folder / f"{role}.logits.onnx", table, shape, precision)
        return Model(
            depth=shape.depth,
            width=shape.width,
            heads=shape.heads,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            step=written,
            logits=Graph(f"{role}.logits.onnx", written.weights),
            conditions=f"{role}.conditions.npy",
            origin=checkpoint.origin,
        )

    def _export_vqvae(self, folder: Path) -> dict[str, Graph]:
        single = mixed = hollow(self.vae_shape)
        if self.recipe.precision == "fp16":
            mixed = hollow(self.vae_shape).to_half()
        *quantiser, decoder, encoder = self._vqvae_parts(single, mixed)
        groups = {"quantiser": quantiser, "decoder": [decoder], "encoder": [encoder]}
        written: dict[str, Graph] = {}
        short = {"decoder": self._short(unfilled(self.vae_shape).to_half())}
        for name, parts in groups.items():
            written |= self._write(parts, folder, name, self.vae.load, short=short.get(name, ()))
        if self.recipe.compare:
            self._compare_vqvae(single, folder)
        return written

    def _write(
        self,
        parts: Sequence[Traceable],
        folder: Path,
        name: str,
        load: Callable[[str], Tensor],
        hidden: tuple[str, ...] = (),
        short: Collection[str] = (),
    ) -> dict[str, Graph]:
        """Trace graphs that share one weight file, and write them; ``hidden`` outputs are left out of NAME.onnx.

        With hidden outputs, a second graph NAME.logits.onnx keeps them.
        """
        weights = tracing.WeightFile(folder / f"{name}.weights")
        self.progress.stage(f"{name}: graphs", len(parts))
        for part in parts:
            model = tracing.trace(part, OPSET[self.recipe.precision])
            tracing.bind_weights(model, part, weights, load, short)
            if hidden:
                tracing.save(model, folder / f"{part.name}.logits.onnx")
            for value in [value for value in model.graph.outputs if value.name in hidden]:
                model.graph.outputs.remove(value)
            tracing.save(model, folder / f"{part.name}.onnx")
            self.progress.step()
        self.hashes[weights.path.name] = weights.close()
        return {part.name: Graph(f"{part.name}.onnx", weights.path.name) for part in parts}

    def _short(self, half: nn.Module) -> Collection[str]:
        """The weights of products that a bundle keeps in bfloat16: the matrices that half precision would shorten."""
        if self.recipe.precision != "bf16":
            return ()
        kept = {key: value.dtype for key, value in half.named_parameters() if key.endswith(".weight") and value.ndim > 1}
        return {key for key, dtype in kept.items() if dtype == torch.float16}

    def _compare_step(self, role: Role, folder: Path) -> None:
        shape, precision = self.shapes[role], self.recipe.precision
        self.progress.stage(f"{role}: torch model", 1)
        load = tracing.rounded(self.checkpoints[role].load, self._short(unfilled(shape).to_half()))
        references = verify.reference_scales(shape, load, self.recipe.max_top_k)
        self.progress.stage(f"{role}: comparing", len(references))
        graph = folder / f"{role}.logits.onnx"
        errors = verify.compare_step(role, graph, references, precision, self.progress.step)
        self.report["scales"] += [asdict(error) for error in errors]

    def _compare_vqvae(self, model: Vqvae, folder: Path) -> None:
        """``model`` is float32; the graphs may be in half precision."""
        load = tracing.rounded(self.vae.load, self._short(unfilled(self.vae_shape).to_half()))
        model.load_state_dict({key: load(key) for key in model.state_dict()}, assign=True)
        parts = self._vqvae_parts(model, model)
        self.progress.stage("vqvae: comparing", len(parts))
        for part in parts:
            path = folder / f"{part.name}.onnx"
            self.report["vqvae"][part.name] = verify.compare_module(part, path, self.recipe.precision)
            self.progress.step()

    def _vqvae_parts(self, single: Vqvae, mixed: Vqvae) -> list[Traceable]:
        schedule, width = self.shapes["drafter"].schedule, self.recipe.max_top_k
        quantiser = [graphs.quantise(single, schedule, scale) for scale in range(schedule.scales)]
        quantiser += [graphs.smooth(single, schedule, scale, width) for scale in range(schedule.scales)]
        return [*quantiser, graphs.decode(mixed, schedule), graphs.encode(single, schedule)]
