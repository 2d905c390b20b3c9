"""Which device a model runs on, and in which precision. The machine's capabilities are queried, never assumed.

Captioning computes in float32. That is torch's default on a CPU and on Apple's MPS. On CUDA, cuDNN uses TF32 (10 bits
of mantissa instead of 23) unless `use_full_float32` is called. Even so, devices add numbers in different orders, so
their results agree to about six digits but not bit for bit.

Two runs on one machine give the same bits on a CPU with the same number of threads, and on CUDA after
`make_deterministic`. MPS gives no such guarantee, and has no float64."""

from __future__ import annotations

import os

import torch


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is a GPU if there is one. Raises ValueError if the device cannot be used."""
    if name == "gpu":
        raise ValueError("there is no device 'gpu'; expected cuda (NVIDIA), mps (Apple), cpu or auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Pass --device auto or cpu.") from error
    return device


def use_full_float32() -> None:
    """Switch off TF32 for the whole process, so that float32 on CUDA has the precision that it has on a CPU. bfloat16
    autocast is not affected. Convolutions and recurrent layers in float32 get slower."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def make_deterministic() -> None:
    """Make the whole process reproducible bit for bit on CUDA, as an exact resume requires: deterministic algorithms,
    not chosen by timing. Training gets slower. An operation without a deterministic form gives a warning.

    Call it before the first operation on CUDA: cuBLAS reads its workspace setting only once.
    (https://pytorch.org/docs/stable/notes/randomness.html)"""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast on this device. A CPU without instructions for it is much slower than with float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.backends.mkldnn.is_available()
    return False


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast where it is fast; elsewhere a context that changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))
