"""Training of one model in several processes. torchrun starts them; DistributedDataParallel averages their gradients
during the backward pass. Shares of a batch may differ in size, so each process computes a sum of losses, and the step
divides the averaged gradients by the mean count per process. N processes therefore take the same step as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from captioner import distributed
from captioner.training.objectives import Loss

if TYPE_CHECKING:
    from captioner.training.run import Run


class Share(nn.Module):
    """A model and its objective as one module: the loss of this process's share of a batch."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, run: Run, batch: Any | None) -> Loss:
        """A batch of None is an empty share: the process contributes zeros to the sum."""
        if batch is None:
            learning = next(parameter for parameter in self.model.parameters() if parameter.requires_grad)
            return Loss(0.0 * learning.sum(), 0)
        return replace(self.objective(run, batch), forward=None)


def parallel(model: nn.Module, objective: nn.Module) -> DistributedDataParallel | None:
    """The module that computes the losses of a stage on several processes; None if there is only one process. A
    parameter that no process uses in a step gets no gradient, as on one process."""
    if distributed.count() == 1:
        return None
    return DistributedDataParallel(Share(model, objective), find_unused_parameters=True, gradient_as_bucket_view=True)


@contextmanager
def exchanging(share: DistributedDataParallel | None, last: bool) -> Iterator[None]:
    """A context for the forward and backward pass of one of a step's accumulated batches. The accumulated gradients are
    averaged over the processes only in the `last` one."""
    with nullcontext() if share is None or last else share.no_sync():
        yield
