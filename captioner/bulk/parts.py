"""A run in parts, for a cluster: the photos of each part, its results, and what is left to do.

    photos/000012-0.jsonl    the photos of a part, one per line
    run.json                 written when all photos are listed: the settings that the captions depend on
    parts/000012-0.parquet   the results of the part
    trying/000012-0          a worker of this run is working on the part, or was killed while it did

The number after the dash is the version of the part. If some of its photos change, the part gets a new version, in
which they are marked. The results of the new version are those of the marked photos and, for the others, those of the
previous version."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import count, islice
from typing import Any, NamedTuple, cast

from captioner.bulk.database import Row
from captioner.bulk.formats import parquet
from captioner.bulk.listing import Member, Photo
from captioner.bulk.remote import RemotePhoto, remote_photo
from captioner.bulk.store import Store
from captioner.images import Source

NEW = -1  # the part of a photo that was not listed before
READERS = 16  # parts that are read at a time


class Done(NamedTuple):
    """A part with results."""

    rows: int
    failed: list[str]
    """The names of the photos that could not be captioned."""


class Parts:
    def __init__(self, place: str):
        self.store = Store(place)

    def begin(self, photos: Iterable[Photo], settings: Mapping[str, Any], size: int, redo: bool = False) -> bool:
        """List the photos, `size` per part, unless an earlier run has done so. Returns whether they were listed now.
        Raises ValueError if the captions there depend on other settings."""
        if redo:
            self.store.remove("run.json")
        fresh = not self.store.exists("run.json")
        if fresh:
            for folder in ("photos", "parts"):  # of a run that was killed while listing, or that is redone
                for name in self.store.names(folder):
                    self.store.remove(f"{folder}/{name}")
            with closing(Known()) as known:
                self._list((photo for photo in photos if known.add(photo, 0)), size, first=0)
            self.store.write("run.json", json.dumps(settings).encode())
        found = json.loads(self.store.read("run.json"))
        differ = [f"{name} {found.get(name)}, not {now}" for name, now in settings.items() if found.get(name) != now]
        if differ:
            raise ValueError(
                f"{self.store.place} was written with {', '.join(differ)}. Use the same settings, choose another "
                "directory, or start over: --redo."
            )
        for name in self.store.names("trying"):  # a killed run proves nothing about the photos in progress
            self.store.remove(f"trying/{name}")
        return fresh

    def _list(self, photos: Iterable[Photo], size: int, first: int) -> None:
        waiting = iter(photos)
        for number in count(first):
            entries = [_entry(photo) for photo in islice(waiting, size)]
            if not entries:
                return
            self._write_entries(f"{number:06}-0", entries)

    def _write_entries(self, part: str, entries: list[dict[str, Any]]) -> None:
        self.store.write(f"photos/{part}.jsonl", "\n".join(map(json.dumps, entries)).encode())

    def listed(self) -> dict[int, str]:
        """The newest version of each part, such as {12: "000012-0"}."""
        return {number_of(part): part for part in self._versions("photos")}

    def missing(self) -> list[str]:
        """The parts without results."""
        done = set(self._versions("parts"))
        return [part for part in self.listed().values() if part not in done]

    def _versions(self, folder: str) -> list[str]:
        return sorted((name.partition(".")[0] for name in self.store.names(folder)), key=_order)

    def done(self) -> dict[int, Done]:
        """The parts with results. Results of an older version are removed if those of a newer one are there."""
        versions = self._versions("parts")
        newest = {number_of(part): part for part in versions}
        for part in set(versions) - set(newest.values()):
            self.store.remove(f"parts/{part}.parquet")
        listed = self.listed()
        whole = {number: part for number, part in newest.items() if listed[number] == part}
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(whole, pool.map(self._done, whole.values()), strict=True))

    def _done(self, part: str) -> Done:
        table = self._table(part, columns=["path", "error"])
        failed = table.filter(table["error"].is_valid())
        return Done(len(table), failed["path"].to_pylist())

    def _table(self, part: str, columns: list[str] | None = None) -> Any:
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self.store.read(f"parts/{part}.parquet")), columns=columns)

    def update(self, photos: Iterable[Photo], size: int, again: Mapping[int, Iterable[str]]) -> set[int]:
        """List again. New photos make new parts; parts with changed photos, or with photos to try `again`, get a new
        version. Returns the numbers of the latter."""
        listed = self.listed()
        changed: dict[int, dict[str, Photo | None]] = defaultdict(dict)
        for number, names in again.items():
            changed[number] |= dict.fromkeys(names)
        with closing(Known()) as known:
            for number, part in listed.items():
                for entry in self.entries(part):
                    known.add(Photo(entry["name"], "", entry["size"], entry["modified"]), number)

            def new() -> Iterator[Photo]:
                for photo in photos:
                    if known.add(photo, NEW):
                        yield photo
                    elif (number := known.changed(photo)) not in (None, NEW):
                        changed[number][photo.name] = photo

            self._list(new(), size, first=max(listed, default=-1) + 1)
        done = set(self._versions("parts"))
        for number, photos_of_part in changed.items():
            self._renew(listed[number], photos_of_part, fresh=listed[number] in done)
        return set(changed)

    def _renew(self, part: str, changed: Mapping[str, Photo | None], fresh: bool) -> None:
        """Write the next version of a part, in which the changed photos are marked. Photos that were already marked
        stay marked unless `fresh`."""
        entries = []
        for entry in self.entries(part):
            photo = changed.get(entry["name"])
            marked = entry["name"] in changed or (entry.get("again", False) and not fresh)
            entries.append((entry if photo is None else _entry(photo)) | {"again": marked})
        number, version = _order(part)
        self._write_entries(f"{number:06}-{version + 1}", entries)
        self.store.remove(f"photos/{part}.jsonl")

    # Used by the workers.

    def entries(self, part: str) -> list[dict[str, Any]]:
        """The photos of a part: name, source, size, modified, and perhaps `again`."""
        return [json.loads(line) for line in self.store.read(f"photos/{part}.jsonl").decode().splitlines()]

    def todo(self, part: str) -> list[dict[str, Any]]:
        """The photos that are marked or have no results in the previous version."""
        before = self._before(part)
        kept = set() if before is None else set(self._table(before, columns=["path"])["path"].to_pylist())
        return [entry for entry in self.entries(part) if entry.get("again") or entry["name"] not in kept]

    def is_tried(self, part: str) -> bool:
        """Whether a worker was killed while working on the part."""
        return self.store.exists(f"trying/{part}")

    def try_part(self, part: str) -> None:
        self.store.write(f"trying/{part}", b"")

    def finish(self, part: str, rows: list[Row]) -> tuple[int, int]:
        """Write the results of a part: these rows, and for the other photos those of the previous version. Returns the
        number of the latter, and how many of them are errors."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parquet.write(buffer := io.BytesIO(), rows)
        before, kept = self._before(part), (0, 0)
        if before is not None:
            new = pq.read_table(io.BytesIO(buffer.getvalue()))
            old = self._table(before)
            old = old.filter(pa.compute.invert(pa.compute.is_in(old["path"], new["path"])))
            kept = len(old), len(old) - old["error"].null_count
            order = {entry["name"]: place for place, entry in enumerate(self.entries(part))}
            table = pa.concat_tables([new, old], promote_options="default")
            places = [order[path] for path in table["path"].to_pylist()]
            pq.write_table(table.take(pa.compute.sort_indices(pa.array(places))), buffer := io.BytesIO())
        self.store.write(f"parts/{part}.parquet", buffer.getvalue())
        self.store.remove(f"trying/{part}")
        if before is not None:
            self.store.remove(f"parts/{before}.parquet")
        return kept

    def _before(self, part: str) -> str | None:
        """The previous version of a part that has results."""
        number, version = _order(part)
        before = (f"{number:06}-{earlier}" for earlier in reversed(range(version)))
        return next((each for each in before if self.store.exists(f"parts/{each}.parquet")), None)


