"""Checks of a data set beyond its caption file: photos that cannot be decoded, and photos that occur in two splits
under different names. Training runs them once at its start. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from captioner.data.records import Record
from captioner.images import ImageError, open_reduced
from captioner.vocabulary import UNSEPARATED, words_are_separated

ENDING = 4096  # bytes at the end of a file; different photos of the same size nearly always differ in them
SHOWN = 20


def check_damaged(damaged: Sized, photos: int) -> None:
    """Raise ValueError if more than a quarter of the photos, and more than one, cannot be read, or if none can."""
    if len(damaged) > max(1, photos / 4) or len(damaged) == photos:
        raise ValueError(
            f"{len(damaged):,} of {photos:,} photos cannot be read; at most a quarter may be damaged. "
            "Copy or download the photos again."
        )


def shortened(lines: Sequence[str], noun: str) -> list[str]:
    """The first lines, and a line with the number of the others."""
    more = [f"and {len(lines) - SHOWN:,} more {noun}"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def files_digest(records: Iterable[Record]) -> str:
    """A hash of the name, size and modification time of every photo file."""
    digest = hashlib.sha256()
    for record in records:
        size, time = _size_and_time(record.path)
        digest.update(f"{record.path.name}\t{size}\t{time}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Zeros for a file that cannot be reached, such as a broken link; opening it reports the error."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class PhotoCheck:
    """Which photos of some records cannot be decoded. A run saves this, so that a resumed run does not decode them
    again."""

    files: str  # `files_digest` of the records
    damaged: dict[int, str]  # position in the records -> what is wrong

    def save(self, path: Path) -> None:
        content = {"files": self.files, "damaged": {str(number): text for number, text in self.damaged.items()}}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, files: str) -> PhotoCheck | None:
        """The check saved in `path`, or None if there is none for the same files."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            damaged = {int(key): str(text) for key, text in found["damaged"].items()}
            return cls(files, damaged) if found["files"] == files else None
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return None


def check_photos(records: Sequence[Record], side: int, saved: Path, threads: int = 1) -> PhotoCheck:
    """Decode each photo, unless the file `saved` has the check of these files. JPEGs are decoded at the reduced size
    that training uses for inputs of `side` pixels. Raises ValueError if too many are damaged."""
    files = files_digest(records)
    check = PhotoCheck.load(saved, files)
    if check is None:
        check = PhotoCheck(files, find_damaged(records, side, threads))
    check_damaged(check.damaged, len(records))
    return check


def find_damaged(records: Sequence[Record], side: int = 224, threads: int = 1) -> dict[int, str]:
    """The positions of records whose photos cannot be decoded, and what is wrong with each. Raises ValueError if they
    are too many."""
    if not records:
        return {}
    with ThreadPoolExecutor(max(1, threads)) as pool:  # Pillow releases the GIL while decoding
        problems = pool.map(partial(_problem, side), records)
        look = {"desc": "checking photos", "unit": "photo", "dynamic_ncols": True, "leave": False, "disable": None}
        bar = tqdm(problems, total=len(records), **look)
        damaged = {number: problem for number, problem in enumerate(bar) if problem}
    check_damaged(damaged, len(records))
    return damaged


def _problem(side: int, record: Record) -> str | None:
    try:
        open_reduced(record.path, side)
    except ImageError as error:
        return str(error)
    return None


def find_copies(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Photos with a byte-identical copy in another split, as pairs (first copy, photo of another split). Only files
    with the same size and the same last bytes are read in full."""
    suspects: dict[object, list[Record]] = {None: list(records)}
    for key in (_size, _ending, _content):
        split_up: dict[object, list[Record]] = defaultdict(list)
        for before, group in suspects.items():
            for record in group:
                try:
                    split_up[before, key(record.path)].append(record)
                except OSError:  # captioning or training reports it
                    continue
        suspects = {key: group for key, group in split_up.items() if len({record.split for record in group}) > 1}
    groups = suspects.values()
    return [(first, other) for first, *others in groups for other in others if other.split != first.split]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ending(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ENDING))
        return hashlib.sha256(file.read(ENDING)).digest()


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def notes_on(records: Sequence[Record], name: str = "the data set") -> list[str]:
    """Notes for a person who trains on the data set."""
    notes = []
    if all(record.hashed for record in records):
        counts = [sum(record.split == split for record in records) for split in ("train", "val", "test")]
        notes.append(
            f"{name} has no splits, so its photos are split by their names: {counts[0]} to train on, {counts[1]} for "
            f"validation, {counts[2]} for testing"
        )
    if not words_are_separated(caption for record in records for caption in record.captions):
        notes.append(UNSEPARATED)
    return notes


def note_on_copies(records: Sequence[Record]) -> list[str]:
    """Notes on photos that are in two splits, of one data set or of several that are used together."""
    if not (copies := find_copies(records)):
        return []
    one, other = copies[0]
    return [
        f"photos with an identical copy in another split: {len(copies)} (first: {one.path.name} in {one.split} and "
        f"{other.path.name} in {other.split}). The scores will be too high; remove the photos from one split"
    ]
