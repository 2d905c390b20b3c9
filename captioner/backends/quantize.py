"""Eight-bit graphs, made by the ONNX runtime's own tools: dynamic quantisation of the decoder's matrices, static
quantisation (calibrated on photos, one scale per channel) of the CNN's convolutions. Such graphs hold their own
weights; tensors that are not quantised are stored in half precision if that is exact. Use `captioner evaluate` to
measure the loss in quality."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime import quantization

from captioner.checkpoint.manifest import GRAPHS
from captioner.images import Preprocess, Source

BATCH = 8
INTEGERS = quantization.QuantType.QInt8
SMALL = 4096  # tensors of at most this many numbers are not worth a cast
# Optimizers that fold batch norm into convolutions, whose weights are then no longer in half precision.
CONVOLUTION_FUSIONS = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]


def quantize(directory: Path, preprocess: Preprocess, photos: Sequence[Source] = ()) -> None:
    """Replace the graphs of an exported checkpoint with ones whose decoder computes with eight-bit integers. If there
    are photos for calibration, so does the CNN. Raises ImageError."""

    def matrices(source: Path, target: Path) -> None:
        quantization.quantize_dynamic(
            source, target, op_types_to_quantize=["LSTM", "MatMul"], per_channel=True, weight_type=INTEGERS
        )

    def convolutions(source: Path, target: Path) -> None:
        quantization.quantize_static(
            source,
            target,
            _Photos(preprocess, photos),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=INTEGERS,
        )

    photo, word = (directory / f"{name}.onnx" for name in GRAPHS)
    with _silence():
        _replace(word, matrices)
        if photos:
            _replace(photo, convolutions, matrices)
        else:
            _replace(photo, matrices, without=CONVOLUTION_FUSIONS)


class _Photos(quantization.CalibrationDataReader):
    """Batches of preprocessed photos, each read when it is needed."""

    def __init__(self, preprocess: Preprocess, photos: Sequence[Source]):
        starts = range(0, len(photos), BATCH)
        self.batches = (
            np.stack([preprocess.read(photo)[0] for photo in photos[start : start + BATCH]]) for start in starts
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def _replace(path: Path, *steps: Callable[[Path, Path], None], without: Sequence[str] = ()) -> None:
    """Replace a graph with the result of these steps, applied in order. First the runtime turns the weights into
    float32 constants, because the tools do not handle external weights and casts, and folds what it can, except with
    the optimizers in `without`. Intermediate files are beside the graph, because it refers to its weights by a relative
    path."""
    files = [path.with_name(f".{path.name}.{number}") for number in range(len(steps) + 1)]
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(files[0])
        onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*without] or None
        )
        model = onnx.load(files[0])
        del model.graph.value_info[:]  # the exporter's shapes, which runtimes before 1.24 compare with their own
        onnx.save(model, files[0])
        for step, source, target in zip(steps, files, files[1:], strict=False):
            step(source, target)
        model = onnx.load(files[-1], load_external_data=False)
        _halve(model.graph)
        del model.metadata_props[:]
        model.metadata_props.extend(onnx.load(path, load_external_data=False).metadata_props)
        onnx.save(model, files[-1])
        os.replace(files[-1], path)
    finally:
        for left_over in files:
            left_over.unlink(missing_ok=True)


def _halve(graph: onnx.GraphProto) -> None:
    """Store each float32 tensor of a graph in half precision, with a cast, if that changes no number."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) <= SMALL:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if (half == values).all():
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _silence() -> Iterator[Any]:
    """Suppress the tools' advice to do preprocessing that is already done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
