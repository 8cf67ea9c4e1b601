"""Kind: checkpoints as people have them. Formats go by content, several files may be one checkpoint, nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conftest import TOY_DRAFTER
from helpers import random_weights
from trt_var import CheckpointError
from trt_var_export.weights import sources
from trt_var_export.weights.architecture import transformer_shape
from trt_var_export.weights.checkpoint import open_checkpoint, read_torch
from trt_var_export.weights.files import inert

WEIGHTS = random_weights(TOY_DRAFTER, 3)
MODEL = {key: WEIGHTS.load(key) for key in WEIGHTS.shapes}


def write(path: Path, form: str) -> Path:
    if form == "safetensors":
        save_file(MODEL, path)
    else:
        torch.save(MODEL, path, _use_new_zipfile_serialization=form == "zip")
    return path


def assert_is_model(path: Path) -> None:
    checkpoint = sources.resolve(str(path), "drafter")
    assert transformer_shape(checkpoint, "drafter") == TOY_DRAFTER
    assert all(torch.equal(checkpoint.load(key), value) for key, value in MODEL.items())
    assert len(checkpoint.origin["sha256"]) == 64


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("name", ["model", "a.ckpt", "a.bin", "a.PTH", "a.pth.1", "a.safetensors", "epoch=3-loss=0.5"])
def test_formats_go_by_content(tmp_path: Path, name: str, form: str) -> None:
    assert_is_model(write(tmp_path / name, form))


def test_other_protocols(tmp_path: Path) -> None:
    for protocol in (3, 4, 5):
        for zipped in (True, False):
            torch.save(MODEL, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            assert_is_model(tmp_path / "x")


HALVES = (dict(list(MODEL.items())[::2]), dict(list(MODEL.items())[1::2]))


def shards(folder: Path, form: str, index: bool) -> list[Path]:
    stem, suffix = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    names = [f"{stem}-{i:05}-of-00002.{suffix}" for i in (1, 2)]
    for name, half in zip(names, HALVES, strict=True):
        (save_file if form == "safetensors" else torch.save)(half, folder / name)  # type: ignore[operator]
    if index:
        places = {key: name for name, half in zip(names, HALVES, strict=True) for key in half}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return [folder / name for name in names]


@pytest.mark.parametrize("form", ["safetensors", "zip"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint(tmp_path: Path, form: str, index: bool) -> None:
    first, second = shards(tmp_path, form, index)
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, first, second, *tmp_path.glob("*.index.json")):
        assert_is_model(path)
    second.unlink()
    for path in (tmp_path, *tmp_path.glob("*.index.json")):
        with pytest.raises(CheckpointError, match="-00002-of-00002.*fetch all shards"):
            sources.resolve(str(path), "drafter")


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x.bin"}}', '{"weight_map": {"a": 1}}', "{" * 10**5]
)
def test_indexes_that_are_none(tmp_path: Path, index: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError, match="is no index of shards"):
        sources.resolve(str(path), "drafter")


def test_an_index_of_another_checkpoint(tmp_path: Path) -> None:
    shards(tmp_path, "zip", index=True)
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match=r"says that .* is in pytorch_model-00002-of-00002.bin, where it is not"):
        sources.resolve(str(tmp_path), "drafter")
    torch.save(HALVES[0], tmp_path / "pytorch_model-00002-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(CheckpointError, match="these are no shards of one checkpoint"):
        sources.resolve(str(tmp_path), "drafter")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no file of weights, but nothing"):
        sources.resolve(str(tmp_path), "drafter")
    (tmp_path / "README.md").write_text("# weights")
    with pytest.raises(CheckpointError, match="holds no file of weights, but README.md"):
        sources.resolve(str(tmp_path), "drafter")
    write(tmp_path / "best.pt", "zip")
    assert_is_model(tmp_path)
    write(tmp_path / "last.pt", "zip")
    with pytest.raises(CheckpointError, match="several checkpoints: best.pt, last.pt; name one"):
        sources.resolve(str(tmp_path), "drafter")
    write(tmp_path / "model.safetensors", "safetensors")
    write(tmp_path / "pytorch_model.bin", "zip")
    assert_is_model(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match="distributed checkpoint.*format_utils dcp_to_torch"):
        sources.resolve(str(tmp_path), "drafter")


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._called = function, arguments

    def __reduce__(self) -> Any:
        return self._called


class Extends:
    """Pickled as a call whose result is filled: what dicts, lists and objects of foreign classes are."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Call, (os.mkdir, str(self._mark)), {"x": 1}, iter([1]), iter([("a", 2)])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_of_a_file_is_run(tmp_path: Path, legacy: bool, protocol: int, caplog: pytest.LogCaptureFixture) -> None:
    """Calls beside, among and around the weights; the tensors are read, the marks are not made."""
    mark = tmp_path / "mark"
    content = {
        "model": {**MODEL, "hook": Call(os.mkdir, str(mark))},
        "args": [Call(eval, f"__import__('os').mkdir({str(mark)!r})"), Call(exec, "1 / 0"), Extends(mark)],
        "nested": Call(shutil.rmtree, Call(os.mkdir, str(mark))),
    }
    path = tmp_path / "trap.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert_is_model(path)
    assert not mark.exists()
    for name in ("model.hook (posix.mkdir)", "args.0 (builtins.eval)", "args.1 (builtins.exec)"):
        assert name in caplog.text.replace("__builtin__", "builtins")


