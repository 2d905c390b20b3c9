"""Export: a checkpoint that runs without captioner's torch code. There are two graphs. `photo` runs once per photo: the
CNN, the keys of the attention, the state after the photo. `word` runs once per word, for all rows under search.

The ONNX files are small: instead of weights they have references into `model.safetensors` beside them (ONNX external
data: file, offset, length); weights in half precision are cast when the runtime loads them. The PT2 files of
`torch.export` and the eight-bit graphs hold their weights. `onnx_backend` runs the graphs."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config

from captioner.backends.graph_check import check_graph
from captioner.backends.onnx_backend import WEIGHTS_KEY
from captioner.backends.quantize import quantize
from captioner.checkpoint.manifest import (
    CONFIG,
    GRAPHS,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    find_checkpoint,
    find_own_checkpoint,
    has_checkpoint,
    read_json,
    sha256_of,
    size_and_hash,
    write_json,
)
from captioner.checkpoint.replace import replace_checkpoint
from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.checkpoint.weights import read_header
from captioner.config import ModelConfig
from captioner.decoder import Memory
from captioner.images import Preprocess, Source
from captioner.model import CaptionModel, build_model
from captioner.vocabulary import Vocabulary

Format = Literal["onnx", "pt2"]
OPSET = 20


class PhotoGraph(nn.Module):
    """Photos (B, 3, S, S) -> the state after the photo, each part (L, B, H), preceded by the values (B, R, D) and keys
    (B, R, H) if the model has attention."""

    def __init__(self, model: CaptionModel):
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        memory = self.decoder.prepare(self.encoder(images))
        attended = () if self.decoder.attention is None else (memory.values, memory.keys)
        return (*attended, *self.decoder.initial_state(memory))


class WordGraph(nn.Module):
    """Words (B, K) of B photos, the values and keys of `PhotoGraph` if the model has attention, and the state, each
    part (L, B, K, H) -> logits (B, K, V), attention (B, K, R) if the model has it, and the state after the words."""

    def __init__(self, model: CaptionModel):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, words: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        memory = None
        if self.decoder.attention is not None:
            values, keys, *given = given  # type: ignore[assignment]
            memory = Memory(values, keys, keys)  # `image` is not used after the photo's step
        state = tuple(part.flatten(1, 2) for part in given)  # (L, B·K, H)
        logits, attention, state = self.decoder(words.reshape(-1, 1), memory, state)
        rows = words.shape
        weights = () if attention is None else (attention.reshape(*rows, -1),)
        after = (part.reshape(before.shape) for part, before in zip(state, given, strict=True))  # (L, B, K, H)
        return (logits.reshape(*rows, -1), *weights, *after)


def export(
    checkpoint: str | Path,
    format: Format = "onnx",
    output: str | Path | None = None,
    int8: Sequence[Source] | None = None,
    force: bool = False,
) -> list[Path]:
    """Add the graphs to a checkpoint or, with `output`, to a copy of it. With `force`, the copy may replace another
    checkpoint there. Returns the paths of the graphs.

    With `int8` (ONNX only) the decoder computes with eight-bit integers; so does the CNN if `int8` has photos to
    calibrate it on. A copy then has no float weights, so only the ONNX runtime can run it. The directory is replaced as
    a whole, so a killed export leaves the old or the new one. Raises CheckpointError, ImageError or ValueError."""
    if int8 is not None and format != "onnx":
        raise ValueError(f"eight-bit graphs can be exported as onnx only, not as {format}.")
    source = find_own_checkpoint(checkpoint) if output is None else find_checkpoint(checkpoint)
    target = source if output is None else Path(output)
    in_place = target.resolve() == source.resolve()
    if has_checkpoint(target) and not in_place and not force:
        raise ValueError(f"{target} holds a checkpoint already. Choose another --output, or replace it: --force.")
    tensors, saved = load_checkpoint(source)
    model = build_on_cpu(ModelConfig.from_dict(saved["model"]), len(Vocabulary(saved["vocabulary"])), tensors)
    preprocess = Preprocess.from_dict(saved["preprocess"])
    written = []
    with replace_checkpoint(target) as writing:
        _copy(source, writing, everything=in_place)
        for graph in graphs(model, preprocess.size):
            path = writing / f"{graph.name}.{format}"
            with warnings.catch_warnings():  # the exporters warn about their own code
                warnings.simplefilter("ignore")
                if format == "onnx":
                    _write_onnx(path, graph, writing / WEIGHTS, saved["weights"]["sha256"])
                else:
                    _write_pt2(path, graph)
            written.append(target / path.name)
        paths = sorted(writing.glob("*.onnx"))
        if int8 is not None:
            quantize(writing, preprocess, int8)
            if not in_place:
                _drop_weights(writing, paths)
        if format == "onnx":
            for path in paths:
                check_graph(path)  # the same check as before each use
            hashes = {path.name: size_and_hash(path) for path in paths}
            write_json(writing / CONFIG, {**read_json(writing / CONFIG), "graphs": hashes})
    return written


def build_on_cpu(config: ModelConfig, vocabulary_size: int, tensors: Mapping[str, Tensor]) -> CaptionModel:
    with torch.device("meta"):
        model = build_model(config, vocabulary_size, weights=None)
    load_into(model, tensors)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Graph:
    """What an exporter needs to know about a graph."""

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    dims: tuple[Any, ...]  # the dynamic dimensions of the inputs
    inputs: list[str]
    outputs: list[str]


def graphs(model: CaptionModel, size: int) -> list[Graph]:
    B, K, R = (torch.export.Dim(name, min=1, max=4096) for name in "BKR")
    photo, word = PhotoGraph(model).eval(), WordGraph(model).eval()
    images = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        encoded = photo(images)
    attended = [] if model.decoder.attention is None else ["values", "keys"]
    memory, state = encoded[: len(attended)], encoded[len(attended) :]
    states = [f"state.{i}" for i in range(len(state))]
    words = torch.ones(2, 3, dtype=torch.int64)
    given = (*memory, *(part[:, :, None].repeat(1, 1, 3, 1) for part in state))  # (L, B, K, H)
    dims = (*({0: B, 1: R} for _ in memory), *({1: B, 2: K} for _ in state))
    after = ["logits", *(["attention"] if attended else []), *(f"next.{name}" for name in states)]
    return [
        Graph(GRAPHS[0], photo, (images,), ({0: B},), ["images"], [*attended, *states]),
        Graph(GRAPHS[1], word, (words, *given), ({0: B, 1: K}, dims), ["words", *attended, *states], after),
    ]


def _copy(source: Path, target: Path, everything: bool) -> None:
    """Copy a checkpoint's files. Older graphs and the training state are copied only if `everything`."""
    for path in source.iterdir():
        skipped = path.suffix in (".onnx", ".pt2") or path.name in (STATE, STATE_TENSORS)
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        elif everything or not skipped:
            shutil.copyfile(path, target / path.name)


