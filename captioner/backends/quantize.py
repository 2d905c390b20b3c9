"""Graphs of an exported checkpoint in eight-bit integers, by the ONNX runtime's own tools: the decoder's matrices as
they are (dynamic quantisation), the CNN's convolutions calibrated on photos (static quantisation, a scale a channel).
Such a graph holds its weights, as the checkpoint has them in another form. What is lost, `captioner evaluate` tells."""

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
    """Replace the word graph of an exported checkpoint and, if there are photos to calibrate it on, the photo graph.
    Raises ImageError."""

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
    """Batches of preprocessed photos, read when they are asked for."""

    def __init__(self, preprocess: Preprocess, photos: Sequence[Source]):
        starts = range(0, len(photos), BATCH)
        self.batches = (
            np.stack([preprocess.read(photo)[0] for photo in photos[start : start + BATCH]]) for start in starts
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def _replace(path: Path, *works: Callable[[Path, Path], None]) -> None:
    """What the works make of a graph, one after the other, takes its place. Weights are made float32 constants and
    batch norm is folded before: the tools see no further. All is written beside the graph, which names its weights by
    their place."""
    steps = [path.with_name(f".{path.name}.{number}") for number in range(len(works) + 1)]
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(steps[0])
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for work, source, target in zip(works, steps, steps[1:], strict=False):
            work(source, target)
        graph = onnx.load(steps[-1], load_external_data=False)
        del graph.metadata_props[:]
        graph.metadata_props.extend(onnx.load(path, load_external_data=False).metadata_props)
        onnx.save(graph, steps[-1])
        os.replace(steps[-1], path)
    finally:
        for left_over in steps:
            left_over.unlink(missing_ok=True)


@contextmanager
def _silence() -> Iterator[Any]:
    """The tools advise, for each graph, what has been done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
