"""The same work on a Ray cluster. Ray schedules, retries and moves data; this file is what makes a run resumable.

The run lives in one directory, which every node must reach:

    photos/000012.jsonl   the listing, cut into shards: one photo per line
    run.json              written when the listing is whole: what the captions depend on
    parts/000012.parquet  the results of a shard; written beside and renamed, so a part is whole or absent
    trying/000012         a worker of this run is at work on the shard, or was killed at it

A restart captions the shards that have no part. A worker that finds a file in `trying` knows that another one was
killed at the shard, and captions it photo by photo in a second process. A photo that kills that one, too, several
times, is an error. A photo that was in progress when a node failed is not."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

from captioner.bulk.database import Row
from captioner.bulk.formats import parquet
from captioner.bulk.listing import Member, Photo
from captioner.bulk.progress import Counts
from captioner.bulk.run import BulkCaptioner, row_of, settings_of
from captioner.decoding import Decoding
from captioner.images import Source
from captioner.lock import lock

ATTEMPTS = 3  # at a photo whose process is killed, before it is an error


def caption_on_ray(
    directory: Path,
    photos: Iterable[Photo],
    load: Callable[[], BulkCaptioner],
    decode: Callable[[Decoding], Decoding] = lambda saved: saved,
    *,
    workers: int | None = None,
    gpus: float = 0,
    shard_size: int = 1000,
    batch_size: int = 32,
    address: str | None = None,
    show: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Caption `photos` into `directory`/parts. `photos` is listed once: if the directory has a whole listing, the run
    goes on with that. `load` is called once here and once in each worker; `decode` lays other
    decoding options over the model's.

    `workers` is the number of worker processes (default: one per CPU of the cluster, or per GPU if `gpus` are asked
    for); `gpus` are for each worker. Without an `address`, Ray is started on this machine.

    Raises ValueError if the directory was made with another model or other decoding options; OSError if another run
    is at work on it, or if it cannot be written."""
    import ray

    captioner = load()
    options = decode(captioner.decoding)
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with lock(directory / "lock"):
            begin(directory, photos, settings_of(captioner, options), shard_size)
            for left in (directory / "trying").iterdir():  # a killed run says nothing about the photos in progress
                left.unlink()
            missing, counts = _missing(directory)
            show(counts)
            if missing:
                _be_quiet()
                start = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
                with ray.init(**start, log_to_driver=False, logging_level=logging.ERROR):
                    size = workers or max(
                        1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1))
                    )
                    for done in _results(
                        missing, min(size, len(missing)), gpus, (directory, load, options, batch_size)
                    ):
                        counts.captioned += done["captioned"]
                        counts.failed += done["failed"]
                        show(counts)
            return counts
    except BlockingIOError:
        raise BlockingIOError(f"{directory}: another run is writing it. Wait for its end.") from None


def _be_quiet() -> None:
    """Ray says much that is of no use to a person at a terminal. Its log files have it all the same."""
    import ray.data  # makes the logger

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _results(missing: list[int], workers: int, gpus: float, arguments: tuple) -> Iterator[dict[str, int]]:
    import ray

    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    done = shards.map_batches(
        Worker,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"{arguments[0]}: {reason} Parts that are whole are kept; the same command goes on.") from error


def begin(directory: Path, photos: Iterable[Photo], settings: dict[str, Any], shard_size: int) -> None:
    """Write the listing and then run.json, or check that the run.json that is there says the same."""
    run = directory / "run.json"
    for name in ("photos", "parts", "trying"):
        (directory / name).mkdir(exist_ok=True)
    if run.exists():
        found = json.loads(run.read_text(encoding="utf-8"))
        differ = [f"{name} {found.get(name)}, not {now}" for name, now in settings.items() if found.get(name) != now]
        if differ:
            raise ValueError(f"{directory} was written with {', '.join(differ)}. Ask for the same, or choose another.")
        return
    for left in (directory / "photos").iterdir():  # by a run that was killed while it listed
        left.unlink()
    waiting = iter(photos)
    for number in count():
        shard = [json.dumps(_entry(photo)) for photo in islice(waiting, shard_size)]
        if not shard:
            break
        (directory / f"photos/{number:06}.jsonl").write_text("\n".join(shard), encoding="utf-8")
    beside = directory / ".run.json"
    beside.write_text(json.dumps({**settings, "shards": number}), encoding="utf-8")
    os.replace(beside, run)


