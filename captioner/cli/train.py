"""The verbs train, find-lr, average, pretrain and toy: a captioner, its learning rate, the mean of several, a language
model, and a small world to train on."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from captioner.cli.options import Output, app
from captioner.config import ModelConfig, RecurrentConfig
from captioner.training.config import Config, FindConfig, PretrainConfig, TrainConfig

# Data and text may be missing where a run is resumed: it has them in its settings.
TRAIN = TrainConfig(data=(), output=tyro.MISSING)
FIND = FindConfig(data=())
PRETRAIN = PretrainConfig(text=(), output=tyro.MISSING)


@app.command
def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TRAIN) -> int:
    """Train a model: CNN and RNN jointly, in stages, on Flickr8k, Flickr30k, COCO or your own photos."""
    _set_up_torchrun()
    from captioner.training.train import train as run

    if config.resume:
        config = _read_again(TrainConfig, _settings_of_run(TrainConfig, config.output))
    elif config.init is not None:
        model = ModelConfig(**_architecture(config.init))
        config = _read_again(TrainConfig, replace(config, model=model))
    print(f"best checkpoint: {run(config)}")
    return 0


def _set_up_torchrun() -> None:
    """Of the processes of torchrun, the first one prints; errors are printed by all."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read by torch's import; warnings of its own settings
    if os.environ.get("RANK", "0") != "0":
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _architecture(checkpoint: Path) -> dict[str, Any]:
    from captioner.checkpoint.manifest import find_checkpoint, read_config

    return read_config(find_checkpoint(checkpoint))["model"]


def _settings_of_run(kind: type[Config], output: Path) -> Config:
    from captioner.checkpoint.manifest import read_json
    from captioner.training.config import read_settings

    path = output / "train.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, so there is no run to resume. Check --output.")
    saved = read_json(path)
    saved.pop("records", None)
    return replace(read_settings(kind, saved, path), output=output, resume=True)


def _read_again(kind: type[Config], defaults: Config) -> Config:
    """The command line, read over other defaults. A switch that is on there may be given again (FlagCreatePairsOff
    would allow only its opposite)."""
    return tyro.cli(kind, args=sys.argv[2:], default=defaults)


@app.command(name="find-lr")
def find_lr(config: Annotated[FindConfig, tyro.conf.arg(name="")] = FIND) -> int:
    """Find a learning rate: plot the range test for the settings of train. No run is created or changed."""
    from captioner.training.learning_rate_finder import find_learning_rate
    from captioner.visualize.page import check_path
    from captioner.visualize.range_test import save_range_test

    check_path(config.picture)
    if config.resume:
        raise ValueError(f"find-lr cannot resume a run. To start from its model, pass --init {config.output / 'best'}")
    if config.init is not None:
        config = _read_again(FindConfig, replace(config, model=ModelConfig(**_architecture(config.init))))
    found = find_learning_rate(config)
    marks = {"steepest": found.steepest, "lowest loss": found.lowest}
    marks |= {} if found.problem else {"suggested": found.suggestion}
    save_range_test(config.picture, found.rates, found.losses, found.smooth, marks)
    print(f"curve      {config.picture}, {len(found.rates)} steps from {found.rates[0]:.2g} to {found.rates[-1]:.2g}")
    print(f"steepest   {found.steepest:.2g}, where the loss falls fastest")
    print(f"lowest     {found.lowest:.2g}, after which the loss rises")
    if found.problem:
        raise ValueError(found.problem)
    print(f"suggested  {_learning_rates(config, found.suggestion)}: a tenth of the rate with the lowest loss")
    return 0


def _learning_rates(config: TrainConfig, rate: float) -> str:
    """The options that set the decoder's rate in the first stage, and the CNN's in proportion."""
    if config.stages[0].rpartition("@")[2].startswith("decoder:"):
        return f"--learning-rate {rate:.2g}"
    encoder = rate * config.encoder_learning_rate / config.joint_learning_rate
    return f"--joint-learning-rate {rate:.2g} --encoder-learning-rate {encoder:.2g}"


@app.command
def average(
    checkpoints: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIRECTORY ...", help_behavior_hint="")
    ],
    /,
    output: Output,
    shares: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE ...", help_behavior_hint="")] = (),
) -> int:
    """Average the weights of checkpoints: epochs of one run, or runs that started from the same weights.

    Args:
        checkpoints: Checkpoint directories with the same architecture and vocabulary. Settings are those of the first.
        output: Directory of the new checkpoint.
        shares: Weight of each checkpoint in the mean, such as 0.8 0.2. They sum to 1. Default: equal weights.
    """
    from captioner.training.averaging import average_checkpoints

    average_checkpoints(checkpoints, output, shares)
    print(f"{output}: mean of {len(checkpoints)} checkpoints. Score it: captioner evaluate --checkpoint {output} ...")
    return 0


@app.command
def pretrain(config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = PRETRAIN) -> int:
    """Train a language model (the decoder without photos) on text; train --init starts a captioner from it."""
    _set_up_torchrun()
    from captioner.training.pretrain import pretrain as run

    if config.resume:
        config = _read_again(PretrainConfig, _settings_of_run(PretrainConfig, config.output))
    elif config.init is not None:
        sizes = {each.name for each in fields(RecurrentConfig)}
        saved = {name: value for name, value in _architecture(config.init).items() if name in sizes}
        config = _read_again(PretrainConfig, replace(config, model=RecurrentConfig(**saved)))
    print(f"best checkpoint: {run(config)}")
    return 0


@app.command
def toy(directory: tyro.conf.Positional[Path], /, images: int = 1000, size: int = 64, seed: int = 0) -> int:
    """Make a small synthetic data set: images of coloured shapes, captions, and object boxes.

    Args:
        directory: Folder to write it to.
        images: Number of images.
        size: Side of an image in pixels.
        seed: The same seed makes the same data set.
    """
    from captioner.data.toy import make_toy

    make_toy(directory, images=images, size=size, seed=seed)
    print(
        f"{directory}: {images} images of {size} x {size} pixels. Train on it: captioner train --data {directory} ..."
    )
    return 0
