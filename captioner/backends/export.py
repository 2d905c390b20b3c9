"""A checkpoint made ready to run without captioner's torch code: two graphs, of which `photo` runs once a photo (the
CNN, the attention's keys, the state after the photo) and `word` once a word for all rows under search.

As ONNX they are small files beside `model.safetensors`, whose weights they name instead of holding copies (ONNX
external data: file, offset, length); half-precision ones are cast when the runtime loads them. As PT2 (`torch.export`)
each holds its weights. How the graphs are run is told in `runtime`."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captioner.backends.onnx_backend import WEIGHTS_KEY
from captioner.backends.quantize import quantize
from captioner.checkpoint.manifest import CARD, CONFIG, GRAPHS, WEIGHTS, find_checkpoint
from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.config import ModelConfig
from captioner.decoder import Memory
from captioner.images import Preprocess, Source
from captioner.model import CaptionModel, build_model
from captioner.vocabulary import Vocabulary

Format = Literal["onnx", "pt2"]
OPSET = 20


class PhotoGraph(nn.Module):
    """Photos (B, 3, S, S) -> values (B, R, D), keys (B, R, H), unless the model has no attention, and the state after
    the photo, each part (L, B, H)."""

    def __init__(self, model: CaptionModel):
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        memory = self.decoder.prepare(self.encoder(images))
        looked_at = () if self.decoder.attention is None else (memory.values, memory.keys)
        return (*looked_at, *self.decoder.initial_state(memory))


class WordGraph(nn.Module):
    """Words (B, K) of B photos, what `PhotoGraph` gave of these, and the state, each part (L, B, K, H) -> logits
    (B, K, V), attention (B, K, R) unless the model has none, and the state after the words."""

    def __init__(self, model: CaptionModel):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, words: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        memory = None
        if self.decoder.attention is not None:
            values, keys, *given = given  # type: ignore[assignment]
            memory = Memory(values, keys, keys)  # the photo went in before: `image` is not used
        state = tuple(part.flatten(1, 2) for part in given)  # (L, B·K, H)
        logits, attention, state = self.decoder(words.reshape(-1, 1), memory, state)
        rows = words.shape
        looked = () if attention is None else (attention.reshape(*rows, -1),)
        after = (part.reshape(before.shape) for part, before in zip(state, given, strict=True))  # (L, B, K, H)
        return (logits.reshape(*rows, -1), *looked, *after)


def export(
    checkpoint: str | Path,
    format: Format = "onnx",
    output: str | Path | None = None,
    int8: Sequence[Source] | None = None,
) -> list[Path]:
    """Write the graphs of a checkpoint into its directory, or into `output`, which becomes a checkpoint, too, with
    copies of its files. Returns the files written. With `int8` (ONNX only) the decoder computes in eight-bit integers
    and, calibrated on these photos if there are any, the CNN, too. Raises CheckpointError, ImageError or ValueError."""
    if int8 is not None and format != "onnx":
        raise ValueError(f"eight-bit graphs are made as onnx only, not as {format}.")
    directory = find_checkpoint(checkpoint)
    tensors, saved = load_checkpoint(directory)
    model = build_on_cpu(ModelConfig(**saved["model"]), len(Vocabulary(saved["vocabulary"])), tensors)
    if output is not None:
        directory = _copy(directory, Path(output))
    preprocess = Preprocess.from_dict(saved["preprocess"])
    written = []
    for graph in graphs(model, preprocess.size):
        path = directory / f"{graph.name}.{format}"
        partial = path.with_name(f".{path.name}.partial")
        with warnings.catch_warnings():  # of the exporters' own making
            warnings.simplefilter("ignore")
            if format == "onnx":
                _write_onnx(partial, graph, directory / WEIGHTS, saved["weights"]["sha256"])
            else:
                program = torch.export.export(
                    graph.module,
                    graph.example,
                    dynamic_shapes=graph.dims,
                    prefer_deferred_runtime_asserts_over_guards=True,  # else torch 2.11 sees K as restricted
                )
                torch.export.save(program, partial)
        os.replace(partial, path)
        written.append(path)
    if int8 is not None:
        quantize(directory, preprocess, int8)
    return written


def build_on_cpu(config: ModelConfig, vocabulary_size: int, tensors: Mapping[str, Tensor]) -> CaptionModel:
    with torch.device("meta"):
        model = build_model(config, vocabulary_size, weights=None)
    load_into(model, tensors)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Graph:
    """What an exporter must know of a graph."""

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    dims: tuple[Any, ...]  # the dynamic dimensions of the inputs
    inputs: list[str]
    outputs: list[str]


def graphs(model: CaptionModel, size: int) -> list[Graph]:
    B, K = torch.export.Dim("B", min=1, max=4096), torch.export.Dim("K", min=1, max=4096)
    photo, word = PhotoGraph(model).eval(), WordGraph(model).eval()
    images = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        encoded = photo(images)
    looked_at = [] if model.decoder.attention is None else ["values", "keys"]
    memory, state = encoded[: len(looked_at)], encoded[len(looked_at) :]
    states = [f"state.{i}" for i in range(len(state))]
    words = torch.ones(2, 3, dtype=torch.int64)
    given = (*memory, *(part[:, :, None].repeat(1, 1, 3, 1) for part in state))  # (L, B, K, H)
    dims = (*({0: B} for _ in memory), *({1: B, 2: K} for _ in state))
    after = ["logits", *(["attention"] if looked_at else []), *(f"next.{name}" for name in states)]
    return [
        Graph(GRAPHS[0], photo, (images,), ({0: B},), ["images"], [*looked_at, *states]),
        Graph(GRAPHS[1], word, (words, *given), ({0: B, 1: K}, dims), ["words", *looked_at, *states], after),
    ]


def _copy(directory: Path, output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, CARD):
        if (directory / name).resolve() != (output / name).resolve():
            shutil.copyfile(directory / name, output / name)
    return output


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
        optimize=False,  # it would put changed copies of the weights into the graph
        verbose=False,
    )
    assert program is not None
    model = program.model
    _simplify(model)
    _name_weights(model.graph, weights)
    model.metadata_props[WEIGHTS_KEY] = sha256
    model.producer_name = "captioner"
    model.graph.name = graph.name
    for node in model.graph:  # traces of torch's stack would be four times as large as the graph
        node.metadata_props.clear()
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    ir.save(model, path)


def _simplify(model: Any) -> None:
    """Compute what is constant but the weights, which only the runtime may change, when it loads the graph. It can do
    so where all that a weight meets is constant: it folds batch norm into convolutions and sorts the gates of an LSTM,
    and would do so at each run otherwise."""
    from onnxscript import optimizer

    weights = set(model.graph.initializers)

    def touches_a_weight(node: Any) -> bool:
        return any(value is not None and value.name in weights for value in node.inputs)

    optimizer.inline(model)
    optimizer.fold_constants(model, should_fold=lambda node: False if touches_a_weight(node) else None)
    optimizer.remove_unused_nodes(model)


def _name_weights(graph: Any, weights: Path) -> None:
    """Replace the graph's weights by references into the safetensors file, those in half precision with a cast."""
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


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Of each tensor in a safetensors file its dtype, shape, and `data_offsets` from the beginning of the file; a tied
    tensor has the entry of the one it is tied to."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tied = json.loads(header.pop("__metadata__", {}).get("tied", "{}"))
    for entry in header.values():
        entry["data_offsets"] = [offset + 8 + length for offset in entry["data_offsets"]]
    return header | {name: header[other] for name, other in tied.items()}