def _entry(photo: Photo) -> dict[str, Any]:
    source: Any = photo.source
    if not isinstance(source, str | Member):
        raise ValueError(f"{photo.name}: a cluster captions files and .tar shards that every node can open.")
    if isinstance(source, str):
        return {"name": photo.name, "source": os.path.abspath(source)}
    return {"name": photo.name, "source": {**asdict(source), "shard": os.path.abspath(source.shard)}}


def _missing(directory: Path) -> tuple[list[int], Counts]:
    """The shards that have no part, and the counts of what is done."""
    import pyarrow.parquet as pq

    total = json.loads((directory / "run.json").read_text(encoding="utf-8"))["shards"]
    whole = set()
    counts = Counts()
    for part in (directory / "parts").iterdir():
        if part.name.startswith("."):
            part.unlink(missing_ok=True)  # a worker was killed while it wrote
        else:
            whole.add(int(part.stem))
            errors = pq.read_table(part, columns=["error"])["error"]
            counts.skipped += len(errors)
            counts.failed_before += len(errors) - errors.null_count
    return [number for number in range(total) if number not in whole], counts


class Worker:
    """Captions shards. Ray makes one per worker process, so the model is loaded once, and makes another if the process
    is killed; the shard is then given out again."""

    def __init__(self, directory: Path, load: Callable[[], BulkCaptioner], options: Decoding, batch_size: int):
        self.directory, self.load, self.options, self.batch_size = directory, load, options, batch_size
        self.captioner = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        done = [self.caption_shard(int(number)) for number in batch["shard"]]
        return {"captioned": [c for c, _ in done], "failed": [f for _, f in done]}

    def caption_shard(self, number: int) -> tuple[int, int]:
        """How many photos were captioned and how many failed."""
        lines = (self.directory / f"photos/{number:06}.jsonl").read_text(encoding="utf-8").splitlines()
        photos = [json.loads(line) for line in lines]
        trying = self.directory / f"trying/{number:06}"
        if trying.exists():
            rows = list(self._one_by_one(photos))
        else:
            trying.touch()
            results = self.captioner.caption_many((_source(p["source"]) for p in photos), self.options, self.batch_size)
            rows = [row_of(photo["name"], result) for photo, result in zip(photos, results, strict=True)]
        beside = self.directory / f"parts/.{number:06}.{os.getpid()}"
        parquet.write(beside, rows)
        os.replace(beside, self.directory / f"parts/{number:06}.parquet")
        trying.unlink(missing_ok=True)
        failed = sum(row.error is not None for row in rows)
        return len(rows) - failed, failed

    def _one_by_one(self, photos: list[dict[str, Any]]) -> Iterator[Row]:
        """Each photo in another process, so that its death is the photo's fault, and that of this process is not."""
        import ray

        alone: Any = None
        for photo in photos:
            for _ in range(ATTEMPTS):
                alone = alone or ray.remote(num_cpus=0)(Alone).remote(self.load, self.options)
                try:
                    yield ray.get(alone.caption.remote(photo))
                    break
                except ray.exceptions.RayActorError:
                    alone = None
            else:
                reason = f"its process was killed {ATTEMPTS} times; expected a photo that can be decoded."
                yield Row(photo["name"], error=f"{photo['name']}: {reason}")


class Alone:
    """Captions one photo at a time in a process of its own."""

    def __init__(self, load: Callable[[], BulkCaptioner], options: Decoding):
        self.captioner, self.options = load(), options

    def caption(self, photo: dict[str, Any]) -> Row:
        (result,) = self.captioner.caption_many([_source(photo["source"])], self.options, 1)
        return row_of(photo["name"], result)


def _source(source: Any) -> Source:
    return source if isinstance(source, str) else Member(**source)  # type: ignore[return-value]
