"""What the tracer says of a module that it cannot trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trt_var.errors import ExportError
from trt_var_export.graphs.modules import Traceable
from trt_var_export.graphs.tracing import trace


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_failures_say_what_they_began_with() -> None:
    graph = Traceable("undecided", Undecided(), {"x": torch.ones(2, 3)}, {"x": {0: "rows"}}, ("y",))
    with pytest.raises(ExportError, match=r"tracing undecided failed: .*[Dd]ata-?dependent") as caught:
        trace(graph, 20)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
