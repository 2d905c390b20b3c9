"""The results of a run, kept in SQLite: one row per photo, an index of the captions, and what the captions depend on.

Whenever the process is killed, a row is either complete or absent. A photo has one row, however often it is captioned.
The database can be read and searched during a run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from captioner.bulk.listing import Photo
from captioner.confidence import why_left_out

FORMAT_VERSION = 2
SCHEMA = """
BEGIN;
DROP TABLE IF EXISTS captions;
DROP TABLE IF EXISTS search;
DROP TABLE IF EXISTS run;
CREATE TABLE captions (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    caption TEXT,             -- NULL if the photo could not be captioned, or the caption is left out
    confidence REAL,          -- the probability that the caption is right; NULL if the model was not calibrated
    log_probability REAL,     -- of the whole caption
    finished INTEGER,         -- 0: the caption was cut off at the longest length
    left_out TEXT,            -- why the caption is left out: its confidence is too low
    error TEXT,               -- why the photo could not be captioned
    details TEXT,             -- JSON: words with their log-probabilities, and what else `caption --json` prints
    size INTEGER,             -- the photo's, in bytes
    modified INTEGER,         -- the photo's, in nanoseconds since 1970
    thumbnail BLOB            -- WebP; only of photos in shards and at addresses, for a gallery
);
CREATE VIRTUAL TABLE search USING fts5(caption, content=captions, content_rowid=id, tokenize='porter unicode61');
CREATE TRIGGER inserted AFTER INSERT ON captions BEGIN
    INSERT INTO search(rowid, caption) VALUES (new.id, new.caption);
END;
CREATE TRIGGER updated AFTER UPDATE OF caption ON captions BEGIN
    INSERT INTO search(search, rowid, caption) VALUES ('delete', old.id, old.caption);
    INSERT INTO search(rowid, caption) VALUES (new.id, new.caption);
END;
CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT);
COMMIT;
"""
LEAVE_OUT = """
UPDATE captions SET
    left_out = why_left_out(confidence, :least),
    caption = CASE WHEN why_left_out(confidence, :least) IS NULL THEN json_extract(details, '$.caption') END
WHERE left_out IS NOT why_left_out(confidence, :least)
"""


class Row(NamedTuple):
    """A photo's result: a caption, the reason why its caption is left out, or an error."""

    path: str
    caption: str | None = None
    confidence: float | None = None
    log_probability: float | None = None
    finished: bool | None = None
    left_out: str | None = None
    error: str | None = None
    details: dict[str, Any] | None = None
    """The caption as `caption --json` prints it."""
    thumbnail: bytes | None = None


FIELDS = ", ".join(Row._fields)
COLUMNS = (*Row._fields, "size", "modified")
UPSERT = f"""
INSERT INTO captions ({", ".join(COLUMNS)}) VALUES ({", ".join(f":{name}" for name in COLUMNS)})
ON CONFLICT (path) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])}
"""


