"""The torch modules behind the backend protocol: the same decoding loop, computed eagerly, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trt_var.backends.base import Buffer, Graph, HostMemory
from trt_var.bundle.manifest import Role
from trt_var.errors import BackendError
from trt_var_export.graphs import modules as graphs
from trt_var_export.graphs.modules import Step
from trt_var_export.graphs.verify import fill_transformer
from trt_var_export.weights.architecture import transformer_shape, unfilled, vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint


class TorchGraph:
    """A module whose results are copied into the caller's buffers."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        self._module, self._outputs = module, outputs

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        with torch.no_grad():
            computed = self._module(**{name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
        values = computed if isinstance(computed, tuple) else (computed,)
        for name, value in zip(self._outputs, values, strict=True):
            if name in outputs:
                np.asarray(outputs[name])[...] = value.numpy()


class _NamedStep(nn.Module):
    """A step with its cache by name, as the exported graph has it."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = ("features", "conditions", "uniforms", "guidance", "temperature", "top_p", "top_k")
        past = graphs.cache_names("past", self.step.transformer.shape.depth)
        computed: tuple[torch.Tensor, ...] = self.step(*(inputs[name] for name in (*names, *past)))
        return computed


class TorchBackend(HostMemory):
    """Graphs by the names that they have in a bundle, from checkpoints, in float32."""

    name = "torch"
    rank = 0
    description = f"PyTorch {torch.__version__}, CPU, float32 arithmetic"

    def __init__(self, checkpoints: Mapping[Role, Checkpoint], vae: Checkpoint, max_top_k: int = 1024) -> None:
        self._graphs: dict[str, TorchGraph] = {}
        shapes = {role: transformer_shape(checkpoint, role) for role, checkpoint in checkpoints.items()}
        for role, shape in shapes.items():
            step = Step(fill_transformer(shape, checkpoints[role].load), max_top_k)
            outputs = ("tokens", "guided_logits", *graphs.cache_names("new", shape.depth))
            self._graphs[role] = self._graphs[f"{role}.logits"] = TorchGraph(_NamedStep(step), outputs)
        vqvae = unfilled(vqvae_shape(vae))
        vqvae.load_state_dict({key: vae.load(key) for key in vqvae.state_dict()}, assign=True)
        schedule = shapes["drafter"].schedule
        parts = [graphs.quantise(vqvae, schedule, scale) for scale in range(schedule.scales)]
        parts += [graphs.smooth(vqvae, schedule, scale, max_top_k) for scale in range(schedule.scales)]
        for part in (*parts, graphs.decode(vqvae, schedule), graphs.encode(vqvae, schedule)):
            self._graphs[part.name] = TorchGraph(part.module, part.outputs)

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        """The module of a bundle's graph; the file itself is not read."""
        if path.stem not in self._graphs:
            raise BackendError(f"there is no torch module for {path.name}")
        return self._graphs[path.stem]
