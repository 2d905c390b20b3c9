"""The loop of every training recipe: the steps of an epoch, one step, the end of an epoch, and the handling of
interrupts. It does not depend on the data set, the model or the objective, which the recipe passes in. A batch has
`to(device)` and `ids`, the names of its items."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from captioner import distributed
from captioner.device import autocast
from captioner.training.objectives import Loss
from captioner.training.optim import parameters_of, schedule, set_learning_rates
from captioner.training.parallel import exchanging
from captioner.training.run import Run


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM; the message says what is saved in last/."""


def run_epoch(run: Run, order: list[list[int]], load: Callable[[list[list[int]]], Any], unit: str) -> None:
    """Take the remaining steps of an epoch, `--accumulate` batches each. `order` has the items of each batch of the
    epoch, and `load(order)` is a generator of such batches; `unit` names an item in the progress bar. With several
    processes, each loads its share of every batch. After Ctrl-C or SIGTERM the current step is finished and saved, then
    KeyboardInterrupt is raised."""
    config, progress, stage = run.config, run.progress, run.stage
    epoch_steps = math.ceil(len(order) / config.accumulate)
    finished = progress.epoch_step * config.accumulate
    sizes = [len(items) for items in order]
    bar = tqdm(
        total=sum(sizes), initial=sum(sizes[:finished]), desc=run.title, unit=unit, dynamic_ncols=True, disable=None
    )
    run.model.train()
    run.objective.train()
    with bar, closing(load_shares(load, order[finished:])) as batches, _finish_step_when_stopped() as stopped:
        while items := list(islice(batches, config.accumulate)):
            run.stage_step = progress.epoch * epoch_steps + progress.epoch_step
            run.stage_steps = stage.epochs * epoch_steps
            share = schedule(run.stage_step, run.stage_steps, config.warmup) * run.rate(items)
            for optimizer in run.optimizers.values():
                set_learning_rates(optimizer, share)
            torch.manual_seed(config.seed * 1_000_003 + progress.step + (distributed.rank() << 40))
            figures = train_step(run, items)
            progress.step += 1
            progress.epoch_step += 1
            taken = progress.epoch_step * config.accumulate
            bar.update(sum(sizes[taken - config.accumulate : taken]))
            bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
            figures["learning_rate"] = run.optimizers["model"].param_groups[0]["lr"]
            run.journal.write("step", progress.step, stage=stage.name, epoch=progress.epoch + 1, **figures)
            if any(distributed.gather(bool(stopped))):  # all stop after the same step
                break
            if config.save_every and progress.step % config.save_every == 0:
                run.save_last()
        run.save_last()
    if any(distributed.gather(bool(stopped))):
        raise KeyboardInterrupt


def load_shares(load: Callable[[list[list[Any]]], Any], order: list[list[Any]]) -> Generator[Any, None, None]:
    """This process's share of each batch, or None if the share is empty: the last batch may have fewer items than there
    are processes."""
    shares = [distributed.share(items) for items in order]
    with closing(load([items for items in shares if items])) as batches:
        for items in shares:
            yield next(batches) if items else None


def train_step(run: Run, batches: Sequence[Any]) -> dict[str, float]:
    """One step of every optimizer, over all of `batches`. Each process passes the same number of batches, with None for
    an empty share. Returns the mean loss (nats per token), the norm of the model's gradient before clipping, and the
    figures of the objective. Raises FloatingPointError, with the weights unchanged, if the loss or a gradient is not
    finite."""
    for optimizer in run.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    compute, losses = run.parallel or run.objective, []
    for part, batch in enumerate(batches, 1):
        with exchanging(run.parallel, last=part == len(batches)):
            with autocast(run.device):
                loss: Loss = compute(run, None if batch is None else batch.to(run.device))
            loss.sum.backward()  # adds to the gradients of the batches before
        if batch is not None:
            losses.append(replace(loss, sum=loss.sum.detach(), forward=None))
    count, figures = step_means(losses)
    count /= distributed.count()  # the gradients are means over the processes
    norms = {name: _scale_gradients(optimizer, count, run.config.clip) for name, optimizer in run.optimizers.items()}
    figures["gradient_norm"] = norms["model"].item()
    if not (math.isfinite(figures["loss"]) and all(torch.isfinite(norm) for norm in norms.values())):
        ids = [str(name) for batch in batches if batch is not None for name in batch.ids]
        raise FloatingPointError(
            f"step {run.progress.step + 1}: the loss is {figures['loss']} and the norm of its gradient "
            f"{figures['gradient_norm']}; the batch is {', '.join(ids)}. {run.last} holds the run as it was after "
            f"step {run.saved}. Try a smaller --learning-rate."
        )
    for optimizer in run.optimizers.values():
        optimizer.step()
    if run.average is not None:
        run.average.update(run.model)
    run.progress.figures = figures
    return figures


