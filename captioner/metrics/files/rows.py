"""The formats of results files, as rows of an image and its caption:

- COCO's: a list of `{"image_id": 42, "caption": "a dog"}`; further keys are ignored, except `"finished": false`, which
  marks a caption that reached the longest length;
- one such object per line, or `{"path": "a.jpg", "caption": "a dog"}` as `captioner caption --json` prints;
- a CSV table with a column caption and a column image_id, image, file_name or path;
- plain text (`.txt`): line i is the caption of image i.

Nothing is compared with references here."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captioner.metrics.files.reading import Id, parse_json, read_json, shorten, text_lines

IDS, NAMES = "image_id", ("path", "image", "file_name")  # keys and columns that identify the image
NONE = {"error", "left_out"}  # why a photo has no caption in captioner's own output
TABLES = {".csv": None, ".tsv": "\t"}


class Row(NamedTuple):
    """One caption. The image is given by its id (`key`) or its file (`name`). A row that cannot be used has a
    `problem`."""

    where: str
    key: Any = None
    name: str = ""
    caption: Any = None
    finished: bool = True
    problem: str = ""
    is_text: bool = False  # the key is text although the id may be a number


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a results file. In captioner's own output, photos without a caption are skipped. Raises
    FileNotFoundError, and ValueError for a file that has none of the formats."""
    if path.suffix.lower() == ".txt":
        lines = text_lines(path, "one caption per line")
        return (Row(f"line {number}", number, caption=line) for number, line in enumerate(lines, 1))
    if path.suffix.lower() in TABLES:
        return _table_rows(path)
    if path.suffix.lower() == ".jsonl" or _begins_with_an_object(path):
        return _json_line_rows(path)
    content = read_json(path)
    if not isinstance(content, list):
        found = "an object" if isinstance(content, dict) else shorten(content)
        raise ValueError(f'{path}: expected a list of {{"image_id": …, "caption": …}}, found {found}')
    return (_object_row(f"entry {number}", entry) for number, entry in enumerate(content))


def is_results(path: Path) -> bool:
    """Whether a file has one of these formats; a score file is a JSON object."""
    if path.suffix.lower() in (".txt", ".jsonl", *TABLES) or _begins_with_an_object(path):
        return True
    return isinstance(read_json(path), list)


def _begins_with_an_object(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"").strip().removeprefix(b"\xef\xbb\xbf")
    if not first.startswith(b"{"):
        return False
    try:
        entry = parse_json(first.decode())
    except ValueError:
        return False
    return isinstance(entry, dict) and not {IDS, *NAMES}.isdisjoint(entry)


def _json_line_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path, "one JSON object per line"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError as error:
            yield Row(f"line {number}", problem=f"is not JSON ({error})")
            continue
        if not (isinstance(entry, dict) and NONE & entry.keys() and "caption" not in entry):
            yield _object_row(f"line {number}", entry)


def _object_row(where: str, entry: Any) -> Row:
    name = next((entry[key] for key in NAMES if isinstance(entry.get(key), str)), "") if isinstance(entry, dict) else ""
    if not isinstance(entry, dict) or "caption" not in entry or not (IDS in entry or name):
        return Row(where, problem=f"is {shorten(entry)}; expected an object with image_id and caption")
    key = entry.get(IDS)
    if IDS in entry and key is None:
        return Row(where, problem="has the image_id null; expected a number or a string")
    return Row(where, key, name, entry["caption"], entry.get("finished") is not False)


def _table_rows(path: Path) -> Iterator[Row]:
    lines = text_lines(path, "a table in CSV")
    header = next((line for line in lines if line.strip()), "")
    delimiter = TABLES[path.suffix.lower()] or max(",;\t", key=header.count)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    columns: list[str] = []
    which = ""
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}: {where} is not CSV ({error}). Is a quote not closed?") from None
        if fields is None:
            break
        if not any(field.strip() for field in fields):
            continue
        if not columns:
            columns = [field.strip() for field in fields]
            which = next((name for name in (IDS, *NAMES) if name in columns), "")
            if not which or "caption" not in columns:
                expected = f"caption and one of {', '.join((IDS, *NAMES))}"
                raise ValueError(f"{path}: {where} is {shorten(header)}; expected a header with the columns {expected}")
            continue
        if len(fields) != len(columns):
            yield Row(where, problem=f"has {len(fields)} fields; expected {len(columns)}: {delimiter.join(columns)}")
            continue
        row = dict(zip(columns, fields, strict=True))
        if not row["caption"] and any(row.get(name) for name in NONE):
            continue
        finished = row.get("finished", "").lower() not in ("false", "0")
        image = row[which].strip()
        if which == IDS:
            yield Row(where, image, caption=row["caption"], finished=finished, is_text=True)
        else:
            yield Row(where, name=image, caption=row["caption"], finished=finished)


def number_of(text: Any) -> int | None:
    """The integer that a string of digits stands for; None for any other value."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else None


class PhotoNames:
    """Maps the path of a photo to its image id. The path or a suffix of it is looked up in the ids that are names
    (`known`) and in the file names of the images (`names`); then the number at the end of the file name, as in
    COCO_val2014_000000000042.jpg, is tried. Without references, the id is the path."""

    def __init__(self, known: Collection[Id] | None, names: Mapping[str, Id]):
        self.known, self.ids = known, dict(names)
        if known is not None:
            self.ids |= {key: key for key in known if isinstance(key, str)}
            ends = Counter(name.rpartition("/")[2] for name in self.ids)
            self.ids |= {
                end: key
                for name, key in list(self.ids.items())
                if (end := name.rpartition("/")[2]) not in self.ids and ends[end] == 1
            }

    def __call__(self, path: str) -> Id:
        parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
        if self.known is None:
            return path
        for start in range(len(parts)):
            if (found := self.ids.get("/".join(parts[start:]))) is not None:
                return found
        stem = parts[-1].partition(".")[0]
        number = number_of(stem.rpartition("_")[2])
        return number if number is not None and number in self.known else path
