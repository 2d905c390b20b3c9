"""The outputs that are written from the database during a run: a table in one of the formats, and sidecars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from captioner.bulk.database import Database, Row
from captioner.bulk.formats import csv, html, jsonl, parquet, sidecar

WRITE: dict[str, Callable[[Path, Iterable[Row]], None]] = {
    **{".jsonl": jsonl.write, ".csv": csv.write},
    **{".parquet": parquet.write, ".html": html.write},
}
GROWING = (".jsonl", ".csv")  # rows are appended to files of these formats
ENDINGS = (*WRITE, ".sqlite")


class Output(Protocol):
    def begin(self) -> None:
        """Write the rows of earlier runs, if they are missing."""

    def grow(self, rows: Iterable[Row]) -> None:
        """Add new rows."""

    def end(self, replaced: bool) -> None:
        """Complete the output. `replaced` says whether older rows have changed in the meantime."""


class Table:
    """One file. The database records its state at the end of the last run. It is written again if its size differs, for
    instance because that run was killed, or if the options differ."""

    def __init__(self, path: Path, database: Database, embed: bool = False):
        self.path, self.database = path, database
        self.grows = path.suffix.lower() in GROWING
        write = WRITE[path.suffix.lower()]
        self._write = partial(html.write, embed=embed) if write is html.write else write
        self._embed = embed
        self._is_current = False

    def begin(self) -> None:
        self._is_current = self.path.is_file() and self.database.recall("table") == self._state()
        self.database.remember("table", None)
        self.database.commit()
        if self.grows and not self._is_current:
            self._write_all()

    def grow(self, rows: Iterable[Row]) -> None:
        waiting = iter(rows)
        if (first := next(waiting, None)) is None:
            return
        was_current, self._is_current = self._is_current, False
        if self.grows:
            with self._advice():
                self._write(self.path, chain([first], waiting))
            self._is_current = was_current

    def end(self, replaced: bool) -> None:
        if replaced or not self._is_current:
            self._write_all()
        self.database.remember("table", self._state())
        self.database.commit()

    def _state(self) -> dict[str, Any]:
        least = self.database.recall("min_confidence")
        return {"bytes": self.path.stat().st_size, "embed": self._embed, "min_confidence": least}

    def _write_all(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.partial")
        beside.unlink(missing_ok=True)
        with self._advice():
            try:
                self._write(beside, self.database.rows())
                os.replace(beside, self.path)
            finally:
                beside.unlink(missing_ok=True)
        self._is_current = True

    @contextmanager
    def _advice(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written: {error.strerror or error}. All captions so far are kept in "
                f"{self.database.path}. Fix that and run the same command again."
            ) from error


class Sidecars:
    """A text file beside each photo."""

    def __init__(self, database: Database, overwrite: bool):
        self.database, self.overwrite = database, overwrite

    def begin(self) -> None:
        self.grow(self.database.rows())

    def grow(self, rows: Iterable[Row]) -> None:
        sidecar.write(rows, self.overwrite)

    def end(self, replaced: bool) -> None:
        if replaced:
            self.begin()
