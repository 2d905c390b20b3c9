"""The weights of a checkpoint without torch: the header of their safetensors file, and a check that all are finite. The
format: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from captioner.checkpoint.manifest import AGAIN, CheckpointError, parse_json

LARGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
# For each floating-point type: the unsigned integer of the same size, and the bits of the exponent, which are all set
# in inf and NaN.
EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
}


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The dtype, shape and `data_offsets` (from the beginning of the file) of each tensor. A tied tensor has the entry
    of the tensor that it is tied to. Raises CheckpointError."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not length <= min(size - 8, LARGEST_HEADER):
                raise ValueError(f"its header has {length:,} bytes")
            header = parse_json(file.read(length).decode("utf-8"))
        tied = parse_json(header.pop("__metadata__", {}).get("tied", "{}"))
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= size - 8 - length:
                raise ValueError(f"{name[:80]} lies outside the file")
            header[name] = {**entry, "data_offsets": (8 + length + start, 8 + length + stop)}
        return header | {name: header[other] for name, other in tied.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error!s:.200}). {AGAIN}") from None


def check_finite(path: Path) -> None:
    """Raise CheckpointError if a weight is NaN or infinite. The outputs may not show it, because ReLU may turn NaN into
    0."""
    for name, entry in read_header(path).items():
        if entry.get("dtype") not in EXPONENTS:
            continue
        integer, exponent = EXPONENTS[entry["dtype"]]
        start, stop = entry["data_offsets"]
        values = np.fromfile(path, integer, (stop - start) // integer.itemsize, offset=start)
        if ((values & exponent) == exponent).any():
            raise CheckpointError(
                f"{path} has NaN or infinity in {name[:80]}; expected finite numbers. Take an earlier checkpoint, or "
                "train again with a lower learning rate."
            )