class Database:
    """Opens or creates a database, for use in a `with` statement. An empty path makes a temporary database.

    Raises ValueError if the file is something else, and OSError if it cannot be read or written."""

    def __init__(self, path: str | Path):
        self.path = path
        self._sqlite = sqlite3.connect(path, check_same_thread=False)
        self._sqlite.create_function("why_left_out", 2, why_left_out, deterministic=True)

    def __enter__(self) -> Database:
        try:
            tables = {name for (name,) in self._sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not {"captions", "run"} <= tables:
                raise ValueError(f"{self.path} is a database, but not of captions. Choose another name.")
            self._sqlite.execute("PRAGMA journal_mode = WAL")  # allows reading while another process writes
            self._sqlite.execute("PRAGMA synchronous = NORMAL")  # a power failure loses only the last rows
            if not tables:
                self._sqlite.executescript(SCHEMA)
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any = None) -> None:
        try:
            if error is None or not isinstance(error, sqlite3.Error):
                self._sqlite.commit()
                with suppress(sqlite3.OperationalError):  # another process is reading
                    self._sqlite.execute("PRAGMA journal_mode = DELETE")  # one file, readable from a read-only folder
        except sqlite3.Error as failed:
            error = failed
        finally:
            self._sqlite.close()
        if isinstance(error, sqlite3.OperationalError):  # disk full, no permission, no such folder
            raise OSError(f"{self.path}: {error}. What was written before is kept.") from error
        if isinstance(error, sqlite3.Error):
            raise ValueError(
                f"{self.path} is not an SQLite database, or damaged ({error}). Remove it, or choose another name."
            ) from error

    def begin(self, settings: Mapping[str, Any], redo: bool = False) -> str:
        """How the settings differ from those that the captions were made with; empty if they do not. `redo` deletes the
        captions."""
        if redo:
            self._sqlite.executescript(SCHEMA)
        settings = {**settings, "format": FORMAT_VERSION}
        found = self.recall("settings")
        if found is None:
            found = settings
            self.remember("settings", settings)
        self._sqlite.commit()
        names = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
        return ", ".join(f"{name} {found.get(name)}, not {settings.get(name)}" for name in names)

    def leave_out(self, least: float) -> None:
        """Leave out the captions whose confidence is below `least`, and restore the others."""
        if self.recall("min_confidence") != least:
            self._sqlite.execute(LEAVE_OUT, {"least": least})
            self.remember("min_confidence", least)
            self._sqlite.commit()

    def recall(self, name: str) -> Any:
        found = self._sqlite.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def remember(self, name: str, value: Any) -> None:
        self._sqlite.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, json.dumps(value)))

    def find(self, photo: Photo) -> Literal["caption", "error"] | None:
        """The kind of result stored for the photo; None if there is none, or if its size or time has changed."""
        where = "path = ? AND size IS ? AND modified IS ?"
        known = (photo.name, photo.size, photo.modified)
        found = self._sqlite.execute(f"SELECT error IS NULL FROM captions WHERE {where}", known).fetchone()
        return None if found is None else "caption" if found[0] else "error"

    def add(self, photo: Photo, row: Row) -> None:
        """Insert the photo's row, or replace it."""
        details = None if row.details is None else json.dumps(row.details, ensure_ascii=False)
        more = {"details": details, "size": photo.size, "modified": photo.modified}
        self._sqlite.execute(UPSERT, {**row._asdict(), **more})

    def has_thumbnail(self, photo: Photo) -> bool:
        found = self._sqlite.execute("SELECT thumbnail IS NOT NULL FROM captions WHERE path = ?", (photo.name,))
        return bool(found.fetchone()[0])

    def add_thumbnail(self, photo: Photo, thumbnail: bytes | None) -> None:
        self._sqlite.execute("UPDATE captions SET thumbnail = ? WHERE path = ?", (thumbnail, photo.name))

    def commit(self) -> None:
        self._sqlite.commit()

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The rows inserted after the row with the id `after`, in order. The row of a caption that is left out has no
        details."""
        for path, caption, confidence, total, finished, left_out, error, details, thumbnail in self._sqlite.execute(
            f"SELECT {FIELDS} FROM captions WHERE id > ? ORDER BY id", (after,)
        ):
            if caption is None:
                yield Row(path, None, confidence, left_out=left_out, error=error, thumbnail=thumbnail)
            else:
                known = json.loads(details)
                yield Row(path, caption, confidence, total, bool(finished), details=known, thumbnail=thumbnail)

    def last(self) -> int:
        """The id of the last row; 0 if there is no row."""
        return self._sqlite.execute("SELECT coalesce(max(id), 0) FROM captions").fetchone()[0]

    def left_out(self) -> int:
        """The number of captions that are left out."""
        return self._sqlite.execute("SELECT count(left_out) FROM captions").fetchone()[0]


def database_of(file: Path) -> Path:
    """The database that a file of captions is written from: the file itself, or the database beside it."""
    return file if file.suffix.lower() == ".sqlite" else file.with_name(f"{file.name}.sqlite")
