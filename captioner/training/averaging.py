"""Averages of weights: a moving average during training, and the mean of several checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.checkpoint.card import model_card
from captioner.checkpoint.manifest import find_checkpoint
from captioner.checkpoint.tensors import load_checkpoint, save_checkpoint

# Entries that the config of a checkpoint may have, for a captioner or a language model.
OF_THE_MODEL = ("kind", "model", "level", "document", "preprocess", "decoding", "vocabulary")


class MovingAverage:
    """The exponential moving average of a model's weights, in float32 (Polyak and Juditsky 1992 is the uniform form):
    after each step, average ← d · average + (1 - d) · weights. At update t, d is min(decay, (1 + t) / (10 + t)), as in
    TensorFlow's `ExponentialMovingAverage`, so that the initial weights are soon forgotten. Buffers, such as the
    running statistics of batch norm, are averages already and are not averaged again."""

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(
                f"the decay of a moving average is {decay}; expected 0 or more and below 1, such as 0.999."
            )
        self.decay = decay
        self.updates = 0
        self.weights = {name: weight.detach().float().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in model.named_parameters():
            self.weights[name].lerp_(weight.float(), 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside this context the model has the averaged weights. Afterwards its own are restored exactly."""
        own = {name: weight.clone() for name, weight in model.named_parameters()}
        try:
            _set(model, self.weights)
            yield
        finally:
            _set(model, own)

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """Everything that `restore` needs, to be saved in a file."""
        return {"updates": self.updates, "weights": self.weights}

    def restore(self, updates: int, weights: Mapping[str, Tensor]) -> None:
        self.updates = updates
        for name, average in self.weights.items():
            average.copy_(weights[name])


def _set(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        weight.copy_(weights[name])


def mean_weights(checkpoints: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The mean of named tensors, computed in float64 and weighted by the shares, which sum to 1. Integer tensors come
    from the last checkpoint. Raises ValueError if the checkpoints differ in names or shapes."""
    first = checkpoints[0]
    for number, checkpoint in enumerate(checkpoints[1:], 2):
        for name in sorted(first.keys() | checkpoint.keys()):
            shapes = [tuple(each[name].shape) if name in each else None for each in (first, checkpoint)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name} has the shape {shapes[0]} in checkpoint 1 and {shapes[1]} in checkpoint {number}; "
                    "expected checkpoints of one architecture."
                )
    weights = torch.tensor(shares, dtype=torch.float64)
    means = {}
    for name, tensor in first.items():
        tensors = [checkpoint[name] for checkpoint in checkpoints]
        if tensor.is_floating_point():
            stacked = torch.stack([each.double() for each in tensors])
            means[name] = torch.tensordot(weights, stacked, 1).to(tensor.dtype)
        else:
            means[name] = tensors[-1].clone()
    return means


def _check_shares(shares: Sequence[float], checkpoints: int) -> None:
    """Raise ValueError unless there is a positive share for each checkpoint, and they sum to 1."""
    if len(shares) != checkpoints:
        raise ValueError(f"{len(shares)} shares for {checkpoints} checkpoints; expected one share for each.")
    given = " ".join(f"{share:g}" for share in shares)
    if not all(share > 0 for share in shares):
        raise ValueError(f"the shares are {given}; expected numbers above 0.")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"the shares {given} sum to {sum(shares):g}; expected 1. For equal shares, leave them out.")


def _comparable(saved: Any) -> Any:
    """A part of a checkpoint's config without the settings that matter only in training and may differ between runs."""
    if isinstance(saved, Mapping):
        return {name: value for name, value in saved.items() if name not in ("dropout", "feature_dropout")}
    return saved


def average_checkpoints(directories: Sequence[Path], output: Path, shares: Sequence[float] = ()) -> None:
    """Write a checkpoint whose weights are the mean of these checkpoints, weighted by their shares (default: equal). It
    has the settings and the training record of the first, and no scores.

    The checkpoints must be epochs of one run, or of several runs with the same architecture, vocabulary and initial
    weights (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482). The mean of models with different
    initial weights is useless. Raises CheckpointError, and ValueError for checkpoints of different models and for
    shares that are not positive or do not sum to 1.
    """
    if not directories:
        raise ValueError("no checkpoints to average; expected their directories, such as RUN/kept/*.")
    shares = shares or [1 / len(directories)] * len(directories)
    _check_shares(shares, len(directories))
    directories = [find_checkpoint(directory) for directory in directories]
    loaded = [load_checkpoint(directory) for directory in directories]
    first = loaded[0][1]
    for directory, (_, saved) in zip(directories, loaded, strict=True):
        for name in ("kind", "model", "level", "preprocess", "vocabulary"):
            if _comparable(saved.get(name)) != _comparable(first.get(name)):
                raise ValueError(
                    f"{directory} and {directories[0]} differ in their {name}; expected checkpoints of one run, or of "
                    "runs of one architecture and vocabulary."
                )
    names = ["/".join(directory.resolve().parts[-2:]) for directory in directories]  # no paths of this machine
    averaged = [{"checkpoint": name, "share": share} for name, share in zip(names, shares, strict=True)]
    training = (first.get("training") or {}) | {"averaged": averaged}
    config = {name: first[name] for name in OF_THE_MODEL if name in first} | {"training": training, "scores": None}
    save_checkpoint(output, mean_weights([tensors for tensors, _ in loaded], shares), config, model_card(config))
