"""Hostile ONNX files are refused before the runtime sees them, and captioner's own are not."""

import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from captioner import Captioner
from captioner.backends.graph_check import check_graph
from captioner.checkpoint.manifest import CheckpointError, find_checkpoint, size_and_hash, write_json


def external(location="model.safetensors", offset="0", length="16", **more) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length, **more}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def model(*tensors: TensorProto, nodes=(), functions=()) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = list(nodes) or [helper.make_node("Add", ["w", "w"], ["y"])]
    return helper.make_model(helper.make_graph(nodes, "g", [], [y], list(tensors)), functions=functions)


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=tensor)


def branch(tensor: TensorProto) -> onnx.NodeProto:
    graph = model(tensor).graph
    return helper.make_node("If", ["w"], ["y"], then_branch=graph, else_branch=graph)


def check(tmp_path: Path, content: onnx.ModelProto | bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(16))
    path = tmp_path / "word.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    check_graph(path)


def test_sound_graphs_pass(tmp_path):
    inline = numpy_helper.from_array(np.ones(4, np.float32), "w")
    check(tmp_path, model(external()))
    check(tmp_path, model(inline, nodes=[constant(inline), constant(external())]))
    check(tmp_path, model(inline, nodes=[helper.make_node("QAttention", ["w"], ["y"], domain="com.microsoft")]))
    for name in ("photo", "word"):
        check_graph(find_checkpoint() / f"{name}.onnx")


TWICE = external()
TWICE.external_data.add(key="location", value="model.safetensors")
FUNCTION = helper.make_function(
    "mine", "f", ["x"], ["y"], [helper.make_node("Abs", ["x"], ["y"])], [helper.make_opsetid("", 20)]
)
SPARSE = helper.make_node("Constant", [], ["y"])
SPARSE.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(
    external("../x")
)


@pytest.mark.parametrize(
    "graph, complaint",
    [
        (model(external("../secret")), "takes data from '../secret'"),
        (model(external("/etc/passwd")), "takes data from '/etc/passwd'"),
        (model(external("./model.safetensors")), "takes data from './model.safetensors'"),
        (model(external("*/_ORT_MEM_ADDR_/*")), "_ORT_MEM_ADDR_"),
        (model(external(location=None)), "takes data from ''"),
        (model(nodes=[constant(external("../secret"))]), "takes data from '../secret'"),
        (model(nodes=[branch(external())]), "graphs inside graphs"),
        (model(nodes=[SPARSE]), "sparse tensors"),
        (model(external(), functions=[FUNCTION]), "it has functions"),
        (model(external(), nodes=[helper.make_node("Open", ["w"], ["y"], domain="mine")]), "of the domain 'mine'"),
        (model(TWICE), "do not have one location"),
        (model(external(checksum="0")), "do not have one location"),
        (model(external(offset=None)), "do not have one location"),
        (model(external(offset="-1")), "not a number of bytes"),
        (model(external(length="1" * 400)), "not a number of bytes"),
        (model(external(offset="8")), "beyond the end"),
        (b"\x0a\xff\xff\xff\x0f", "cut short"),
        (b"\x0b" * 100, "not an ONNX file"),
        (b"\xff" * 100, "not an ONNX file"),
        (b"\x38\x00", "not an ONNX file"),
        (b"\x08\x00" * 600_000, "more than 500,000 fields"),
    ],
)  # fmt: skip
def test_hostile_graphs_are_refused(tmp_path, graph, complaint):
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        check(tmp_path, graph)
    message = str(caught.value)
    assert complaint in message and "word.onnx is not a graph that captioner wrote" in message and "\n" not in message
    assert time.monotonic() - start < 5


def test_damaged_graphs_never_raise_anything_else(tmp_path):
    content = (find_checkpoint() / "word.onnx").read_bytes()
    shutil.copyfile(find_checkpoint() / "model.safetensors", tmp_path / "model.safetensors")
    generator, refused = random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(content[: generator.randint(1, len(content))])
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        (tmp_path / "word.onnx").write_bytes(damaged)
        try:
            check_graph(tmp_path / "word.onnx")
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_a_hostile_checkpoint_does_not_reach_the_runtime(tmp_path, monkeypatch):
    directory = shutil.copytree(find_checkpoint(), tmp_path / "model")
    path = directory / "word.onnx"
    path.write_bytes(path.read_bytes().replace(b"model.safetensors", b"/etc/passwd/abcde"))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["graphs"]["word.onnx"] = size_and_hash(path)  # an attacker writes the hashes, too
    write_json(directory / "config.json", config)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *_, **__: pytest.fail(str(path)))
    with pytest.raises(CheckpointError, match=r"word\.onnx is not a graph that captioner wrote"):
        Captioner.load(directory, backend="onnx")
