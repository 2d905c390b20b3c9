"""The verbs train, average, pretrain and toy: a captioner, the mean of several, a language model, and a small world to
train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from captioner.cli.options import Output, app
from captioner.training.config import PretrainConfig, TrainConfig


@app.command
def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> int:
    """Train a model: CNN and RNN jointly, in stages, on Flickr8k, Flickr30k, COCO or your own photos."""
    from captioner.training.train import train as run

    print(f"best checkpoint: {run(config)}")
    return 0


@app.command
def average(
    checkpoints: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIRECTORY ...", help_behavior_hint="")
    ],
    /,
    output: Output,
) -> int:
    """Average the weights of checkpoints of one run, such as those that train --keep-best left.

    Args:
        checkpoints: Their directories.
        output: Directory of the new checkpoint.
    """
    from captioner.training.averaging import average_checkpoints

    average_checkpoints(checkpoints, output)
    print(f"{output}: mean of {len(checkpoints)} checkpoints. Score it: captioner evaluate --checkpoint {output} ...")
    return 0


@app.command
def pretrain(config: Annotated[PretrainConfig, tyro.conf.arg(name="")]) -> int:
    """Train a language model, the decoder without photos, on text; train --init begins a captioner from it."""
    from captioner.training.pretrain import pretrain as run

    print(f"best checkpoint: {run(config)}")
    return 0


@app.command
def toy(directory: tyro.conf.Positional[Path], /, images: int = 1000, size: int = 64, seed: int = 0) -> int:
    """Make a small synthetic data set: coloured shapes, what one can say of them, and where they are.

    Args:
        directory: Where to write it.
        images: How many.
        size: Their side in pixels.
        seed: The same seed makes the same data set.
    """
    from captioner.data.toy import make_toy

    make_toy(directory, images=images, size=size, seed=seed)
    print(
        f"{directory}: {images} images of {size} x {size} pixels. Train on it: captioner train --data {directory} ..."
    )
    return 0
