"""The verb export: make a checkpoint run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioner.cli.options import app, find_photos


@app.command
def export(
    checkpoint: tyro.conf.Positional[Path],
    /,
    format: Literal["onnx", "pt2"] = "onnx",
    int8: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[PHOTO ...]", help_behavior_hint="")] = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIRECTORY", help_behavior_hint="")] = None,
    force: bool = False,
) -> int:
    """Add exported graphs to a checkpoint, so that it runs without torch, and faster on a CPU.

    Args:
        checkpoint: Directory of the model.
        format: onnx: small graphs beside the weights, which captioner then uses. pt2: torch.export files, for other
            programs.
        int8: Quantize the decoder to 8-bit integers, which takes a little less memory and time. Given photos (or
            folders) to calibrate on, also quantize the CNN, which makes captions worse: run captioner evaluate on the
            result before you use it. With --output, the copy has only the graphs, and torch cannot run it.
        output: Write a copy with the graphs to this directory, and leave the checkpoint unchanged.
        force: Replace an existing checkpoint in --output.
    """
    from captioner.backends.export import export as run

    photos = None if int8 is None else find_photos(int8, recursive=False)[0] if int8 else []
    for path in run(checkpoint, format, output, photos, force):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)
    return 0
