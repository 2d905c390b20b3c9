"""A run captions photos into the database and writes files from it. However it ends, the next run continues it."""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from captioner.bulk.database import Database, Row, database_of
from captioner.bulk.formats.sidecar import sidecar
from captioner.bulk.listing import Photo, as_utf8
from captioner.bulk.outputs import ENDINGS, Output, Sidecars, Table
from captioner.bulk.progress import Counts
from captioner.bulk.thumbnails import Shrinking
from captioner.captioner import Caption
from captioner.confidence import Confidence, why_left_out
from captioner.decoding import Decoding
from captioner.images import ImageError, Source
from captioner.lock import lock

COMMIT = 1.0  # seconds between commits: the most work that a killed run loses


class BulkCaptioner(Protocol):
    """The part of `Captioner` that a run uses."""

    provenance: str
    decoding: Decoding
    confidence: Confidence | None

    def caption_many(
        self, photos: Iterable[Source], decoding: Decoding | None = None, batch_size: int = 32
    ) -> Iterator[Caption | ImageError]: ...


def caption_into(
    file: Path | None,
    photos: Iterable[Photo],
    captioner: BulkCaptioner,
    decoding: Decoding | None = None,
    *,
    batch_size: int = 32,
    redo: bool = False,
    retry_errors: bool = False,
    embed: bool = False,
    sidecars: bool = False,
    overwrite: bool = False,
    min_confidence: float = 0,
    show: Callable[[Counts], None] = lambda counts: None,
    report: Callable[[str], None] = lambda line: None,
) -> Counts:
    """Caption the photos that are not yet in `file`, whose suffix chooses the format. A photo is identified by its
    name, size and modification time.

    `redo` deletes the captions in the file; `retry_errors` retries photos that failed; `embed` puts small copies of the
    photos into a gallery. `sidecars` also writes photo.txt beside each photo.jpg; an existing file is replaced only
    with `overwrite`. Without a `file`, a photo that has its text file counts as done. Captions with a confidence below
    `min_confidence` are kept in the database but left out of what is written; a later run may use another value. `show`
    is called with the counts after each commit; without a `file`, `report` is called with each error.

    Raises ValueError if the file was written with another model or other decoding options, or by something else;
    OSError if another run is using it, or if it cannot be written. Captions made until then are kept."""
    options = decoding or captioner.decoding
    with ExitStack() as stack:
        if file is not None:
            check_table(file, options.num_captions)
            stack.enter_context(_held(file, redo))
        database = stack.enter_context(Database("" if file is None else database_of(file)))
        if changes := database.begin(settings_of(captioner, options), redo):
            raise ValueError(
                f"{file} was written with {changes}. Use the same settings, choose another file, or start over: --redo."
            )
        database.leave_out(min_confidence)
        outputs: list[Output] = []
        if file is not None and file != database.path:
            outputs.append(Table(file, database, embed))
        if sidecars:
            outputs.append(Sidecars(database, overwrite))
        run = stack.enter_context(
            _Run(
                database,
                outputs,
                show,
                report if file is None else lambda line: None,
                retry_errors=retry_errors,
                sidecars=sidecars,
                done_by_sidecar=file is None and not overwrite,
                embed=embed,
                min_confidence=min_confidence,
            )
        )
        for result in captioner.caption_many(run.take(photos), options, batch_size):
            run.give(result)
        run.counts.left_out = database.left_out()
    return run.counts


def check_table(file: Path, captions: int = 1) -> None:
    """Raise ValueError if a table with `captions` captions per photo cannot be written to `file`."""
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{file}: unknown ending {ending!r}; expected one of {', '.join(ENDINGS)}.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; expected the name of a file.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"no folder {file.parent} for {file.name}; create it first.")
    if ending == ".csv" and captions > 1:
        raise ValueError(
            f"{file}: a .csv table has one caption per photo, not {captions}. Choose .jsonl, for instance."
        )
    if ending == ".parquet":
        import pyarrow.parquet  # noqa: F401 # fails now if it is not installed


@contextmanager
def _held(file: Path, redo: bool) -> Iterator[None]:
    """Lock the file against other runs. Raises ValueError for a file that was not written by a run."""
    database = database_of(file)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(database.with_name(f"{database.name}.lock")))
        except BlockingIOError:
            raise BlockingIOError(
                f"{file}: another run is writing to it. Wait until it has finished, or choose another file."
            ) from None
        if file.exists() and not database.exists() and not redo:
            raise ValueError(
                f"{file} exists but {database} does not, so the run cannot be continued. Choose another name, or start "
                "over: --redo."
            )
        yield


