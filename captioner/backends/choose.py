"""Which backend runs a checkpoint: the ONNX runtime or torch. Neither is imported to decide."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from captioner.checkpoint.manifest import GRAPHS, WEIGHTS
from captioner.checkpoint.weights import read_header

Backend = Literal["auto", "onnx", "torch"]


def choose_backend(directory: Path, device: str = "auto", backend: Backend = "auto") -> Literal["onnx", "torch"]:
    """The backend for a checkpoint. `auto` is the ONNX runtime for an exported model on a CPU, and torch for a model
    that is not exported, for any other device, and on a machine with an NVIDIA GPU unless the model has only eight-bit
    graphs. Raises ValueError if `device` and `backend` do not go together, and CheckpointError for damaged weights."""
    if backend not in get_args(Backend):
        raise ValueError(f"unknown backend {backend!r}; expected one of: {', '.join(get_args(Backend))}.")
    if backend == "onnx" and device not in ("auto", "cpu"):
        raise ValueError(f"the ONNX backend runs on the CPU only, not on {device!r}. Pass backend torch or device cpu.")
    if backend != "auto":
        return backend
    if device not in ("auto", "cpu"):
        return "torch"
    if not find_spec("torch"):
        return "onnx"
    if not has_graphs(directory):
        return "torch"
    return "torch" if device == "auto" and has_nvidia_gpu() and read_header(directory / WEIGHTS) else "onnx"


def has_graphs(directory: Path) -> bool:
    """Whether the checkpoint was exported."""
    return all((directory / f"{name}.onnx").is_file() for name in GRAPHS)


def has_nvidia_gpu() -> bool:
    """Asks the driver, because importing torch would take seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
