"""The loop of a training run: the steps of an epoch, one step, and what an interrupt does. It knows neither recipe nor
data set: `train` hands both in."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.data.datasets import Batch, batches, epoch_order
from captioner.device import autocast
from captioner.training.objectives.cross_entropy import cross_entropy
from captioner.training.optim import schedule, set_learning_rates
from captioner.training.run import Run
from captioner.vocabulary import PAD


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the run has been saved."""


def run_epoch(run: Run, dataset: Dataset, seed: tuple[int, ...]) -> None:
    """Take the remaining steps of an epoch over the training items, shuffled by `seed`. After Ctrl-C or SIGTERM the
    current step is finished and saved, then KeyboardInterrupt is raised."""
    config, progress, stage = run.config, run.progress, run.stage
    photos = len(run.training.records)
    epoch_steps = -(-photos // config.batch_size)
    remaining = epoch_order(photos, config.batch_size, seed)[progress.batch :]
    seen = min(progress.batch * config.batch_size, photos)
    bar = tqdm(total=photos, initial=seen, desc=run.title, unit="photo", dynamic_ncols=True)
    run.model.train()
    with bar, _signals() as interrupted:
        for batch in batches(dataset, remaining, config.workers):
            done = progress.epoch * epoch_steps + progress.batch
            set_learning_rates(run.optimizer, schedule(done, stage.epochs * epoch_steps, config.warmup))
            torch.manual_seed(config.seed * 1_000_003 + progress.step)
            figures = train_step(run, batch)
            progress.step += 1
            progress.batch += 1
            bar.update(len(batch.ids))
            bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
            figures["learning_rate"] = run.optimizer.param_groups[0]["lr"]
            run.journal.write("step", progress.step, stage=stage.name, epoch=progress.epoch + 1, **figures)
            if interrupted:
                break
            if config.save_every and progress.step % config.save_every == 0:
                run.save("last")
        run.save("last")
    if interrupted:
        raise KeyboardInterrupt


def train_step(run: Run, batch: Batch) -> dict[str, float]:
    """One step of joint back-propagation. Returns the loss (nats a token) and the gradient's norm before clipping;
    raises FloatingPointError, with nothing changed, if either is no finite number."""
    config, device = run.config, run.captioner.model.device
    batch = batch.to(device)
    real = batch.targets != PAD
    with autocast(device):
        logits, _, _ = run.model(batch.images, batch.inputs, real)
        loss = cross_entropy(logits, batch.targets[real], config.label_smoothing) / real.sum()
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise FloatingPointError(
            f"step {run.progress.step + 1}: the loss is {loss.item()} and its gradient's norm {norm.item()}; photos of "
            f"the batch: {', '.join(map(str, batch.ids))}. The last saved checkpoint is untouched. Try a smaller "
            "--learning-rate."
        )
    run.optimizer.step()
    return {"loss": loss.item(), "gradient_norm": norm.item()}


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that a first Ctrl-C (or SIGTERM) fills, so no step is cut in two; a second one does its usual work."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])
        print("\nfinishing the step, then saving ...", file=sys.stderr)

    before = {int(number): signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
