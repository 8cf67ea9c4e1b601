from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from trt_var import UsageError
from trt_var.bench import plan
from trt_var.bundle import manifest as manifests
from trt_var.bundle.memory import need
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main


def test_work_of_the_digits_pair() -> None:
    """Twelve C² operations a token and branch for attention and MLP, counted by hand for the refiner's matrices."""
    manifest = Bundle.open("digits").manifest
    gpu = plan.device("l20")
    alone = plan.plan(manifest, gpu, 0, 1)
    width, depth, hidden = 64, 2, 256
    body = depth * (4 * width**2 + 2 * width * hidden)
    least = 2 * 2 * 130 * (body + manifest.vocabulary * width)
    assert least < alone.operations < 1.6 * least
    assert plan.plan(manifest, gpu, 0, 8).operations == pytest.approx(8 * alone.operations)
    assert plan.plan(manifest, gpu, 6, 1).operations > plan.plan(manifest, gpu, 3, 1).operations > alone.operations
    assert alone.traffic > 6 * manifest.files["refiner.weights"].size
    assert alone.seconds == pytest.approx(alone.traffic / gpu.bandwidth), "six passes over the weights bound one image"


def test_one_row_is_half_the_work_and_fewer_scales_less() -> None:
    manifest, gpu = Bundle.open("digits").manifest, plan.device("l20")
    two, one = plan.plan(manifest, gpu, 3, 8), plan.plan(manifest, gpu, 3, 8, ("drafter", "refiner"))
    assert one.operations == pytest.approx(two.operations / 2)
    assert one.memory.cache == two.memory.cache / 2
    early = plan.plan(manifest, gpu, 3, 8, scales=5)
    assert early.operations < two.operations
    assert early.memory.total < two.memory.total
    assert plan.plan(manifest, gpu, 3, 8, scales=6) == two


def test_largest_batch_is_the_largest() -> None:
    manifest = Bundle.open("digits").manifest
    small = plan.Device(memory=200e6, half=1e12, single=1e12, bandwidth=1e9)
    found = plan.largest_batch(manifest, small, 4)
    sizes = [need(manifest, 4, batch, drops_outputs=False).total for batch in (found, found + 1)]
    assert sizes[0] <= plan.USABLE * small.memory < sizes[1]
    assert plan.largest_batch(manifest, plan.Device(1e6, 1, 1, 1), 4) == 0


# GB of CoDe N = 6 by batch, as published; scratch bytes that TensorRT-RTX 1.7 announces for d16's last scale at that batch
PUBLISHED = {
    8: (10.619, 115167232),
    16: (11.951, 229986304),
    32: (14.614, None),
    64: (19.943, 918900736),
    128: (30.598, 1837453312),
}


@pytest.mark.parametrize("batch", PUBLISHED)
def test_memory_is_at_most_half_of_the_published(batch: int) -> None:
    manifest = manifests.decode((Path(__file__).parents[2] / "data/d30-d16-fp16.json").read_bytes(), "d30-d16")
    found, (published, scratch) = need(manifest, 6, batch, drops_outputs=False), PUBLISHED[batch]
    assert found.total <= published * 1e9 / 2
    assert found.weights > 3.2e9
    assert found.activations > max(scratch or 0, 1006745600), "no less than the builder announces, the decoder's included"


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--engines", "digits", "--device", "h200", "--batch", "1,64", "--n-draft", "3"]) == 0
    assert "largest batch that fits" in capsys.readouterr().out
    assert main(["plan", "--engines", "digits", "--cfg", "0", "--scales", "5"]) == 0
    assert "one row an image in drafter and refiner" in capsys.readouterr().out
    for change in (
        ["--device", "abacus"],
        ["--batch", "0"],
        ["--n-draft", "9"],
        ["--scales", "7"],
        ["--guided-scales", "7"],
    ):
        assert main(["plan", "--engines", "digits", *change]) == 2
    quantised = msgspec.structs.replace(Bundle.open("digits").manifest, quantised={"drafter": {"fc1": "int8"}})
    with pytest.raises(UsageError, match="counted from a float bundle"):
        plan.plan(quantised, plan.device("l20"), 3, 1)
    with pytest.raises(UsageError, match="known are"):
        plan.device("abacus")
