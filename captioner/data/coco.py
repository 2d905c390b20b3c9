"""Readers of COCO captions in the layout of the official zips, and of Karpathy's JSON for COCO, Flickr8k and Flickr30k.
`readers` offers them together with the other formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.data.records import CaptionFile, Entry, PhotoFinder, choose_file, clean_caption, photo_name, split_name
from captioner.metrics.files.results import read_json

COCO_FILES = ("annotations/captions_train20*.json", "annotations/captions_val20*.json")
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
        if missing or not all(isinstance(row[key], int | str) for key in ("id", *keys)):
            what = f"has no {missing[0]}" if missing else "has a value of the wrong type"
            raise ValueError(f"{source}: {part}[{number}] {what}; expected {', '.join(('id', *keys))}")
        if row["id"] in found:
            raise ValueError(f"{source}: several {part} with the id {row['id']}; expected each id once")
        found[row["id"]] = row
    return found


def _coco_entries(source: Path, split: str) -> list[Entry]:
    """The images of a COCO caption file. Captions that VizWiz flags as rejected or precanned are left out, and so are
    images with no other captions."""
    content = read_json(source)
    images = _by_id(content, "images", ("file_name",), source)
    captions: dict[Any, list[str]] = {}
    for key, annotation in _by_id(content, "annotations", ("image_id", "caption"), source).items():
        if annotation["image_id"] not in images:
            what = f"annotation {key} belongs to image {annotation['image_id']}"
            raise ValueError(f"{source}: {what}; expected the id of an image in the file")
        of_image = captions.setdefault(annotation["image_id"], [])
        if not (annotation.get("is_rejected") or annotation.get("is_precanned")):
            of_image.append(clean_caption(annotation["caption"], f"{source}: annotation {key}"))
    for key in images:
        if key not in captions:
            raise ValueError(f"{source}: image {key} has no caption among the annotations")
    return [
        Entry(key, (photo_name(str(image["file_name"])),), captions[key], split)
        for key, image in images.items()
        if captions[key]
    ]


def read_coco(root: Path, year: int | None = None, photos: bool = True) -> list[CaptionFile]:
    """COCO captions of 2014 or 2017 (`year`): annotations/captions_train2017.json with train2017/, and so on.

    A split without its folder of photos is left out, since the zip of annotations always contains both splits.
    With photos=False no photo is needed, and every split is kept.
    """
    if root.is_file():
        root, source = choose_file(root, COCO_FILES)
        year = int(source.stem[-4:])
    years = (2014, 2017) if year is None else (year,)
    parts = [(split, f"{split}{y}") for y in years for split in ("train", "val")]
    sources = {part: root / "annotations" / f"captions_{part}.json" for _, part in parts}
    parts = [(split, part) for split, part in parts if sources[part].is_file()]
    if not parts:
        expected = ", ".join(f"annotations/{source.name}" for source in sources.values())
        raise FileNotFoundError(f"{root}: no caption file; expected one of {expected}")
    there = [
        (split, part)
        for split, part in parts
        if not photos or (root / part).is_dir() or (root / "images" / part).is_dir()
    ]
    if not there:
        folders = " or ".join(f"{part}/" for _, part in parts)
        raise FileNotFoundError(
            f"{sources[parts[0][1]]}: no photos found. Looked for {folders} in {root} and in its images/. "
            "Unpack the photos there."
        )
    if len({part[-4:] for _, part in there}) > 1:
        raise ValueError(
            f"{root}: COCO 2014 and COCO 2017 contain the same photos. Give the path of one caption file, for example "
            f"{sources[there[-1][1]]}, or the format coco{there[-1][1][-4:]}."
        )
    split_of: dict[int | str, str] = {}
    files = []
    for split, part in there:
        entries = _coco_entries(sources[part], split)
        for entry in entries:
            if entry.id in split_of:
                what = f"image {entry.id} is in two splits, {split_of[entry.id]} and {split}"
                raise ValueError(f"{sources[part]}: {what}; expected one split per photo")
            split_of[entry.id] = split
        files.append(CaptionFile(sources[part], entries, PhotoFinder(root, (part, f"images/{part}"))))
    return files


def read_coco_test(root: Path) -> CaptionFile:
    """The photos of COCO's test2014: annotations/image_info_test2014.json with test2014/. Their captions are secret,
    known only to COCO's evaluation server."""
    root, source = choose_file(root, ("annotations/image_info_test2014.json",))
    images = _by_id(read_json(source), "images", ("file_name",), source)
    entries = [Entry(key, (photo_name(str(image["file_name"])),), [], "test") for key, image in images.items()]
    return CaptionFile(source, entries, PhotoFinder(root, ("test2014", "images/test2014")))


def _karpathy_image(image: Any, where: str) -> Entry:
    try:
        name, split, raw = (
            photo_name(str(image["filename"])),
            image["split"],
            [sentence["raw"] for sentence in image["sentences"]],
        )
        names = [name]
        if image.get("filepath"):
            names.insert(0, f"{image['filepath']}/{name}")
        if "cocoid" in image:
            names += [f"{part}/{int(image['cocoid']):012d}.jpg" for part in ("train2017", "val2017")]
    except (KeyError, TypeError) as error:
        what = f"broken ({type(error).__name__}: {error})"
        raise ValueError(f"{where}: {what}; expected filename, split and sentences, each sentence with raw") from None
    if not raw:
        raise ValueError(f"{where}: {name}: no sentences; expected at least one")
    captions = [clean_caption(text, f"{where}, {name}") for text in raw]
    return Entry(image.get("cocoid", name), tuple(names), captions, split_name(split, where))


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
