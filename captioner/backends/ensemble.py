"""An ensemble: several models propose each word by the mean of their probabilities. To the search it is a backend like
any other. Members may run on torch or on the ONNX runtime; they share vocabulary and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from captioner.step import Choices, Choose, Step, choose_words


class Backend(Protocol):
    """The interface of a member: photos are encoded once, then a search takes steps over the encoding."""

    def encode(self, images: np.ndarray) -> Any: ...
    def step(self, encoded: Any) -> Step: ...
    def step_without_each_region(self, encoded: Any) -> Step: ...


class EnsembleBackend:
    def __init__(self, members: Sequence[Backend], vocabulary_size: int):
        self.members = tuple(members)
        self.vocabulary_size = vocabulary_size

    def __str__(self) -> str:
        return " + ".join(map(str, self.members))

    def encode(self, images: np.ndarray) -> tuple[Any, ...]:
        """Preprocessed photos (B, 3, S, S) -> what each member needs of them."""
        return tuple(member.encode(images) for member in self.members)

    def step(self, encoded: tuple[Any, ...]) -> Step:
        steps = [member.step(part) for member, part in zip(self.members, encoded, strict=True)]
        return partial(mean_step, steps, self.vocabulary_size)

    def step_without_each_region(self, encoded: tuple[Any, ...]) -> Step:
        steps = [member.step_without_each_region(part) for member, part in zip(self.members, encoded, strict=True)]
        return partial(mean_step, steps, self.vocabulary_size)

    def grid_mean(self, encoded: tuple[Any, ...]) -> None:
        """None, because each member has features of its own."""


def mean_step(
    steps: Sequence[Step],
    vocabulary_size: int,
    words: np.ndarray,
    rows: np.ndarray,
    state: tuple[Any, ...] | None,
    images: np.ndarray,
    choose: Choose,
) -> tuple[Choices, tuple[Any, ...]]:
    """A `Step` once `steps`, those of the members, and `vocabulary_size` are bound. Its state is the tuple of the
    members' states. Its attention is the mean of theirs, or None if their grids differ in size."""
    every_word = np.tile(np.arange(vocabulary_size), (len(words), 1))  # (N, V)
    states = state or (None,) * len(steps)
    found = [
        step(words, rows, of_member, images, Choose(wanted=every_word))
        for step, of_member in zip(steps, states, strict=True)
    ]
    log_probabilities = [choices.log_probabilities.astype(np.float64) for choices, _ in found]  # each (N, V)
    mean = np.logaddexp.reduce(log_probabilities) - np.log(len(steps))
    maps = [choices.attention for choices, _ in found if choices.attention is not None]
    comparable = len(maps) == len(steps) and len({each.shape for each in maps}) == 1
    attention = np.mean(maps, axis=0) if comparable else None
    return choose_words(mean.astype(np.float32), choose, attention), tuple(member for _, member in found)
