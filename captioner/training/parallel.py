"""One model that learns in several processes. torchrun starts them; DistributedDataParallel averages their gradients
while the backward pass still runs. Shares of a batch differ in size, so the mean of the sums is what counts: the step
divides it by the count of all shares per process, and N processes take the step that one takes."""

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
        """A batch of None is an empty share: the process takes part in the sum with zeros."""
        if batch is None:
            learning = next(parameter for parameter in self.model.parameters() if parameter.requires_grad)
            return Loss(0.0 * learning.sum(), 0)
        return replace(self.objective(run, batch), forward=None)


def parallel(model: nn.Module, objective: nn.Module) -> DistributedDataParallel | None:
    """What computes the losses of a stage on several processes; None if there is only one. A parameter that no process
    uses in a step stays without a gradient, as it does on one process."""
    if distributed.count() == 1:
        return None
    return DistributedDataParallel(Share(model, objective), find_unused_parameters=True, gradient_as_bucket_view=True)


@contextmanager
def exchanging(share: DistributedDataParallel | None, last: bool) -> Iterator[None]:
    """For the forward and the backward pass of a part of a step: the gradients are averaged over the processes in the
    `last` part, those of the parts before included."""
    with nullcontext() if share is None or last else share.no_sync():
        yield
