"""Readers of COCO captions, in the layout of the official zips or under other names, and of Karpathy's JSON for COCO,
Flickr8k and Flickr30k. `readers` offers them together with the other formats."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.records import (
    CaptionFile,
    Entry,
    PhotoFinder,
    choose_file,
    clean_caption,
    hash_split,
    photo_name,
    split_name,
)
from captioner.metrics.files.reading import is_id, read_json, shorten
from captioner.metrics.files.references import is_flagged

COCO_FILES = ("annotations/captions_train20*.json", "annotations/captions_val20*.json")
OTHER_ANNOTATIONS = ("instances_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")
SPLIT_IN_NAME = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_IN_NAME |= {"dev": "val", "test": "test"}
_SPLIT = re.compile(rf"(?<![a-z])(?:{'|'.join(SPLIT_IN_NAME)})(?![a-z])")
KARPATHY_FILES = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json", "dataset.json")
FLICKR_FOLDERS = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
KARPATHY_FOLDERS = (
    ".",
    "images",
    *FLICKR_FOLDERS,
    *(f"../{name}" for name in ("coco", "coco2014", "coco2017")),  # next to the folder of the JSON
    *(f"../{name}/{folder}" for name in ("flickr8k", "flickr30k") for folder in FLICKR_FOLDERS),
)


def _by_id(content: Any, part: str, keys: Iterable[str], source: Path) -> dict[Any, dict[str, Any]]:
    """The images or annotations of a COCO file by id. Each must have the keys."""
    rows = content.get(part) if isinstance(content, dict) else None
    if not (isinstance(rows, list) and rows):
        raise ValueError(f"{source}: no {part}; expected an object with lists of images and annotations")
    found: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        missing = [key for key in ("id", *keys) if key not in row] if isinstance(row, dict) else ["id", *keys]
        if missing or not all(is_id(row[key]) for key in ("id", *keys)):
            what = f"has no {missing[0]}" if missing else "has a value of the wrong type"
            raise ValueError(f"{source}: {part}[{number}] {what}; expected {', '.join(('id', *keys))}")
        if row["id"] in found:
            raise ValueError(f"{source}: several {part} with the id {row['id']}; expected each id once")
        found[row["id"]] = row
    return found


def _coco_entries(source: Path, split: str | None) -> list[Entry]:
    """The images of a COCO caption file; without a split, `hash_split` assigns the splits. Captions that VizWiz flags
    as rejected or precanned are left out; an image may then have none."""
    content = read_json(source)
    images = _by_id(content, "images", ("file_name",), source)
    captions: dict[Any, list[str]] = {}
    for key, annotation in _by_id(content, "annotations", ("image_id", "caption"), source).items():
        if annotation["image_id"] not in images:
            what = f"annotation {key} belongs to image {annotation['image_id']!r}"
            raise ValueError(f"{source}: {what}; expected the id of an image in the file")
        of_image = captions.setdefault(annotation["image_id"], [])
        if not is_flagged(annotation):
            of_image.append(clean_caption(annotation["caption"], f"{source}: annotation {key}"))
    for key in images:
        if key not in captions:
            raise ValueError(f"{source}: image {key} has no caption among the annotations")
    return [
        Entry(
            key,
            (photo_name(str(image["file_name"])),),
            captions[key],
            split or hash_split(str(key)),
            hashed=split is None,
        )
        for key, image in images.items()
    ]


class _Part(NamedTuple):
    """A COCO caption file, its split (None if its name does not say), and the folders in which its photos may be. The
    first `own` of these are for this file alone."""

    source: Path
    split: str | None
    folders: tuple[str, ...]
    own: int

    @classmethod
    def of(cls, source: Path, root: Path) -> _Part:
        part, folder = source.stem.removeprefix("captions_"), source.parent
        inner = folder.relative_to(root).as_posix() if folder != root else "."
        words = {SPLIT_IN_NAME[word] for word in _SPLIT.findall(part.lower())}
        split = words.pop() if len(words) == 1 else SPLIT_IN_NAME.get(folder.name.lower())
        own = [f"{place}{name}" for name in dict.fromkeys((part, split)) if name for place in ("", "images/")]
        return cls(source, split, (*own, *dict.fromkeys((inner, "images", "."))), len(own))


def _has_captions(path: Path) -> bool:
    """Whether a JSON file has images and annotations with captions."""
    try:
        content = read_json(path)
    except (ValueError, OSError):
        return False
    if not isinstance(content, dict):
        return False
    images, rows = content.get("images"), content.get("annotations")
    if not (isinstance(images, list) and isinstance(rows, list) and images and rows):
        return False
    return isinstance(rows[0], dict) and "caption" in rows[0]


def own_coco_files(root: Path) -> list[Path]:
    """COCO caption files under other names: JSON files in the folder, or at most two folders below it, that are called
    captions_*.json or have images and annotations with captions."""
    paths = sorted({path for pattern in ("*.json", "*/*.json", "*/*/*.json") for path in root.glob(pattern)})
    return [
        path
        for path in paths
        if path.name.startswith("captions_") or (not path.name.startswith(OTHER_ANNOTATIONS) and _has_captions(path))
    ]


def _parts(root: Path, year: int | None) -> list[_Part]:
    """The caption files of a folder, one per split: the official ones if there are any, otherwise those under other
    names."""
    years = (2014, 2017) if year is None else (year,)
    names = [f"annotations/captions_{split}{y}.json" for y in years for split in ("train", "val")]
    files = [root / name for name in names if (root / name).is_file()]
    if len({path.stem[-4:] for path in files}) > 1:
        return [_Part.of(path, root) for path in files]
    if not files and year is None:
        files = own_coco_files(root)
    if not files:
        raise FileNotFoundError(f"{root}: no caption file; expected one of {', '.join(names)}")
    parts = [_Part.of(path, root) for path in files]
    if len({part.split for part in parts}) < len(parts):
        there = ", ".join(path.relative_to(root).as_posix() for path in files)
        raise ValueError(
            f"{root}: expected one COCO caption file per split, with train, val or test in its name, found {there}. "
            "Give the path of one of them."
        )
    return parts


def read_coco(
    root: Path, year: int | None = None, photos: bool = True, images: Path | None = None
) -> list[CaptionFile]:
    """COCO captions of 2014 or 2017 (`year`): annotations/captions_train2017.json with train2017/, and so on; or
    COCO-format files under other names, whose splits are in the names of the files or of their folders. The photos are
    below `images`, or below the data set's folder.

    A split without a folder of photos is left out if another split has one, because the zip of annotations always
    contains both splits. With photos=False no photo is needed, and every split is kept.
    """
    if root.is_file():
        source = root.absolute()
        root = next((path.parent for path in source.parents if path.name == "annotations"), source.parent)
        parts = [_Part.of(source, root)]
    else:
        parts = _parts(root, year)
    base = root if images is None else images
    there = [part for part in parts if any((base / folder).is_dir() for folder in part.folders[: part.own])]
    parts = there if photos and there else parts
    official = [part for part in parts if part.source.stem[-4:] in ("2014", "2017")]
    if len({part.source.stem[-4:] for part in official}) > 1:
        source = parts[-1].source
        raise ValueError(
            f"{root}: COCO 2014 and COCO 2017 contain the same photos. Give the path of one caption file, for example "
            f"{source}, or the format coco{source.stem[-4:]}."
        )
    split_of: dict[int | str, str] = {}
    files = []
    for part in parts:
        entries = _coco_entries(part.source, part.split)
        for entry in entries if len(official) > 1 else ():  # elsewhere each split may number its images from 1
            if entry.id in split_of:
                what = f"image {entry.id} is in two splits, {split_of[entry.id]} and {part.split}"
                raise ValueError(f"{part.source}: {what}; expected one split per photo")
            split_of[entry.id] = entry.split
        files.append(CaptionFile(part.source, entries, PhotoFinder(base, part.folders)))
    return files


def read_coco_test(root: Path) -> CaptionFile:
    """The photos of COCO's test2014: annotations/image_info_test2014.json with test2014/. Their captions are known only
    to COCO's evaluation server."""
    root, source = choose_file(root, ("annotations/image_info_test2014.json",))
    images = _by_id(read_json(source), "images", ("file_name",), source)
    entries = [Entry(key, (photo_name(str(image["file_name"])),), [], "test") for key, image in images.items()]
    return CaptionFile(source, entries, PhotoFinder(root, ("test2014", "images/test2014")))


