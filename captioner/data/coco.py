"""Readers of COCO captions in the layout of the official zips, and of Karpathy's JSON for COCO, Flickr8k and Flickr30k.
`readers` offers them together with the other formats."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.data.records import CaptionFile, Entry, PhotoFinder, choose_file, clean_caption, photo_name, split_name

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


def _unreadable(source: Path, error: Exception) -> ValueError:
    return ValueError(f"{source}: not valid JSON ({error}). The file may be incomplete: download it again.")


def _unique(rows: Iterable[dict[str, Any]], source: Path, part: str) -> None:
    duplicate, count = Counter(row["id"] for row in rows).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{source}: {count} {part} with the id {duplicate}; expected each id once")


def _coco_entries(source: Path, split: str) -> list[Entry]:
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco = COCO(str(source))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(source, error) from None
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: not a COCO caption file ({type(error).__name__}: {error}); expected images, and "
            "annotations with id, image_id and caption"
        ) from None
    for part in ("images", "annotations"):
        if not coco.dataset.get(part):
            raise ValueError(f"{source}: no {part}; expected images and annotations")
        _unique(coco.dataset[part], source, part)
    for annotation in coco.dataset["annotations"]:
        if annotation["image_id"] not in coco.imgs:
            what = f"annotation {annotation['id']} belongs to image {annotation['image_id']}"
            raise ValueError(f"{source}: {what}; expected the id of an image in the file")
    entries = []
    for key, image in coco.imgs.items():
        if "file_name" not in image or key not in coco.imgToAnns:
            what = "caption among the annotations" if "file_name" in image else "file_name"
            raise ValueError(f"{source}: image {key} has no {what}")
        captions = [
            clean_caption(annotation.get("caption"), f"{source}: annotation {annotation['id']}")
            for annotation in coco.imgToAnns[key]
        ]
        entries.append(Entry(key, (photo_name(str(image["file_name"])),), captions, split))
    return entries


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
    try:
        images = json.loads(source.read_text(encoding="utf-8"))["images"]
        names = {int(image["id"]): photo_name(str(image["file_name"])) for image in images}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(source, error) from None
    except (KeyError, TypeError, ValueError) as error:
        what = f"not a list of COCO's photos ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: {what}; expected images, each with id and file_name") from None
    entries = [Entry(key, (name,), [], "test") for key, name in names.items()]
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
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(source, error) from None
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
