"""Where the model runs and in which precision. What a machine can do is asked of the machine, never assumed."""

from __future__ import annotations

import torch


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is a GPU if there is one; otherwise the device of that name, or ValueError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Pass --device auto or cpu.") from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast on this device. A CPU without instructions for it is much slower than with float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.backends.mkldnn.is_available()
    return False


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast where it is fast, and nothing elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))
