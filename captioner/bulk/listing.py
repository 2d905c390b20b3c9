"""Listing photos one at a time, from files, folders, .tar shards, lists and addresses. The whole list is never in
memory. The contents of photos are not read here."""

from __future__ import annotations

import codecs
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from captioner.bulk.remote import FetchedPhoto, RemotePhoto, find_remote, is_address
from captioner.images import ENDINGS, ImageError, Source

CHUNK = 10_000  # names of one folder that are sorted at a time
BLOCK = 1 << 16  # bytes of a list that are read at a time
START_OF_A_PHOTO = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftyp(avi|hei|hev|mif|msf)",
    re.DOTALL,
)
ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")  # by `as_utf8`

Report = Callable[[str], None]
"""Called with one line for each folder or shard that cannot be read."""


class Photo(NamedTuple):
    """A photo and what identifies it."""

    name: str
    """Its path; for a photo in a shard, the shard's path and the name in it. Always valid UTF-8."""
    source: Source
    size: int | None = None
    """Bytes; None if the photo does not exist, or if its size is not known before it is read."""
    modified: int | None = None
    """Nanoseconds since 1970."""


@dataclass(frozen=True)
class Member:
    """A photo inside a shard. It is read like an open file; its bytes are not in memory before that."""

    shard: str
    member: str
    offset: int
    size: int
    modified: float

    @property
    def name(self) -> str:
        return f"{self.shard}/{self.member.removeprefix('./')}"

    def read(self) -> bytes:
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read ({error.strerror}); expected a readable shard.") from error


Found = Path | os.DirEntry | Member | RemotePhoto | FetchedPhoto


def list_photos(
    paths: Iterable[str], recursive: bool = False, follow_links: bool = False, report: Report = lambda line: None
) -> Iterator[Photo]:
    """The photos at `paths`, in order: files as given, the photos in folders (by suffix, sorted by name, without hidden
    files), and those in .tar shards (in their order).

    `recursive` includes subfolders, `follow_links` folders behind symbolic links. A path of a photo that does not exist
    is listed, and opening it raises the error; any other path that does not exist is reported here."""
    return map(_photo, _find(paths, recursive, follow_links, report))


def count_photos(paths: Iterable[str], recursive: bool = False, follow_links: bool = False) -> int:
    """The number of photos that `list_photos` lists. Only names are read."""
    return sum(1 for _ in _find(paths, recursive, follow_links, lambda line: None))


def is_photo(start: bytes) -> bool:
    """Whether a stream is a photo rather than a list of paths, judged by its first 16 bytes."""
    return START_OF_A_PHOTO.match(start) is not None


def read_list(stream: io.BufferedReader, separator: bytes = b"\n") -> Iterator[str]:
    """The paths in a stream, as they arrive. Empty ones are skipped. Raises ValueError for lines with NUL in them."""
    rest = b""
    if stream.peek(3).startswith(codecs.BOM_UTF8):
        stream.read(3)
    while block := stream.read1(BLOCK):
        if separator == b"\n" and b"\0" in block:
            raise ValueError("the list on standard input is separated by NUL, not by line ends. Add --null (-0).")
        *whole, rest = (rest + block).split(separator)
        yield from _decoded(whole)
    yield from _decoded([rest])


def _decoded(paths: Iterable[bytes]) -> Iterator[str]:
    return (os.fsdecode(path) for path in (path.rstrip(b"\r\n") for path in paths) if path.strip())


def _find(paths: Iterable[str], recursive: bool, follow_links: bool, report: Report) -> Iterator[Found]:
    for path in paths:
        if is_address(path):
            yield from find_remote(path, recursive, report)
        elif path.lower().endswith(".tar") and os.path.isfile(path):
            yield from _in_shard(path, report)
        elif path.lower().endswith((".tar.gz", ".tgz")) and os.path.isfile(path):
            report(f"{path}: a compressed shard; expected a .tar file. Decompress it first: gunzip.")
        elif os.path.isdir(path):
            yield from _in_folder(str(Path(path)), recursive, follow_links, report, frozenset())
        elif _ending(path) in ENDINGS or os.path.lexists(path):
            yield Path(path)
        else:  # most likely a misspelled folder
            report(f"{path}: no such file or folder; skipped.")


def _in_folder(
    folder: str, recursive: bool, follow_links: bool, report: Report, above: frozenset[tuple[int, int]]
) -> Iterator[os.DirEntry]:
    """`above` holds the parent folders, as device and inode."""
    try:
        status = os.stat(folder)
        here = above | {(status.st_dev, status.st_ino)}
        if here == above:
            return report(f"{folder}: a link to a folder that contains it; skipped.")
        with os.scandir(folder) as entries:
            while chunk := sorted(islice(entries, CHUNK), key=lambda entry: entry.name):
                shown = [entry for entry in chunk if not entry.name.startswith(".")]
                folders = [entry.path for entry in shown if _is_folder(entry, follow_links)]
                inside = set(folders)
                yield from (e for e in shown if _ending(e.name) in ENDINGS and e.path not in inside)
                for path in folders if recursive else ():
                    yield from _in_folder(path, recursive, follow_links, report, here)
    except OSError as error:
        report(f"{folder}: the folder cannot be listed ({error.strerror}); its photos are missing.")


def _is_folder(entry: os.DirEntry, follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:  # a circular link, or no permission
        return False


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _in_shard(shard: str, report: Report) -> Iterator[Member]:
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # tarfile keeps every member that it has read
                hidden = os.path.basename(member.name).startswith(".")
                if member.isreg() and not hidden and _ending(member.name) in ENDINGS:
                    yield Member(shard, member.name, member.offset_data, member.size, member.mtime)
    except (tarfile.TarError, OSError) as error:
        report(f"{shard}: the shard cannot be read to its end ({error}); photos are missing.")


def _photo(found: Found) -> Photo:
    if isinstance(found, Member | RemotePhoto | FetchedPhoto):
        modified = None if found.modified is None else int(found.modified * 1e9)
        return Photo(as_utf8(found.name), cast("BinaryIO", found), found.size, modified)
    path = os.fspath(found)
    try:
        status = found.stat()
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return Photo(as_utf8(path), path)
    return Photo(as_utf8(path), path, status.st_size, status.st_mtime_ns)


def as_utf8(path: str) -> str:
    """A path, or a text that contains one, with bytes that are not UTF-8 written like \\xe9."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def path_of(name: str) -> str:
    """The path of a file from its name: the inverse of `as_utf8`."""
    if os.path.lexists(name):
        return name
    return os.fsdecode(ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), name.encode()))
