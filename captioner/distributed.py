"""Several processes that work as one, started by torchrun: each takes its share, and one of them, the main process,
writes. How they train one model is in `training.parallel`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as processes

PATIENCE = timedelta(hours=12)  # others wait while one computes features; a process that dies ends all by torchrun


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes of torchrun; without torchrun, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or processes.is_initialized():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    processes.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    yield
    processes.destroy_process_group()  # not after an error: the others are not there to take leave


def restarted() -> bool:
    """Whether torchrun has started the processes again after one of them failed (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def count() -> int:
    return processes.get_world_size() if processes.is_initialized() else 1


def rank() -> int:
    return processes.get_rank() if processes.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def share(items: Sequence[Any]) -> list[Any]:
    """What this process takes of the items; all of them together take each once."""
    return list(items[rank() :: count()])


def join(shares: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """A tensor from the shares that the processes have of it: what `share` does, undone."""
    whole = list(shares[0].shape)
    whole[dim] = sum(part.shape[dim] for part in shares)
    joined = shares[0].new_empty(whole)
    for number, part in enumerate(shares):
        joined.movedim(dim, 0)[number :: len(shares)] = part.movedim(dim, 0)
    return joined


def gather(value: Any) -> list[Any]:
    """The values of all processes, in order. Any value that can be pickled."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    processes.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until all processes are here."""
    gather(None)


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes first through this context, then the others: they find what it has written."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()
