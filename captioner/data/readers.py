"""Readers of caption data sets: Flickr8k, Kaggle's captions.txt and plain folders are here, COCO and Karpathy's JSON
are in `coco`. `read_dataset` detects the format and returns records. Everything is checked as it is read; an error
names the file, the line and what was expected. Batches are made in `datasets`. Nothing here imports torch."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from captioner.data.coco import COCO_FILES, KARPATHY_FILES, own_coco_files, read_coco, read_karpathy
from captioner.data.records import (
    SPLIT_ALIASES,
    SPLITS,
    CaptionFile,
    Entry,
    PhotoFinder,
    Record,
    choose_file,
    clean_caption,
    default_split,
    hash_split,
    lines,
    photo_name,
    raw_lines,
    select,
    split_name,
    to_records,
)
from captioner.metrics.files.reading import parse_json, read_json, shorten

__all__ = ["FORMATS", "Record", "default_split", "read_captions", "read_dataset", "select"]

FLICKR8K_FILES = ("Flickr8k_text/Flickr8k.token.txt", "Flickr8k.token.txt")
FLICKR30K_FILE = "results_20130124.token"
KAGGLE_FILES = ("captions.txt", "results.csv")
# "Flicker" is the official spelling.
FLICKR_FOLDERS = (
    "Images",
    "images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
    ".",
)
FLICKR8K_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
FOLDER_FILES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FOLDERS_OF_SPLITS = tuple(
    f"{split}/metadata.{ending}" for split in (*SPLITS, *SPLIT_ALIASES) for ending in ("csv", "jsonl")
)
OTHER_NAMES = {"file_name": "image", "text": "caption", "path": "image"}  # Hugging Face's ImageFolder; our own tables


def _read_lists(folder: Path) -> dict[str, tuple[str, str]]:
    """Flickr8k's split lists: photo -> its split and "file:line". Any of the lists may be absent."""
    listed: dict[str, tuple[str, str]] = {}
    for split, file_name in FLICKR8K_LISTS.items():
        path = folder / file_name
        for number, line in lines(path) if path.is_file() else ():
            name, where = photo_name(line), f"{path}:{number}"
            if name in listed:
                other, place = listed[name]
                what = "listed twice" if other == split else f"in two splits, {other} and {split}"
                raise ValueError(f"{where}: {name} is {what}; expected it once. It is also in {place}.")
            listed[name] = split, where
    return listed


def _join(captions: dict[str, list[str]], lists: dict[str, tuple[str, str]], source: Path) -> list[Entry]:
    """The photos in the order of the split lists; all photos, with splits from `hash_split`, if there are no lists.
    Photos in no list are left out: Flickr8k has captions for 92 of them, and one, "2258277193_586949ec62.jpg.1", does
    not exist."""
    if not lists:
        return [Entry(name, (name,), rows, hash_split(name), hashed=True) for name, rows in captions.items()]
    for name, (_, where) in lists.items():
        if name not in captions:
            raise ValueError(f"{where}: unknown photo {name}; expected a photo that has captions in {source}")
    return [Entry(name, (name,), captions[name], split) for name, (split, _) in lists.items()]


def read_flickr8k(root: Path) -> list[CaptionFile]:
    """Flickr8k.token.txt (`NAME.jpg#0<TAB>caption`) with at least one split list in the same folder, or Flickr30k's
    results_20130124.token, which has no lists: `hash_split` assigns its splits."""
    root, source = choose_file(root, (*FLICKR8K_FILES, FLICKR30K_FILE))
    captions: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    for number, line in lines(source):
        where = f"{source}:{number}"
        key, tab, caption = line.partition("\t")
        name, _, index = key.rpartition("#")
        if not (tab and name and index.isdigit()):
            raise ValueError(f"{where}: broken row {line[:60]!r}; expected NAME.jpg#0<TAB>caption")
        if key in seen:
            raise ValueError(f"{where}: duplicate id {key}, also in line {seen[key]}; expected it once")
        seen[key] = number
        captions.setdefault(photo_name(name), []).append(clean_caption(caption, where))
    lists = _read_lists(source.parent)
    if not lists and source.name != FLICKR30K_FILE:
        expected = ", ".join(FLICKR8K_LISTS.values())
        raise FileNotFoundError(f"{source}: no split lists; expected at least one of {expected} in the same folder")
    return [CaptionFile(source, _join(captions, lists, source), PhotoFinder(root, FLICKR_FOLDERS))]


def _unquote(field: str) -> str:
    """The last field of a CSV row without the quotes that CSV puts around it. Quotes of the caption itself stay."""
    inner = field[1:-1]
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else field


