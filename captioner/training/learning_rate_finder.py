"""The learning-rate range test (Smith 2015, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186,
section 3.3): the steps of a recipe at a learning rate that grows from step to step. The rates at which the loss falls
fastest and at which it stops falling bound the usable range. The run is discarded."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm import tqdm

from captioner import distributed
from captioner.data.datasets import Batch, PhotoDataset, batches, epoch_order
from captioner.training.caption_run import CaptionRun, open_run
from captioner.training.config import FindConfig, check_settings, parse_stage
from captioner.training.loop import train_step
from captioner.training.optim import set_learning_rates
from captioner.training.train import augmented, start_stage

DIVERGED = 2.0  # the test ends once the smoothed loss has risen to this multiple of its lowest value


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test of n steps."""

    rates: np.ndarray  # (n,) learning rates, growing by the same factor from step to step
    losses: np.ndarray  # (n,) the loss of each step, measured before the step changes the weights

    @property
    def smooth(self) -> np.ndarray:
        """(n,) The mean of each loss and its neighbours on both sides, which does not lag as a trailing average
        would."""
        side = max(1, len(self.losses) // 30)
        places = range(len(self.losses))
        return np.array([self.losses[max(0, place - side) : place + side + 1].mean() for place in places])

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return float(self.rates[np.argmin(self.smooth)])

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate, up to `lowest`."""
        end = int(np.argmin(self.smooth)) + 1
        return float(self.rates[np.argmin(np.gradient(self.smooth, np.log(self.rates))[:end])])

    @property
    def suggestion(self) -> float:
        """A tenth of the rate with the lowest loss. At that rate the loss is about to rise, so it is too high for a
        whole stage."""
        return self.lowest / 10

    @property
    def problem(self) -> str | None:
        """Why no rate can be suggested, such as a loss that has not fallen or not risen again within the range; None if
        one can."""
        smooth, end = self.smooth, int(np.argmin(self.smooth))
        if smooth[end] > 0.99 * smooth[0]:
            return "the loss did not fall at any learning rate of the range. Lower --lowest, or add --steps."
        if end == len(smooth) - 1:
            return f"the loss still falls at the highest learning rate, {self.rates[-1]:.2g}. Raise --highest."
        return None


def range_test(step: Callable[[float], float], lowest: float, highest: float, steps: int) -> RangeTest:
    """Take steps at learning rates from `lowest` to `highest`. `step` takes one step at a given rate and returns its
    loss. The test ends early if the loss diverges or is not finite."""
    rates, losses = np.geomspace(lowest, highest, steps), list[float]()
    for rate in rates:
        try:
            loss = step(float(rate))
        except FloatingPointError:
            break
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smooth = RangeTest(rates[: len(losses)], np.array(losses)).smooth
        if smooth[-1] > DIVERGED * smooth.min():
            break
    if len(losses) < 3:
        raise ValueError(f"the loss diverges at the first learning rates, from {lowest:g}. Lower --lowest.")
    return RangeTest(rates[: len(losses)], np.array(losses))


def find_learning_rate(config: FindConfig) -> RangeTest:
    """The range test of the decoder's learning rate in the first stage of the recipe. If the CNN learns, its rate grows
    in proportion. The model is built for the test and then discarded: no files are written, and the caller's random
    state is restored. Raises ValueError for settings and data that cannot be used."""
    check_settings(config)
    if distributed.started() > 1:
        raise ValueError(
            f"find-lr runs in one process, but torchrun has started {distributed.started()}. Run it without torchrun; "
            "what it finds holds for the same --batch-size on any number of processes."
        )
    stage = parse_stage(config.stages[0])
    if stage.objective == "self-critical":
        raise ValueError("the loss of self-critical training does not measure caption quality. Choose another stage.")
    with TemporaryDirectory() as folder, torch.random.fork_rng():
        run, _ = open_run(replace(config, output=Path(folder), resume=False), [stage])
        start_stage(run)
        run.model.train()
        run.objective.train()
        groups = run.optimizers["model"].param_groups
        run.stage_steps = config.steps
        loaded = _batches(run, config.steps * config.accumulate)
        bar = tqdm(total=config.steps, desc="range test", unit="step", dynamic_ncols=True, disable=None)

        def step(rate: float) -> float:
            for optimizer in run.optimizers.values():
                set_learning_rates(optimizer, rate / groups[0]["peak"])  # group 0 is the decoder's
            parts = list(islice(loaded, config.accumulate))  # before seeding, because a loader draws random numbers
            torch.manual_seed(config.seed * 1_000_003 + run.stage_step)
            loss = train_step(run, parts)["loss"]
            run.stage_step += 1
            bar.set_postfix(rate=f"{rate:.1e}", loss=f"{loss:.3f}", refresh=False)
            bar.update()
            return loss

        with bar, closing(loaded):
            return range_test(step, config.lowest, config.highest, config.steps)


def _batches(run: CaptionRun, number: int) -> Generator[Batch, None, None]:
    """`number` batches, epoch after epoch. Features are not cached, because few epochs are needed."""
    config, training = run.config, run.training
    dataset = PhotoDataset(training.records, training.captions, run.captioner.preprocess)
    for epoch in count():
        seed = (config.seed, 0, epoch)
        order = epoch_order(run.photos_of_epoch(seed), config.batch_size, seed)[:number]
        varied = dataset if run.stage.block is None else augmented(run, dataset, seed)
        yield from batches(varied, order, config.workers)
        number -= len(order)
        if not number:
            return
