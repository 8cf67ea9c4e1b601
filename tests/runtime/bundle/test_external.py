"""The files that a graph reads beside itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from onnx import GraphProto, TensorProto, helper

from helpers import edit, record
from trt_var import BundleError
from trt_var.bundle import external
from trt_var.bundle.opening import Bundle


def test_weights_that_the_manifest_does_not_list(copy: Path) -> None:
    """A graph whose tensors lie in a file that nobody hashes, in whatever part of the graph they are."""
    (copy / "drafter.weights").rename(copy / "other.weights")
    shutil.copyfile(copy / "other.weights", copy / "drafter.weights")
    data = (copy / "drafter.onnx").read_bytes()
    (copy / "drafter.onnx").write_bytes(data.replace(b"drafter.weights", b"other.weightsss"))

    edit(copy, lambda manifest: record(copy, manifest, "drafter.onnx"))
    with pytest.raises(BundleError, match="reads weights from 'other.weightsss' instead of drafter.weights"):
        Bundle.open(copy).graph(Bundle.open(copy).manifest.models["drafter"].step)


def test_locations_in_every_part_of_a_graph() -> None:
    def outside(name: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        tensor.external_data.add(key="offset", value="0")
        return tensor

    def graph(name: str) -> GraphProto:
        return helper.make_graph([helper.make_node("Constant", [], [name], value=outside(name))], name, [], [])

    node = helper.make_node("If", ["a"], ["b"], then_branch=graph("branch"), tensors=[outside("listed")])
    found = helper.make_graph([node], "whole", [], [], [outside("initializer")])
    found.sparse_initializer.add(values=outside("values"), indices=outside("indices"))
    function = helper.make_function("d", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=outside("f"))], [])
    model = helper.make_model(found, functions=[function])
    model.training_info.add(initialization=graph("training"))
    expected = {"branch", "listed", "initializer", "values", "indices", "f", "training"}
    data = model.SerializeToString()
    assert external.locations(data) == expected
    assert external.locations(TensorProto(raw_data=bytes(99)).SerializeToString()) == set()
    for broken in (
        data[:-1],
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\x7f",
        b"\x0b",
        b"\xba\x80\x80\x80\x80\x80\x01\x00",
        b"\xff" * 11,
    ):
        with pytest.raises(ValueError, match="ONNX graph"):
            external.locations(broken)