def read_kaggle(root: Path) -> list[CaptionFile]:
    """Flickr8k and Flickr30k as on Kaggle: captions.txt with the columns image,caption, or captions.txt or results.csv
    with image_name,comment_number,comment, also separated by "|"; one row per caption. A caption may contain the
    separator without quotes, so only the first separators of a row count. The splits come from Flickr8k's split lists
    if they are in the same folder, otherwise from `hash_split`."""
    root, source = choose_file(root, KAGGLE_FILES)
    rows = lines(source)
    number, header = next(rows, (1, ""))
    separator = max(",|;\t", key=header.count)
    columns = [field.strip(' "') for field in header.split(separator)]
    if columns == ["image", "caption"]:
        pattern = re.compile(rf"([^{separator}]+){re.escape(separator)}(.*)")
    elif columns == ["image_name", "comment_number", "comment"]:  # one row of Flickr30k lacks its second separator
        pattern = re.compile(rf"([^{separator}]+){re.escape(separator)}\s*\d+\s*[{separator}]?(.*)")
    else:
        expected = "image,caption or image_name,comment_number,comment"
        raise ValueError(f"{source}:{number}: broken header {header[:60]!r}; expected {expected}")
    captions: dict[str, list[str]] = {}
    for number, line in rows:
        where = f"{source}:{number}"
        match = pattern.fullmatch(line)
        name = photo_name(match[1].strip(' "')) if match else ""
        if not (match and name):
            raise ValueError(f"{where}: broken row {line[:60]!r}; expected {header.strip()}")
        captions.setdefault(name, []).append(clean_caption(_unquote(match[2].strip()), where))
    return [CaptionFile(source, _join(captions, _read_lists(root), source), PhotoFinder(root, FLICKR_FOLDERS))]


def _our_columns(names: list[str]) -> list[str]:
    """The names of columns or keys, with other names for them replaced by ours, unless ours are there too."""
    ours = [OTHER_NAMES.get(name, name) for name in names]
    return [name if mine in names else mine for name, mine in zip(names, ours, strict=True)]


