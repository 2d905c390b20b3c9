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
    """Add graphs to a checkpoint, so that it runs without torch and faster on a CPU.

    Args:
        checkpoint: Directory of the model.
        format: onnx: small graphs beside the weights, which captioner runs from then on. pt2: for other programs, as
            torch.export saves them.
        int8: Make the decoder compute with eight-bit integers, which takes a little less memory and time. With photos
            (or folders) to calibrate on, the CNN too, which makes captions worse: run captioner evaluate on the result
            before you use it. With --output, the copy has no other weights, and torch cannot run it.
        output: Leave the checkpoint as it is, and add the graphs to a copy there.
        force: Replace a checkpoint that is in --output already.
    """
    from captioner.backends.export import export as run

    photos = None if int8 is None else find_photos(int8, recursive=False)[0] if int8 else []
    for path in run(checkpoint, format, output, photos, force):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)
    return 0
