"""The verb export: a checkpoint made ready to run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioner.cli.options import app


@app.command
def export(
    checkpoint: tyro.conf.Positional[Path],
    /,
    format: Literal["onnx", "pt2"] = "onnx",
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIRECTORY", help_behavior_hint="")] = None,
) -> int:
    """Make a checkpoint ready to run without torch, and fast on a CPU. It stays a checkpoint as before.

    Args:
        checkpoint: Directory of the model.
        format: onnx: small graphs beside the weights, which captioner then runs by itself; pt2: for other programs,
            as torch.export saves it.
        output: Make a copy of the checkpoint there, and put the graphs into the copy.
    """
    from captioner.export import export as run

    for path in run(checkpoint, format, output):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)
    return 0