def step_means(losses: Sequence[Loss]) -> tuple[float, dict[str, float]]:
    """The count of the whole step over all processes, and its mean loss and figures."""
    pairs = [{"loss": (loss.sum, loss.count), **loss.figures} for loss in losses]
    own = [{name: (float(total), int(number)) for name, (total, number) in each.items()} for each in pairs]
    parts = [each for gathered in distributed.gather(own) for each in gathered]
    means = {}
    for name in parts[0]:
        totals, numbers = zip(*(each[name] for each in parts), strict=True)
        means[name] = sum(totals) / sum(numbers)
    return sum(each["loss"][1] for each in parts), means


def _scale_gradients(optimizer: torch.optim.Optimizer, count: float, clip: float) -> Tensor:
    """Divide the summed gradients by the count, then clip them to the norm `clip`. Returns the norm before clipping."""
    parameters = [parameter for parameter in parameters_of(optimizer) if parameter.grad is not None]
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad /= count
    return torch.nn.utils.clip_grad_norm_(parameters, clip)


def finish_epoch(run: Run, scores: Mapping[str, float]) -> None:
    """Log the scores of a validation, keep the best model, decide whether the stage continues, and save."""
    config, progress, selection = run.config, run.progress, run.selection
    run.journal.write("validation", progress.step, stage=run.stage.name, epoch=progress.epoch + 1, **scores)
    if progress.best is None and not selection.computed(scores):
        tqdm.write(
            f"{selection.name} cannot be computed on this validation split (too few items?), so the best model is the "
            "one with the lowest validation loss."
        )
    value = selection.value(scores)
    better = progress.best is None or value > progress.best
    print_scores(run, scores, better)
    progress.stale += 1
    if better:
        progress.best, progress.stale = value, 0
        run.save_best(scores)
    progress.epoch, progress.epoch_step = progress.epoch + 1, 0
    if config.patience and progress.stale >= config.patience:
        name = selection.name if selection.computed(scores) else selection.loss
        print(f"{run.stage.name}: no better {name} for {counted(progress.stale, 'epoch')}; the stage ends here.")
        progress.epoch = run.stage.epochs
    run.save_last()


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_scores(run: Run, scores: Mapping[str, float], better: bool) -> None:
    shown = ((name, scores[name]) for name in run.shown)
    figures = "  ".join(f"{name} {'–' if math.isnan(score) else f'{score:.3f}'}" for name, score in shown)
    tqdm.write(f"{run.title}: {figures}{'  (best so far)' if better else ''}")
    sys.stdout.flush()


# Interrupts. Only the main thread can receive and handle signals; in other threads no handler is installed.


@contextmanager
def interruptible(run: Run) -> Iterator[None]:
    """SIGTERM stops the run as Ctrl-C does; either becomes `Interrupted`."""
    with _handling({signal.SIGTERM: signal.default_int_handler}):
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(_what_is_saved(run)) from None


def _what_is_saved(run: Run) -> str:
    if run.saved is None:
        return "stopped before anything was saved. Run the same command to start again."
    lost = run.progress.step - run.saved
    again = f"; the {counted(lost, 'step')} since then will be repeated" if lost else ""
    return (
        f"stopped. {run.last} holds the run as it was after step {run.saved}{again}. "
        f"To continue, pass --output {run.config.output} --resume; the other settings are saved there."
    )


@contextmanager
def _finish_step_when_stopped() -> Iterator[list[float]]:
    """A list that becomes non-empty at the first Ctrl-C or SIGTERM, so that the current step can be finished. A second
    signal stops at once, unless it comes within a second: `timeout` and others signal the process and then its
    group."""
    received: list[float] = []

    def note(number: int, frame: object) -> None:
        received.append(time.monotonic())
        if received[-1] - received[0] > 1:
            raise KeyboardInterrupt
        if len(received) == 1:
            os.write(
                2, b"\nfinishing the step, then saving ...\n"
            )  # print() raises if the signal interrupted another print

    with _handling({signal.SIGINT: note, signal.SIGTERM: note}):
        yield received


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Callable[[int, Any], Any]]) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
