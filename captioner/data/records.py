"""What every reader of a data set shares: the record of one photo, splits, lines of text files, checked captions, and
finding photos on disk. Nothing here knows a format, opens a photo or imports torch."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from captioner.metrics.files.reading import shorten

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SPLITS = ("train", "val", "test")
# Other names for the splits. restval is the part of COCO's val2014 that Karpathy adds to the training photos.
SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val", "restval": "train"}


@dataclass(frozen=True)
class Record:
    """One photo with its captions. The id is COCO's number, or the photo's name in the data set."""

    id: int | str
    path: Path
    captions: tuple[str, ...]
    split: str
    hashed: bool = False  # the data set has no splits; `hash_split` chose this one


@dataclass
class Entry:
    """One photo as a caption file lists it. The photo's file may have any of `names`; it has not been looked up yet."""

    id: int | str
    names: tuple[str, ...]
    captions: list[str]
    split: str
    hashed: bool = False


class CaptionFile(NamedTuple):
    """The contents of a caption file, and where to look for its photos."""

    path: Path
    entries: list[Entry]
    finder: PhotoFinder


RecordOrEntry = TypeVar("RecordOrEntry", Record, Entry)


def default_split(records: Sequence[RecordOrEntry]) -> str:
    """The split that is evaluated by default: val, or all photos of a data set without splits."""
    return "all" if all(record.hashed for record in records) else "val"


def select(records: Sequence[RecordOrEntry], split: str) -> list[RecordOrEntry]:
    """The records or entries of one split ("dev" is accepted for "val"), or of "all". ValueError lists the existing
    splits."""
    wanted = SPLIT_ALIASES.get(split, split)
    chosen = [record for record in records if wanted in ("all", record.split)]
    if not chosen:
        counts = Counter(record.split for record in records)
        there = ", ".join(f"{name} ({counts[name]} images)" for name in SPLITS if name in counts)
        remedy = ""
        if records and all(record.hashed for record in records):
            remedy = (
                " Without a split column, photos are split by their names, about a tenth of them to val and a tenth "
                "to test. Add photos, or a split column with train, val and test."
            )
        raise ValueError(f"the data set has no split {split!r}; it has: {there or 'no photos'}.{remedy}")
    return chosen


def split_name(split: Any, where: str) -> str:
    """Our name of a split: train, val or test."""
    name = split.strip().lower() if isinstance(split, str) else ""
    if name in SPLITS or name in SPLIT_ALIASES:
        return SPLIT_ALIASES.get(name, name)
    expected = ", ".join((*SPLITS, *SPLIT_ALIASES))
    raise ValueError(f"{where}: unknown split {shorten(split)}; expected one of {expected}")


def hash_split(name: str) -> str:
    """A split for a photo of a data set without splits: 80 % train, 10 % val, 10 % test.

    It depends only on the SHA-256 of the name, so it is the same on every machine and does not change when photos are
    added.
    """
    part = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") % 10
    return ("val", "test")[part] if part < 2 else "train"


def photo_name(text: str) -> str:
    """A photo's name as a relative path with slashes, in Unicode's composed form (NFC). So "./a.jpg" and "a.jpg" are
    the same photo, as are two encodings of "é", and names written on Windows work elsewhere."""
    name = unicodedata.normalize("NFC", text.strip()).replace("\\", "/")
    return posixpath.normpath(name) if name else ""


def raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, numbered from 1, with their line ends. A byte-order mark is skipped."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 text ({error.reason}). Save the file as UTF-8.") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1, without their line ends."""
    return ((number, line.rstrip("\r\n")) for number, line in raw_lines(path) if line.strip())


def clean_caption(caption: Any, where: str) -> str:
    """The caption with single spaces (some of COCO's contain line ends). ValueError if it is empty."""
    if not isinstance(caption, str):
        raise ValueError(f"{where}: expected the caption as a string, found {shorten(caption)}")
    caption = " ".join(caption.split())
    if not caption:
        raise ValueError(f"{where}: the caption is empty. Write one or remove the row.")
    if LONE_SURROGATE.search(caption):
        raise ValueError(f"{where}: the caption has a lone surrogate (half a character). Write the row again.")
    return caption


def choose_file(root: Path, patterns: Sequence[str]) -> tuple[Path, Path]:
    """The folder of a data set and the only file in it that matches one of the patterns. `root` is the folder or the
    file."""
    if root.is_file():
        for pattern in patterns:
            if root.absolute().match(pattern):
                return root.absolute().parents[pattern.count("/")], root
        raise ValueError(f"{root}: expected a folder, or a file named {' or '.join(patterns)}")
    found = sorted({path for pattern in patterns for path in root.glob(pattern)})
    if not found:
        raise FileNotFoundError(f"{root}: no caption file; expected one of {', '.join(patterns)}")
    if len(found) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found)
        raise ValueError(f"{root}: expected one caption file, found {names}. Give the path of one of them.")
    return root, found[0]


class PhotoFinder:
    """Finds photos by name in several folders of a data set; the first folder that has the photo counts. Each folder is
    listed once, because 118,000 separate look-ups take minutes on a network disk. Names are normalised by `photo_name`;
    those on disk may be decomposed (NFD), as on macOS."""

    def __init__(self, root: Path, folders: Sequence[str]):
        self.root, self.folders = root, folders
        self._paths: dict[str, dict[str, Path]] = {}  # folder part of a photo's name -> file name -> path

    def find(self, names: Iterable[str]) -> Path | None:
        for name in names:
            inner, _, base = name.rpartition("/")
            if inner not in self._paths:
                self._paths[inner] = self._list(inner)
            if base in self._paths[inner]:
                return self._paths[inner][base]
        return None

    def _list(self, inner: str) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for outer in reversed(self.folders):
            folder = Path(self.root, outer, inner)
            try:
                names = os.listdir(folder)
            except ValueError:  # a name with NUL or a lone surrogate
                continue
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                    raise
                continue
            paths.update((unicodedata.normalize("NFC", name), folder / name) for name in names)
        return paths


def to_records(file: CaptionFile) -> list[Record]:
    """Find every photo. FileNotFoundError says how many are missing and names the first three."""
    finder = file.finder
    records, missing = [], []
    for entry in file.entries:
        photo = finder.find(entry.names)
        if photo is None:
            missing.append(entry.names[0])
        else:
            records.append(Record(entry.id, photo, tuple(entry.captions), entry.split, entry.hashed))
    if missing:
        many = f"{len(missing)} of {len(file.entries)} photos are missing"
        what = many if records else f"none of the {len(missing)} photos was found"
        folders = ", ".join("the folder itself" if name == "." else f"{name}/" for name in finder.folders)
        raise FileNotFoundError(
            f"{file.path}: {what} (first: {', '.join(missing[:3])}). Looked in {finder.root}: {folders}. "
            "Put the photos there, name their folder (--images), or remove their captions."
        )
    return records