def _csv_table(source: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The non-blank rows of a CSV file, each with the number of its first line."""
    reader = csv.reader((line for _, line in raw_lines(source)), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{source}:{number}: broken row ({error}); expected CSV. Is a quote not closed?") from None
        if row is None:
            return
        if any(field.strip() for field in row):
            yield number, row


def _csv_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Image, caption and split of each row. Columns may be separated by commas, semicolons or tabs, and be in any order
    and case. Image and caption may be named as in Hugging Face's ImageFolder (file_name, text) or in our own tables
    (path). Other columns are ignored."""
    _, line = next(lines(source), (1, ""))
    delimiter = max(",;\t", key=line.count)
    table = _csv_table(source, delimiter)
    number, first = next(table, (1, []))
    header = _our_columns([field.strip().lower() for field in first])
    columns = {name: header.index(name) for name in ("image", "caption", "split") if header.count(name) == 1}
    if not {"image", "caption"} <= columns.keys():
        raise ValueError(
            f"{source}:{number}: broken header {line[:60]!r}; expected the columns image,caption and optionally split"
        )
    for number, row in table:
        if len(row) != len(header):
            raise ValueError(
                f"{source}:{number}: broken row of {len(row)} fields; expected {len(header)}: "
                f"{delimiter.join(first)}. Put double quotes around captions that contain {delimiter!r}."
            )
        yield number, {name: row[column] for name, column in columns.items()}


def _jsonl_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines(source):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{source}:{number}: broken row ({error}); expected one JSON object per line") from None
        if isinstance(row, dict):
            row = dict(zip(_our_columns(list(row)), row.values(), strict=True))
        if not (
            isinstance(row, dict) and isinstance(row.get("image"), str) and ("caption" in row) != ("captions" in row)
        ):
            expected = 'an object with "image" and either "caption" (a string) or "captions" (a list of strings)'
            raise ValueError(f"{source}:{number}: broken row {line[:60]!r}; expected {expected}")
        yield number, row


def read_folder(root: Path) -> list[CaptionFile]:
    """A plain folder: captions.csv with the columns image, caption and optionally split, one row per caption; or
    captions.jsonl with the same keys, or `captions` with a list, and any other keys. `image` is a path relative to the
    folder or to its images/. Without a split in any row, `hash_split` assigns the splits. Hugging Face's ImageFolder
    has the same content in metadata.csv or metadata.jsonl, with the keys file_name and text; each of the folders train,
    validation and test may have one."""
    of_splits = [] if root.is_file() else [path for name in FOLDERS_OF_SPLITS if (path := root / name).is_file()]
    if of_splits and not any((root / name).is_file() for name in FOLDER_FILES):
        return [_read_table(root, source, source.parent.name) for source in of_splits]
    return [_read_table(*choose_file(root, FOLDER_FILES))]


def _read_table(root: Path, source: Path, folder: str | None = None) -> CaptionFile:
    """The photos of a table. If `folder` is given, it holds the photos, and its name is their split."""
    entries: dict[str, Entry] = {}
    begun: dict[str, int] = {}
    has_split: bool | None = None
    for number, row in (_csv_rows if source.suffix == ".csv" else _jsonl_rows)(source):
        where, name, captions = (
            f"{source}:{number}",
            photo_name(f"{folder}/{row['image']}" if folder and row["image"].strip() else row["image"]),
            row.get("captions", [row.get("caption")]),
        )
        if not name:
            raise ValueError(f"{where}: broken row; the name of the image is empty")
        if not (isinstance(captions, list) and captions):
            raise ValueError(f"{where}: broken row; expected captions as a list of strings, found {shorten(captions)}")
        if has_split not in (None, "split" in row):
            raise ValueError(f"{where}: expected a split in every row or in no row; some rows have one")
        has_split = "split" in row
        if folder:
            row["split"] = folder
        split = split_name(row["split"], where) if "split" in row else hash_split(name)
        if name in entries and entries[name].split != split:
            what = f"{name} is in two splits, {entries[name].split} (line {begun[name]}) and {split}"
            raise ValueError(f"{where}: {what}; expected one split per photo")
        if name in entries and "captions" in row:
            raise ValueError(f"{where}: duplicate id {name}, also in line {begun[name]}; expected one list per photo")
        begun.setdefault(name, number)
        entry = entries.setdefault(name, Entry(name, (name,), [], split, hashed="split" not in row))
        entry.captions.extend(clean_caption(caption, where) for caption in captions)
    return CaptionFile(source, [*entries.values()], PhotoFinder(root, (".", "images", "Images")))


FORMATS: dict[str, Callable[..., list[CaptionFile]]] = {
    "flickr8k": read_flickr8k,
    "kaggle": read_kaggle,
    "coco": read_coco,
    "coco2014": partial(read_coco, year=2014),
    "coco2017": partial(read_coco, year=2017),
    "karpathy": read_karpathy,
    "folder": read_folder,
}
SIGNS = {
    "flickr8k": (*FLICKR8K_FILES, FLICKR30K_FILE),
    "kaggle": KAGGLE_FILES,
    "coco": COCO_FILES,
    "karpathy": KARPATHY_FILES,
    "folder": (*FOLDER_FILES, *FOLDERS_OF_SPLITS),
}


def find_format(root: Path) -> str:
    """The format of a data set, from the names of the files in its folder or of its caption file."""
    found: dict[str, list[Path]] = {}
    for name, signs in SIGNS.items():
        files = [root] if root.is_file() else [path for sign in signs for path in sorted(root.glob(sign))]
        found[name] = [path for path in files if any(path.absolute().match(sign) for sign in signs)]
    fits = [name for name, files in found.items() if files]
    if not fits and (root.suffix == ".json" if root.is_file() else own_coco_files(root)):
        return "coco"
    if not fits:
        for path in [root] if root.suffix == ".json" else [] if root.is_file() else sorted(root.glob("*.json")):
            read_json(path)  # raises the error of a truncated file
        looked = ", ".join(sign for signs in SIGNS.values() for sign in signs if sign not in FOLDERS_OF_SPLITS)
        holds = [] if root.is_file() else sorted(path.name for path in root.iterdir())
        more = ", ..." if len(holds) > 5 else ""
        raise FileNotFoundError(
            f"{root}: no caption data set found. Looked for: {looked}, and other JSON files in COCO's format."
            + (f" The folder contains: {', '.join(holds[:5])}{more}." if holds else "")
        )
    if len(fits) > 1:
        there = ", ".join(path.relative_to(root).as_posix() for name in fits for path in found[name])
        raise ValueError(
            f"{root}: matches several formats: {', '.join(fits)}. Give the path of one caption file: {there}."
        )
    return fits[0]


def _read(root: str | Path, format: str | None, photos: bool = True, images: Path | None = None) -> list[CaptionFile]:
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; expected the folder of a caption data set")
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder; expected the folder of the photos")
    format = find_format(root) if format is None else format
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    options = {"photos": photos, "images": images} if "coco" in format else {}
    files = FORMATS[format](root, **options)
    for file in files:
        if not any(entry.captions for entry in file.entries):
            raise ValueError(f"{file.path}: no captions; expected at least one")
    if images is not None:
        files = [file._replace(finder=PhotoFinder(images, (".", *file.finder.folders))) for file in files]
    return files


def read_dataset(root: str | Path, format: str | None = None, images: Path | None = None) -> list[Record]:
    """All records of the data set in the folder `root`. If the folder has several caption files, `root` is one of them.

    format: one of FORMATS, or None to detect it from the files in the folder.
    images: the folder of the photos, if they are not below `root`.
    Photos whose captions are all flagged (VizWiz) are left out.
    Raises ValueError or FileNotFoundError with the file, the line and what was expected.
    """
    records: list[Record] = []
    split_of: dict[Path, str] = {}
    for file in _read(root, format, images=images):
        for record in to_records(file._replace(entries=[entry for entry in file.entries if entry.captions])):
            if (other := split_of.setdefault(record.path, record.split)) != record.split:
                what = f"{record.path} is in two splits, {other} and {record.split}"
                raise ValueError(f"{file.path}: {what}; expected one split per photo")
            records.append(record)
    return records


def read_captions(root: str | Path, format: str | None = None) -> list[Entry]:
    """The ids, captions and splits of a data set. Its photos need not exist. An entry whose captions are all flagged
    has no captions. Arguments and errors as `read_dataset`."""
    return [entry for file in _read(root, format, photos=False) for entry in file.entries]
