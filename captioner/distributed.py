"""Several processes started by torchrun: each takes a share of the work, and one of them, the main process, writes the
files. How they train one model is in `training.parallel`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as processes
from torch.distributed.rendezvous import rendezvous

PATIENCE = timedelta(hours=12)  # others wait while one reads a data set; if a process dies, torchrun ends all
ARRIVAL = timedelta(minutes=10)  # within which all processes must join


@contextmanager
def joined(device: str) -> Iterator[bool]:
    """Join the processes of torchrun; without torchrun, do nothing. Yields whether torchrun has restarted them, because
    one died (--max-restarts) or a machine joined or left."""
    if started() == 1 or processes.is_initialized():
        yield int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, own, size = next(rendezvous("env://", timeout=PATIENCE))
    start = agree_on_start(store, own, size)
    processes.init_process_group(
        "nccl" if cuda else "gloo", timeout=PATIENCE,
        store=processes.PrefixStore(f"captioner/{start}", store), rank=own, world_size=size,
    )  # fmt: skip
    with deaths_named():
        yield start > 1
    processes.destroy_process_group()  # not after an error, as it would wait for the others


@contextmanager
def deaths_named() -> Iterator[None]:
    """Turn the error of a broken connection, which means that another process is gone, into a one-line
    ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, processes.DistError) or "gloo" in str(error):
            raise ConnectionError(
                "another process of this run has died. See its error, or the output of torchrun."
            ) from error
        raise


def agree_on_start(store: processes.Store, own: int, size: int) -> int:
    """The number of this start of the processes, counted from 1. All `size` processes agree on it; this one has the
    rank `own`. torchrun (2.14) keeps its store when it restarts processes, so entries of dead processes could be
    mistaken for new ones, and such a start hung. So each process asks with a fresh ticket."""
    if own:
        ticket = uuid4().hex
        store.set(f"captioner/asks/{own}", ticket)
        start = int(store.get(f"captioner/answer/{ticket}"))
        store.add(f"captioner/{start}/arrived", 1)
        return start
    start, end = store.add("captioner/starts", 1), time.monotonic() + ARRIVAL.total_seconds()
    while (arrived := store.add(f"captioner/{start}/arrived", 0)) < size - 1:
        for other in range(1, size):
            if store.check([f"captioner/asks/{other}"]):
                store.set(f"captioner/answer/{store.get(f'captioner/asks/{other}').decode()}", str(start))
        if time.monotonic() > end:
            raise TimeoutError(f"{arrived + 1} of {size} processes joined within {ARRIVAL}. Start them with torchrun.")
        time.sleep(0.05)
    return start


def started() -> int:
    """The number of processes that torchrun has started; 1 without it. `count` is the number that have joined."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count() -> int:
    return processes.get_world_size() if processes.is_initialized() else 1


def rank() -> int:
    return processes.get_rank() if processes.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def share(items: Sequence[Any]) -> list[Any]:
    """This process's share of the items. Each item is in the share of exactly one process."""
    return list(items[rank() :: count()])


def join(shares: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """The whole tensor from the shares of all processes: the inverse of `share`."""
    whole = list(shares[0].shape)
    whole[dim] = sum(part.shape[dim] for part in shares)
    joined = shares[0].new_empty(whole)
    for number, part in enumerate(shares):
        joined.movedim(dim, 0)[number :: len(shares)] = part.movedim(dim, 0)
    return joined


def gather(value: Any) -> list[Any]:
    """The values of all processes, in order of rank. The values must be picklable."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    processes.all_gather_object(values, value)
    return values


def wait() -> None:
    """Wait until all processes have called this."""
    gather(None)


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs this context first, then the others, which find what it has written."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()
