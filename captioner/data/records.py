"""The record of one image, and what every reader of a data set shares: splits, lines of text files, captions
that are checked, photos that are looked up. Nothing here knows a format, opens a photo or imports torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

SPLITS = ("train", "val", "test")
# Other names that data sets use. restval is the part of COCO's val2014 that Karpathy gives to training.
SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val", "restval": "train"}


@dataclass(frozen=True)
class Record:
    """One image: its id (COCO's number, else the name that the data set gives it), photo, captions, split."""

    id: int | str
    path: Path
    captions: tuple[str, ...]
    split: str


@dataclass
class Entry:
    """An image as a data set's text tells it: its photo is yet to be looked up, under any of the names."""

    id: int | str
    names: tuple[str, ...]
    captions: list[str]
    split: str


Image = TypeVar("Image", Record, Entry)


def select(records: Sequence[Image], split: str) -> list[Image]:
    """The records (or entries) of one split ("dev" is accepted for "val"); ValueError lists the splits there are."""
    wanted = SPLIT_ALIASES.get(split, split)
    chosen = [record for record in records if record.split == wanted]
    if not chosen:
        counts = Counter(record.split for record in records)
        there = ", ".join(f"{name} ({counts[name]} images)" for name in SPLITS if name in counts)
        raise ValueError(f"the data set has no split {split!r}; it has: {there or 'none'}")
    return chosen


def split_name(split: Any, where: str) -> str:
    """A split by the name that we use for it."""
    if split in SPLITS:
        return str(split)
    if isinstance(split, str) and split in SPLIT_ALIASES:
        return SPLIT_ALIASES[split]
    expected = ", ".join((*SPLITS, *SPLIT_ALIASES))
    raise ValueError(f"{where}: unknown split {split!r}; expected one of {expected}")


def hash_split(name: str) -> str:
    """A split for an image of a data set that comes without one: 80 % train, 10 % val, 10 % test.

    The SHA-256 of the name alone decides, so it is the same on every machine and stays when images are added.
    """
    part = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return ("val", "test")[part] if part < 2 else "train"


def raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their ends, and their numbers, counted from 1."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 text ({error.reason})"
                raise ValueError(f"{path}:{number}: {problem}; expected UTF-8. Save it so.") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without their ends."""
    return ((number, line.rstrip("\r\n")) for number, line in raw_lines(path) if line.strip())


def clean_caption(caption: Any, where: str) -> str:
    """The caption with single spaces (COCO has captions with line ends in them); an empty one is an error."""
    if not isinstance(caption, str):
        raise ValueError(f"{where}: expected the caption as a string, found {caption!r}")
    caption = " ".join(caption.split())
    if not caption:
        raise ValueError(f"{where}: the caption is empty. Write one, or take the row out.")
    return caption


def choose_file(root: Path, patterns: Sequence[str]) -> tuple[Path, Path]:
    """A data set's folder, and the one file in it that fits any of the patterns. `root` is either."""
    if root.is_file():
        for pattern in patterns:
            if root.absolute().match(pattern):
                return root.absolute().parents[pattern.count("/")], root
        raise ValueError(f"{root}: expected a folder, or a file named {' or '.join(patterns)}")
    found = sorted({path for pattern in patterns for path in root.glob(pattern)})
    if not found:
        raise FileNotFoundError(f"{root}: expected one of {', '.join(patterns)} there; none is")
    if len(found) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found)
        raise ValueError(f"{root}: expected one file of captions, found {names}. Give the path of one of them.")
    return root, found[0]


class Photos:
    """Finds photos by name in some folders of a data set, tried in order. A folder is listed once: on a
    network disk it takes minutes to ask 118,000 times whether a file is there."""

    def __init__(self, root: Path, folders: Sequence[str]):
        self.root, self.folders = root, folders
        self._folder_of: dict[str, dict[str, str]] = {}  # inner folder, as in a photo's name -> file -> folder

    def find(self, names: Iterable[str]) -> Path | None:
        for name in names:
            inner, _, base = name.rpartition("/")
            if inner not in self._folder_of:
                self._folder_of[inner] = self._list(inner)
            if base in self._folder_of[inner]:
                return Path(self._folder_of[inner][base], base)
        return None

    def _list(self, inner: str) -> dict[str, str]:
        listing: dict[str, str] = {}
        for outer in reversed(self.folders):
            folder = os.path.join(self.root, outer, inner)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                listing.update(dict.fromkeys(os.listdir(folder), folder))
        return listing


class Listing(NamedTuple):
    """What a reader makes of a caption file: its images, and where their photos may lie."""

    entries: list[Entry]
    photos: Photos
    source: Path


def to_records(listing: Listing) -> list[Record]:
    """Looks every photo up. FileNotFoundError tells how many are missing, and the first three."""
    entries, photos, source = listing
    records, missing = [], []
    for entry in entries:
        path = photos.find(entry.names)
        if path is None:
            missing.append(entry.names[0])
        else:
            records.append(Record(entry.id, path, tuple(entry.captions), entry.split))
    if missing:
        many = f"{len(missing)} of {len(records) + len(missing)} photos are missing"
        what = many if records else f"no photos found, of {len(missing)}"
        folders = ", ".join("the folder itself" if name == "." else f"{name}/" for name in photos.folders)
        raise FileNotFoundError(
            f"{source}: {what} (first: {', '.join(missing[:3])}). Looked in {photos.root}: {folders}. "
            "Put the photos there, or take their captions out."
        )
    return records
