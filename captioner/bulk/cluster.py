"""Bulk captioning on a Ray cluster. Ray schedules, retries and moves data; `parts` makes a run resumable.

A worker captions one part at a time. If it is killed, Ray gives the part to another worker, which finds it in `trying`
and captions its photos one by one in a second process. A photo that kills that process several times, too, becomes an
error. A photo that was merely in progress when a node failed does not."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioner.bulk.database import Row
from captioner.bulk.listing import Photo
from captioner.bulk.parts import Done, Parts, number_of, source_of
from captioner.bulk.progress import Counts
from captioner.bulk.run import BulkCaptioner, row_of
from captioner.decoding import Decoding
from captioner.lock import lock

ATTEMPTS = 3  # per photo whose process is killed, before it becomes an error


def caption_on_ray(
    directory: str | Path,
    photos: Iterable[Photo],
    load: Callable[[], BulkCaptioner],
    decode: Callable[[Decoding], Decoding] = lambda saved: saved,
    *,
    workers: int | None = None,
    gpus: float = 0,
    part_size: int = 1000,
    batch_size: int = 32,
    address: str | None = None,
    redo: bool = False,
    retry_errors: bool = False,
    show: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Caption the photos that are not yet in `directory`/parts, a Parquet data set; a photo is identified by its name,
    size and modification time. `directory` is a folder, or an address that fsspec supports, such as
    s3://bucket/captions.

    `load` is called once here and once in each worker; `decode` maps the model's decoding options to those of the run.
    `workers` is the number of worker processes (default: one per CPU of the cluster, or as many as its GPUs allow if
    `gpus` are requested); `gpus` is the number per worker. A worker captions `part_size` photos at a time. Without an
    `address`, Ray is started on this machine. `redo` starts over; `retry_errors` retries photos that failed in earlier
    runs.

    Raises ValueError if the directory was made with another model or other decoding options; OSError if another run is
    using it, or if it cannot be written."""
    if part_size < 1:
        raise ValueError(f"--part-size is {part_size}; expected 1 or more.")
    _check_address(address)
    captioner, parts = load(), Parts(str(directory))
    options = decode(captioner.decoding)
    settings = json.loads(json.dumps({"model": captioner.provenance.rpartition("SHA-256 ")[2], **asdict(options)}))
    with _held(parts):
        fresh = parts.begin(photos, settings, part_size, redo)
        tally = _Tally(parts.done(), show)
        failed = tally.failed() if retry_errors else {}

        def caption_missing() -> None:
            tally.tell()
            if missing := parts.missing():
                with _session(address, workers):
                    for result in _results(parts, missing, load, options, workers, gpus, batch_size):
                        tally.add(result)

        caption_missing()
        if not fresh:
            tally.forget(parts.update(photos, part_size, failed))
            caption_missing()
        return tally.counts


@contextmanager
def _held(parts: Parts) -> Iterator[None]:
    """Keep other runs away. An object store has no locks."""
    if not parts.store.is_local:
        yield
        return
    directory = Path(parts.store.place)
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(directory / "lock"))
        except BlockingIOError:
            raise BlockingIOError(f"{directory}: another run is writing to it. Wait until it has finished.") from None
        yield


class _Tally:
    """The counts of a run, from earlier results and the workers' reports."""

    def __init__(self, done: dict[int, Done], show: Callable[[Counts], None]):
        self.counts, self._show = Counts(), show
        self._before = done  # by part number
        self._kept = self._kept_failed = 0  # results of earlier runs in parts that this run has written
        self._written: set[int] = set()

    def failed(self) -> dict[int, list[str]]:
        """The photos that could not be captioned in earlier runs, by part."""
        return {number: done.failed for number, done in self._before.items() if done.failed}

    def forget(self, numbers: Iterable[int]) -> None:
        """Stop counting these parts as done, because they will be written again."""
        for number in numbers:
            self._before.pop(number, None)
        self.tell()

    def add(self, result: dict[str, Any]) -> None:
        self.counts.captioned += result["captioned"]
        self.counts.failed += result["failed"]
        if result["number"] not in self._written:
            self._kept += result["kept"]
            self._kept_failed += result["kept_failed"]
        self._written.add(result["number"])
        self.tell()

    def tell(self) -> None:
        done = self._before.values()
        self.counts.skipped = self._kept + sum(part.rows for part in done)
        self.counts.failed_before = self._kept_failed + sum(len(part.failed) for part in done)
        self._show(self.counts)


