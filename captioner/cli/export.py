"""The verb export: a checkpoint made ready to run without torch."""

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
) -> int:
    """Make a checkpoint ready to run without torch, and fast on a CPU. It stays a checkpoint as before.

    Args:
        checkpoint: Directory of the model.
        format: onnx: small graphs beside the weights, which captioner then runs by itself; pt2: for other programs,
            as torch.export saves it.
        int8: Eight-bit weights, for a little less memory and time and a little loss: of the decoder and, if photos (or
            folders of them) to calibrate on are given, of the CNN. Evaluate before you use it.
        output: Make a copy of the checkpoint there, and put the graphs into the copy.
    """
    from captioner.backends.export import export as run

    photos = None if int8 is None else find_photos(int8, recursive=False) if int8 else []
    for path in run(checkpoint, format, output, photos):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)
    return 0
