"""Hostile ONNX files are refused before the runtime sees them, and captioner's own are not."""

import json
import os
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
    return helper.make_node("Identity", ["w"], ["y"], then_branch=graph)  # `If` itself is not exported


def check(tmp_path: Path, content: onnx.ModelProto | bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(16))
    path = tmp_path / "word.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    check_graph(path)


def test_sound_graphs_pass(tmp_path):
    inline = numpy_helper.from_array(np.ones(4, np.float32), "w")
    check(tmp_path, model(external()))
    check(tmp_path, model(inline, nodes=[constant(inline), constant(external())]))
    check(
        tmp_path, model(inline, nodes=[helper.make_node("DynamicQuantizeLSTM", ["w"], ["y"], domain="com.microsoft")])
    )
    for name in ("photo", "word"):
        check_graph(find_checkpoint("flickr8k") / f"{name}.onnx")


TWICE = external()
TWICE.external_data.add(key="location", value="model.safetensors")
LARGE = external()
LARGE.dims[:] = [2**15, 2**15]
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
        (model(external(), nodes=[helper.make_node("Tile", ["w", "w"], ["y"])]), "has the operator 'Tile'"),
        (model(LARGE), "a tensor of 1,073,741,824 numbers in 16 bytes"),
        (model(TensorProto(name="w", data_type=1, dims=[2**40])), "a tensor of 1,099,511,627,776 numbers in 0 bytes"),
        (model(external(), external(), external()), "its tensors repeat the data of model.safetensors"),
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
    content = (find_checkpoint("flickr8k") / "word.onnx").read_bytes()
    shutil.copyfile(find_checkpoint("flickr8k") / "model.safetensors", tmp_path / "model.safetensors")
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


def test_links_are_followed_because_their_content_is_checked(tmp_path):
    """As in the cache of a hub, where a checkpoint is a folder of links."""
    real = shutil.copytree(find_checkpoint("flickr8k"), tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in real.iterdir():
        (linked / path.name).symlink_to(path)
    Captioner.load(linked, backend="onnx")
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut short"):
        Captioner.load(linked, backend="onnx")


def test_a_hostile_checkpoint_does_not_reach_the_runtime(tmp_path, monkeypatch):
    directory = shutil.copytree(find_checkpoint("flickr8k"), tmp_path / "model")
    path = directory / "word.onnx"
    path.write_bytes(path.read_bytes().replace(b"model.safetensors", b"/etc/passwd/abcde"))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["graphs"]["word.onnx"] = size_and_hash(path)  # an attacker writes the hashes, too
    write_json(directory / "config.json", config)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *_, **__: pytest.fail(str(path)))
    with pytest.raises(CheckpointError, match=r"word\.onnx is not a graph that captioner wrote"):
        Captioner.load(directory, backend="onnx")


def test_text_that_is_not_utf8_is_refused(tmp_path):
    """The runtime's Python code would print lines of its own."""
    graph = model(external(), nodes=[helper.make_node("Add", ["w", "w"], ["y"], name="NNN", doc_string="DDD")])
    graph.producer_name, graph.doc_string, graph.graph.doc_string = "PPP", "OOO", "GGG"
    graph.metadata_props.add(key="KKK", value="VVV")
    graph.opset_import.add(domain="III")
    graph.graph.output[0].type.tensor_type.shape.dim.add(dim_param="BBB")
    content = graph.SerializeToString()
    check(tmp_path, content)
    for text in (b"NNN", b"DDD", b"PPP", b"OOO", b"GGG", b"KKK", b"VVV", b"III", b"BBB"):
        assert content.count(text) == 1
        with pytest.raises(CheckpointError, match="can't decode byte 0xff"):
            check(tmp_path, content.replace(text, b"\xff\xff\xff"))