def settings_of(captioner: BulkCaptioner, decoding: Decoding) -> dict[str, Any]:
    """The settings that the captions depend on."""
    models = re.findall(r"SHA-256 (\w{,12})", captioner.provenance)
    calibration = None if captioner.confidence is None else captioner.confidence.digest()
    return {"model": "+".join(models), "calibration": calibration, **asdict(decoding)}


def row_of(name: str, result: Caption | ImageError, min_confidence: float = 0) -> Row:
    """The row of a photo's result."""
    if isinstance(result, ImageError):
        return Row(name, error=as_utf8(str(result)))
    entry = result.to_dict()
    left_out = why_left_out(entry["confidence"], min_confidence)
    return Row(
        name,
        entry["caption"] if left_out is None else None,
        entry["confidence"],
        entry["log_probability"],
        entry["finished"],
        left_out,
        details=entry,
    )


class _Run:
    """Passes photos from the listing to the captioner and results to the database. For use in a `with` statement:
    results received so far are written when it ends, however it ends."""

    def __init__(
        self,
        database: Database,
        outputs: Sequence[Output],
        show: Callable[[Counts], None],
        report: Callable[[str], None],
        *,
        retry_errors: bool,
        sidecars: bool,
        done_by_sidecar: bool,
        embed: bool,
        min_confidence: float,
    ):
        self.database, self.outputs, self.show, self.report = database, outputs, show, report
        self.retry_errors, self.sidecars, self.done_by_sidecar = retry_errors, sidecars, done_by_sidecar
        self.embed, self.min_confidence = embed, min_confidence
        self.counts = Counts()
        self._under_way: dict[str, Photo] = {}  # in order
        self._first = self._last = database.last()
        self._more_thumbnails = False
        self._committed: float | None = None

    def __enter__(self) -> _Run:
        for output in self.outputs:
            output.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with nullcontext() if error is None else suppress(OSError, sqlite3.Error):  # the first error should be raised
            self.commit()
            replaced = self.counts.captioned + self.counts.failed > self._last - self._first
            for output in self.outputs:
                output.end(replaced or self._more_thumbnails)

    def take(self, photos: Iterable[Photo]) -> Iterator[Source]:
        """The photos to caption, in the order in which `give` expects their results."""
        for photo in photos:
            if self.sidecars and not isinstance(photo.source, str):
                raise ValueError(f"{photo.name}: no file, so no text file can be put beside it. Leave --sidecar out.")
            found = self.database.find(photo)
            if found == "caption" or photo.name in self._under_way or (found == "error" and not self.retry_errors):
                self.counts.skipped += 1
                self.counts.failed_before += found == "error"
                if found == "caption" and self.embed and not isinstance(photo.source, str):
                    self._add_thumbnail(photo)
            elif self.done_by_sidecar and sidecar(photo.name).exists():
                self.counts.skipped += 1
            else:
                if self.embed and not isinstance(photo.source, str):
                    photo = photo._replace(source=cast("BinaryIO", Shrinking(photo)))
                self._under_way[photo.name] = photo
                yield photo.source

    def _add_thumbnail(self, photo: Photo) -> None:
        """Make the thumbnail of a photo that an earlier run captioned without `embed`."""
        if not self.database.has_thumbnail(photo):
            source = Shrinking(photo)
            with suppress(ImageError):
                source.read()
            self.database.add_thumbnail(photo, source.thumbnail)
            self._more_thumbnails = True

    def give(self, result: Caption | ImageError) -> None:
        photo = self._under_way.pop(next(iter(self._under_way)))
        row = row_of(photo.name, result, self.min_confidence)
        if isinstance(photo.source, Shrinking):
            row = row._replace(thumbnail=photo.source.thumbnail)
        with _uninterrupted():  # so that the counts agree with the database
            if isinstance(result, ImageError):
                self.counts.failed += 1
            else:
                self.counts.captioned += 1
            self.database.add(photo, row)
        if row.error is not None:
            self.report(row.error)
        if self._committed is None:  # the first of a batch
            self._committed = time.monotonic()
        if time.monotonic() - self._committed > COMMIT:
            self.commit()

    def commit(self) -> None:
        self.database.commit()
        before, self._last = self._last, self.database.last()
        for output in self.outputs:
            output.grow(self.database.rows(after=before))
        self.show(self.counts)
        self._committed = time.monotonic()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, then pass it to the previous handler. (Only the main thread receives
    signals.)"""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    received: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[0])