class Known:
    """The listed photos by name, in a temporary database, so that memory does not grow with their number."""

    def __init__(self) -> None:
        self._sqlite = sqlite3.connect("")
        self._sqlite.execute("CREATE TABLE photos (name TEXT PRIMARY KEY, size, modified, part) WITHOUT ROWID")

    def add(self, photo: Photo, part: int) -> bool:
        """Add a photo. Returns whether its name is new."""
        row = (photo.name, photo.size, photo.modified, part)
        return self._sqlite.execute("INSERT OR IGNORE INTO photos VALUES (?, ?, ?, ?)", row).rowcount == 1

    def close(self) -> None:
        self._sqlite.close()

    def changed(self, photo: Photo) -> int | None:
        """The part of a photo whose size or time has changed."""
        where = "name = ? AND (size IS NOT ? OR modified IS NOT ?)"
        row = (photo.name, photo.size, photo.modified)
        found = self._sqlite.execute(f"SELECT part FROM photos WHERE {where}", row).fetchone()
        return None if found is None else found[0]


def _order(part: str) -> tuple[int, int]:
    number, version = part.split("-")
    return int(number), int(version)


def number_of(part: str) -> int:
    return _order(part)[0]


def _entry(photo: Photo) -> dict[str, Any]:
    entry = {"name": photo.name, "size": photo.size, "modified": photo.modified}
    source: Any = photo.source
    if isinstance(source, str):
        return entry | {"path": os.path.abspath(source)}
    if isinstance(source, Member):
        return entry | {"member": {**asdict(source), "shard": os.path.abspath(source.shard)}}
    if isinstance(source, RemotePhoto):
        return entry | {"address": source.name}
    raise ValueError(
        f"{photo.name}: a cluster captions files, addresses and local .tar shards. Unpack a shard that has an address."
    )


def source_of(entry: Mapping[str, Any]) -> Source:
    if "path" in entry:
        return entry["path"]
    source = Member(**entry["member"]) if "member" in entry else remote_photo(entry["address"])
    return cast("Source", source)
