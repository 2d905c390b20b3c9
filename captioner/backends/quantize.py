"""Eight-bit graphs, made by the ONNX runtime's own tools: dynamic quantisation of the decoder's matrices, static
quantisation (calibrated on photos, one scale per channel) of the CNN's convolutions. Such a graph holds its own
weights. Use `captioner evaluate` to measure the loss in quality."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization

from captioner.checkpoint.manifest import GRAPHS
from captioner.images import Preprocess, Source

BATCH = 8
INTEGERS = quantization.QuantType.QInt8


def quantize(directory: Path, preprocess: Preprocess, photos: Sequence[Source] = ()) -> None:
    """Replace the word graph of an exported checkpoint by an eight-bit one and, if there are photos to calibrate it on,
    the photo graph. Raises ImageError."""

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


def _replace(path: Path, *steps: Callable[[Path, Path], None]) -> None:
    """Replace a graph by the result of these steps, one after the other. Before them, the runtime turns the weights
    into float32 constants and folds batch norm, as the tools do not handle external weights and casts. The files in
    between lie beside the graph, since it refers to its weights by a relative path."""
    files = [path.with_name(f".{path.name}.{number}") for number in range(len(steps) + 1)]
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(files[0])
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for step, source, target in zip(steps, files, files[1:], strict=False):
            step(source, target)
        graph = onnx.load(files[-1], load_external_data=False)
        del graph.metadata_props[:]
        graph.metadata_props.extend(onnx.load(path, load_external_data=False).metadata_props)
        onnx.save(graph, files[-1])
        os.replace(files[-1], path)
    finally:
        for left_over in files:
            left_over.unlink(missing_ok=True)


@contextmanager
def _silence() -> Iterator[Any]:
    """For each graph the tools advise to do what is done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