@pytest.mark.parametrize("start, when", [("one", "loaded by the ONNX runtime|run"), ("values", "run")])
def test_a_graph_that_asks_for_too_much_memory_ends_in_one_line(tmp_path, capfd, start, when):
    """34 GB, from a constant, which the runtime computes when it loads the graph, or from an input."""
    directory = shutil.copytree(find_checkpoint("flickr8k"), tmp_path / "model")
    path = directory / "word.onnx"
    graph = onnx.load(path, load_external_data=False)
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2**33], np.int64), "size"))
    for node in graph.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", [start], ["number"], keepdims=0),
            helper.make_node("Expand", ["number", "size"], ["huge"]),
            helper.make_node("ReduceMean", ["huge"], ["small"], keepdims=0),
            helper.make_node("Add", ["before", "small"], ["logits"]),
        ]
    )
    onnx.save(graph, path)
    change(directory)
    with pytest.raises(CheckpointError, match=rf"cannot be ({when}) \(.*(memory|alloc).*\)\. Make it again") as caught:
        Captioner.load(directory, backend="onnx").caption(np.zeros((8, 8, 3), np.uint8))
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_a_huge_graph_is_not_read(tmp_path):
    path = tmp_path / "word.onnx"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no space on the disk
    with pytest.raises(CheckpointError, match="it has 1,000,000,000,000 bytes"):
        check_graph(path)


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(find_checkpoint("flickr8k"), tmp_path / "model")


def change(directory: Path, **entries) -> None:
    """Change the config as an attacker would, hashes included."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8")) | entries
    config["graphs"] = {path.name: size_and_hash(path) for path in directory.glob("*.onnx")}
    config["weights"] = size_and_hash(directory / "model.safetensors")
    write_json(directory / "config.json", config)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (lambda c: c | {"vocabulary": c["vocabulary"][1:]}, r"word.*logits is float32 \[any, any, 3906\]; .* 3905\]"),
        (lambda c: c | {"preprocess": c["preprocess"] | {"size": 257}}, r"photo.*images is .* \[any, 3, 256, 256\]"),
        (lambda c: c | {"model": c["model"] | {"hidden_size": 256}}, r"photo.*keys is .* 512\]; .* 256\]"),
        (lambda c: c | {"model": c["model"] | {"layers_below": 2}}, r"photo.*state.0 is .* \[1, .*; .* \[2, "),
        (lambda c: c | {"model": c["model"] | {"cell": "gru"}}, "photo.*outputs are .*state.1.*; expected .*state.0. "),
        (lambda c: c | {"model": c["model"] | {"attention": "none"}}, "photo.*outputs are values.*; expected state.0"),
    ],
)
def test_the_runtime_sees_only_graphs_that_fit_the_config(copy, monkeypatch, changes, complaint):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *_, **__: pytest.fail(str(path)))
    change(copy, **changes(json.loads((copy / "config.json").read_text(encoding="utf-8"))))
    with pytest.raises(CheckpointError, match=f"{complaint}.*Make it again") as caught:
        Captioner.load(copy, backend="onnx")
    assert "\n" not in str(caught.value)


def test_swapped_and_foreign_graphs_are_refused(copy, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *_, **__: pytest.fail(str(path)))
    photo, word = ((copy / f"{name}.onnx").read_bytes() for name in ("photo", "word"))
    inline = numpy_helper.from_array(np.ones(4, np.float32), "w")
    for graphs in ((word, photo), (photo, photo), (model(inline).SerializeToString(), word)):
        for name, content in zip(("photo", "word"), graphs, strict=True):
            (copy / f"{name}.onnx").write_bytes(content)
        change(copy)
        with pytest.raises(CheckpointError, match=r"\.onnx does not fit its config\.json: "):
            Captioner.load(copy, backend="onnx")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("bits", [b"\x00\x7e", b"\x00\xfc"], ids=["nan", "-inf"])
def test_weights_that_are_no_numbers_are_refused(copy, backend, bits):
    path = copy / "model.safetensors"
    with path.open("r+b") as file:  # its last numbers are those of a matrix in half precision
        file.seek(-2, os.SEEK_END)
        file.write(bits)
    change(copy)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has NaN or infinity in encoder\.") as caught:
        Captioner.load(copy, backend=backend)
    assert "\n" not in str(caught.value)


class NoNumbers:
    """A runtime session whose outputs are all NaN."""

    def __init__(self, session):
        self.session, self.get_inputs = session, session.get_inputs

    def run(self, *arguments):
        return [np.full_like(each, np.nan) for each in self.session.run(*arguments)]


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_a_graph_that_computes_nan_ends_in_one_line(method):
    captioner = Captioner.load(backend="onnx")
    captioner.backend.word = NoNumbers(captioner.backend.word)
    with pytest.raises(ValueError, match="the model gave NaN for the log-probability of word 1"):
        captioner.caption(np.zeros((8, 8, 3), np.uint8), method=method)