@contextmanager
def _session(address: str | None, workers: int | None) -> Iterator[None]:
    """Start Ray, unless the caller has. Messages that are of no use at a terminal are suppressed; Ray's log files still
    have them."""
    import ray
    import ray.data  # creates the logger

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    start = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        session = ray.init(**start, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of several types
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"Ray cannot be reached at {address}: {reason}" if address else f"Ray cannot be started: {reason}"
        ) from error
    with session:
        yield


def _check_address(address: str | None) -> None:
    """Raise OSError at once if nobody listens at HOST:PORT. Ray itself keeps trying for many minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address or "")
    try:
        if match:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
    except (OSError, OverflowError) as error:  # OverflowError: no such port
        raise OSError(
            f"Ray cannot be reached at {address}: {error}. Expected the address that `ray start --head` printed."
        ) from error


def _results(
    parts: Parts,
    missing: list[str],
    load: Callable[[], BulkCaptioner],
    options: Decoding,
    workers: int | None,
    gpus: float,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    import ray

    size = workers or workers_for(ray.cluster_resources(), gpus)
    listed = ray.data.from_items([{"part": part} for part in missing], override_num_blocks=len(missing))
    done = listed.map_batches(
        Worker,
        fn_constructor_args=(parts, load, options, batch_size),
        compute=ray.data.ActorPoolStrategy(size=min(size, len(missing))),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise OSError(
            f"{parts.store.place}: {reason} Finished parts are kept. Run the same command to continue."
        ) from error


def workers_for(resources: Mapping[str, float], gpus: float) -> int:
    """One worker per CPU of a cluster, or as many as its GPUs suffice for."""
    if gpus and resources.get("GPU", 0) < gpus:
        raise ValueError(f"--gpus is {gpus:g}, but the cluster has {resources.get('GPU', 0):g} GPUs. Leave --gpus out.")
    return max(1, int(resources["GPU"] / gpus if gpus else resources.get("CPU", 1)))


class Worker:
    """Captions parts. Ray creates one per worker process, so the model is loaded once. If the process is killed, Ray
    creates another and assigns the part again."""

    def __init__(self, parts: Parts, load: Callable[[], BulkCaptioner], options: Decoding, batch_size: int):
        self.parts, self.load, self.options, self.batch_size = parts, load, options, batch_size
        self.captioner = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        results = [self.caption_part(str(part)) for part in batch["part"]]
        return {name: [result[name] for result in results] for name in results[0]}

    def caption_part(self, part: str) -> dict[str, Any]:
        entries = self.parts.todo(part)
        if self.parts.is_tried(part):
            rows = list(self._one_by_one(entries))
        else:
            self.parts.try_part(part)
            results = self.captioner.caption_many(map(source_of, entries), self.options, self.batch_size)
            rows = [row_of(entry["name"], result) for entry, result in zip(entries, results, strict=True)]
        kept, kept_failed = self.parts.finish(part, rows)
        failed = sum(row.error is not None for row in rows)
        return {
            **{"number": number_of(part), "captioned": len(rows) - failed, "failed": failed},
            **{"kept": kept, "kept_failed": kept_failed},
        }

    def _one_by_one(self, entries: list[dict[str, Any]]) -> Iterator[Row]:
        """Caption each photo in a second process, so that its death can be blamed on the photo, and this process
        survives."""
        import ray

        alone: Any = None
        for entry in entries:
            for _ in range(ATTEMPTS):
                alone = alone or ray.remote(num_cpus=0)(Alone).remote(self.load, self.options)
                try:
                    yield ray.get(alone.caption.remote(entry))
                    break
                except ray.exceptions.RayActorError:
                    alone = None
            else:
                reason = f"its process was killed {ATTEMPTS} times; expected a photo that can be decoded."
                yield Row(entry["name"], error=f"{entry['name']}: {reason}")


class Alone:
    """Captions one photo at a time in a process of its own."""

    def __init__(self, load: Callable[[], BulkCaptioner], options: Decoding):
        self.captioner, self.options = load(), options

    def caption(self, entry: dict[str, Any]) -> Row:
        (result,) = self.captioner.caption_many([source_of(entry)], self.options, 1)
        return row_of(entry["name"], result)