def _write_pt2(path: Path, graph: Graph) -> None:
    # Otherwise the graph asserts that sizes that differ in the example always differ, so it refuses K = 1, where B·K is
    # B.
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            graph.module,
            graph.example,
            dynamic_shapes=graph.dims,
            prefer_deferred_runtime_asserts_over_guards=True,  # without it torch considers a size restricted
        )
    torch.export.save(program, path)


def _write_onnx(path: Path, graph: Graph, weights: Path, sha256: str) -> None:
    import onnx_ir as ir

    program = torch.onnx.export(
        graph.module,
        graph.example,
        input_names=graph.inputs,
        output_names=graph.outputs,
        dynamic_shapes=graph.dims,
        opset_version=OPSET,
        dynamo=True,
        optimize=False,  # the optimizer would store changed copies of the weights in the graph
        verbose=False,
    )
    assert program is not None
    model = program.model
    _simplify(model)
    _name_weights(model.graph, weights)
    model.metadata_props[WEIGHTS_KEY] = sha256
    model.producer_name = "captioner"
    model.graph.name = graph.name
    for node in model.graph:  # the stack traces of torch would be four times as large as the graph
        node.metadata_props.clear()
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    ir.save(model, path)


def _simplify(model: Any) -> None:
    """Fold all constants except the weights. The runtime transforms the weights itself when it loads the graph: it
    folds batch norm into convolutions and reorders the gates of an LSTM. It can do so only where a weight is combined
    with constants; otherwise it would repeat that work at every run."""
    from onnxscript import optimizer

    weights = set(model.graph.initializers)

    def touches_a_weight(node: Any) -> bool:
        return any(value is not None and value.name in weights for value in node.inputs)

    optimizer.inline(model)
    optimizer.fold_constants(model, should_fold=lambda node: False if touches_a_weight(node) else None)
    optimizer.remove_unused_nodes(model)


def _drop_weights(directory: Path, paths: Sequence[Path]) -> None:
    """Remove all tensors from the weights' file, because these graphs hold their own. Its metadata has the hashes of
    the graphs, so its own hash still identifies the model."""
    import onnx

    header = json.dumps({"__metadata__": {path.name: sha256_of(path) for path in paths}}).encode()
    header += b" " * (-len(header) % 8)
    # not with the safetensors package, which before version 0.5 cannot write a file without tensors
    (directory / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    weights = size_and_hash(directory / WEIGHTS)
    write_json(directory / CONFIG, {**read_json(directory / CONFIG), "weights": weights})
    for path in paths:
        graph = onnx.load(path)
        onnx.helper.set_model_props(graph, {WEIGHTS_KEY: weights["sha256"]})
        onnx.save(graph, path)


def _name_weights(graph: Any, weights: Path) -> None:
    """Replace the graph's weights with references into the safetensors file, with a cast for those in half
    precision."""
    import onnx_ir as ir

    entries = read_header(weights)
    kinds = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16}
    for name, value in list(graph.initializers.items()):
        entry = entries.get(name)
        if entry is None or entry["dtype"] not in kinds:
            continue
        start, stop = entry["data_offsets"]
        stored = ir.ExternalTensor(
            weights.name,
            start,
            stop - start,
            kinds[entry["dtype"]],
            shape=ir.Shape(entry["shape"]),
            name=name,
            base_dir=weights.parent,
        )
        assert list(stored.shape) == list(value.shape), name
        if stored.dtype == value.dtype:
            value.const_value = stored
            continue
        stored.name = f"{name}.half"
        half = ir.Value(name=stored.name, shape=stored.shape, type=ir.TensorType(stored.dtype), const_value=stored)
        cast = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}.float"
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.initializers[half.name] = half
        graph.insert_before(graph[0], cast)