def _karpathy_image(image: Any, where: str) -> Entry:
    try:
        name, split, raw = image["filename"], image["split"], [sentence["raw"] for sentence in image["sentences"]]
    except (KeyError, TypeError) as error:
        what = f"broken ({type(error).__name__}: {error})"
        raise ValueError(f"{where}: {what}; expected filename, split and sentences, each sentence with raw") from None
    folder, number = image.get("filepath") or "", image.get("cocoid")
    if not (isinstance(name, str) and isinstance(folder, str)):
        raise ValueError(f"{where}: broken; expected filename and filepath as strings")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise ValueError(f"{where}: the cocoid is {shorten(number)}; expected a whole number")
    name = photo_name(name)
    names = [f"{folder}/{name}", name] if folder else [name]
    if number is not None:
        names += [f"{part}/{number:012d}.jpg" for part in ("train2017", "val2017")]
    if not raw:
        raise ValueError(f"{where}: {name}: no sentences; expected at least one")
    captions = [clean_caption(text, f"{where}, {name}") for text in raw]
    return Entry(name if number is None else number, tuple(names), captions, split_name(split, where))


def read_karpathy(root: Path) -> list[CaptionFile]:
    """Karpathy's JSON, in the folder of the photos or in a folder next to it; the split `restval` counts as train. For
    COCO, the photos may be those of 2014 or of 2017, which are the same under shorter names."""
    root, source = choose_file(root, KARPATHY_FILES)
    data = read_json(source)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{source}: not one of Karpathy's files; expected an object with a list of images")
    entries: dict[int | str, Entry] = {}
    for number, image in enumerate(images):
        where = f"{source}: images[{number}]"
        entry = _karpathy_image(image, where)
        if entry.id in entries:
            other = entries[entry.id].split
            what = "listed twice" if other == entry.split else f"in two splits, {other} and {entry.split}"
            raise ValueError(f"{where}: duplicate id: {entry.id} is {what}; expected it once")
        entries[entry.id] = entry
    return [CaptionFile(source, [*entries.values()], PhotoFinder(root, KARPATHY_FOLDERS))]
