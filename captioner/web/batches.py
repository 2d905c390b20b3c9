"""The queue: waiting items of one kind are processed as a batch. One worker thread takes the waiting items, up to the
batch size, and never waits for a batch to fill up. The items may be anything."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Kind, Item, Result]):
    kind: Kind
    item: Item
    future: asyncio.Future[Result]


class Batches(Generic[Kind, Item, Result]):
    """Call `run(kind, items) -> results` in a thread, for items that are submitted one by one."""

    def __init__(self, run: Callable[[Kind, Sequence[Item]], Sequence[Result]], largest: int):
        self._run = run
        self._largest = largest
        self._waiting: deque[_Waiting[Kind, Item, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captioner-batches")

    async def submit(self, kind: Kind, item: Item) -> Result:
        """The result of the item. Raises what `run` raised. An item that is cancelled before its turn is not run."""
        waiting = _Waiting(kind, item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.future

    async def _work(self) -> None:
        while batch := self._next():
            items = [waiting.item for waiting in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._run, batch[0].kind, items
                )
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
            else:
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(result)

    def _next(self) -> list[_Waiting[Kind, Item, Result]]:
        """The item that has waited longest and others of its kind. The rest keep their order."""
        there = [waiting for waiting in self._waiting if not waiting.future.done()]
        batch = [waiting for waiting in there if waiting.kind == there[0].kind][: self._largest]
        taken = {id(waiting) for waiting in batch}
        self._waiting = deque(waiting for waiting in there if id(waiting) not in taken)
        return batch

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