def test_where_torch_is_told_to_load_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    assert_is_model(write(tmp_path / "plain.pth", "zip"))
    torch.save({"model": MODEL, "x": Call(os.getcwd)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match="TORCH_FORCE_WEIGHTS_ONLY_LOAD does not let pass; unset it"):
        open_checkpoint(tmp_path / "more.pth", "var_wo_ddp")


def test_no_state_reaches_code_or_classes(tmp_path: Path) -> None:
    """Attributes that a pickle sets end on inert objects, never on functions or classes of the program."""
    before = torch._utils._rebuild_tensor_v2.__defaults__, inert.Inert.__setstate__, inert._Ordered.__setstate__
    head = b"\x80\x02"
    for target in (
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"cos\nsystem\n",
        b"ctorch\nSize\n",
    ):
        for attribute in (b"__defaults__", b"__setstate__", b"origin"):
            state = b"}X" + len(attribute).to_bytes(4, "little") + attribute + b"K\x01s"
            for whole in (state, b"N" + state + b"\x86"):
                (tmp_path / "x").write_bytes(head + target + whole + b"b.")
                with (tmp_path / "x").open("rb") as file, pytest.raises((TypeError, AttributeError, pickle.UnpicklingError)):
                    inert.load(file)
    assert before == (torch._utils._rebuild_tensor_v2.__defaults__, inert.Inert.__setstate__, inert._Ordered.__setstate__)


def test_pickles_nested_without_end(tmp_path: Path) -> None:
    content: Any = []
    for _ in range(40):
        content = [content, content]
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    for one in (content, cycle):
        torch.save(one, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="nested without end"):
            open_checkpoint(tmp_path / "x.pth", "var_wo_ddp")


def test_archives_packed_by_other_tools(tmp_path: Path) -> None:
    """Mapped as they lie there, packed bytes would be taken for weights."""
    path = write(tmp_path / "x.pth", "zip")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="packed by another tool than torch"):
        open_checkpoint(tmp_path / "y.pth", "var_wo_ddp")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_anywhere(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "x", form)
    size = path.stat().st_size
    for part in (size - 1, size * 2 // 3, size // 3, 200, 40, 9, 1):
        os.truncate(path, part)
        with pytest.raises(CheckpointError):
            transformer_shape(open_checkpoint(path, "var_wo_ddp"), "drafter")


def test_absurd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        open_checkpoint(path, "var_wo_ddp")
    torch.save({**MODEL, "head.bias": torch.ones(1).expand(1 << 40)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="and a tensor head.bias .* of more"):
        open_checkpoint(path, "var_wo_ddp")


def test_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        read_torch(tmp_path / "x.pt")
