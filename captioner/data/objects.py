"""Where the objects of a photo are, for comparison with attention: masks from COCO's instances file, decoded by
pycocotools, or boxes from the captions.jsonl of a plain folder, such as the toy world. Nothing here imports torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.data.readers import Record, find_format
from captioner.data.records import lines, photo_name
from captioner.images import MAX_PIXELS, open_image
from captioner.metrics.files.reading import Id, is_id, parse_json, read_json, shorten

Masks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Objects:
    """`names`: the names of all kinds of objects in the data set. `masks(record)`: maps the name of each object in a
    photo to a bool mask (height, width) over the pixels of the upright photo. Objects with the same name share a
    mask."""

    names: frozenset[str]
    masks: Callable[[Record], Masks]


def read_objects(root: str | Path) -> Objects:
    """The objects of the data set in `root`. Raises ValueError or FileNotFoundError if it has no object annotations."""
    root = Path(root)
    format = find_format(root)
    if format == "coco":
        return _coco_objects(root if root.is_dir() else root.parent.parent)
    source = root if root.is_file() else root / "captions.jsonl"
    if format == "folder" and source.suffix == ".jsonl" and source.is_file():
        return _folder_objects(source)
    raise ValueError(
        f"{root}: this data set has no object annotations; expected COCO with annotations/instances_*.json, or "
        'captions.jsonl with "objects": [{"word": "dog", "box": [left, top, width, height]}, ...]'
    )


def _coco_objects(root: Path) -> Objects:
    files = sorted(root.glob("annotations/instances_*.json"))
    if not files:
        raise FileNotFoundError(f"{root}: no object annotations; expected COCO's annotations/instances_*.json")
    names: dict[Id, str] = {}
    sizes: dict[Id, tuple[int, int]] = {}
    of_image: dict[Id, list[tuple[Id, str, Any]]] = defaultdict(list)  # name, place in the file, outline
    for file in files:
        content = read_json(file)
        for where, row in _rows(content, "categories", file, ("id",)):
            if not isinstance(row.get("name"), str):
                raise ValueError(f"{where}: the name is {shorten(row.get('name'))}; expected a string")
            names[row["id"]] = row["name"]
        for where, row in _rows(content, "images", file, ("id",)):
            match row.get("width"), row.get("height"):
                case int(width), int(height) if width > 0 < height and width * height <= MAX_PIXELS:
                    sizes[row["id"]] = width, height
                case found:
                    raise ValueError(f"{where}: width and height are {shorten(found)}; expected the photo's, in pixels")
        for where, row in _rows(content, "annotations", file, ("image_id", "category_id")):
            if row["category_id"] not in names:
                raise ValueError(f"{where}: no category {shorten(row['category_id'])}; expected one that is listed")
            if row["image_id"] in sizes:
                of_image[row["image_id"]].append((row["category_id"], where, row.get("segmentation")))

    def masks(record: Record) -> Masks:
        found: Masks = {}
        for category, where, outline in of_image.get(record.id, ()):
            name, mask = names[category], _mask(outline, *sizes[record.id], where)
            found[name] = found[name] | mask if name in found else mask
        return found

    return Objects(frozenset(names.values()), masks)


def _rows(content: Any, part: str, file: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a part of COCO's instances file, each with its place in the file. Each must have `keys`, whose values
    are ids."""
    rows = content.get(part) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{file}: no list {part}; expected COCO's instances, with images, categories and annotations")
    for number, row in enumerate(rows):
        where = f"{file}: {part}[{number}]"
        if not isinstance(row, dict) or not all(is_id(row.get(key)) for key in keys):
            raise ValueError(f"{where} is {shorten(row)}; expected an object with {' and '.join(keys)}")
        yield where, row


def _mask(outline: Any, width: int, height: int, where: str) -> np.ndarray:
    """The pixels (height, width) of an object, as bool, from COCO's polygons or run lengths."""
    from pycocotools.mask import frPyObjects, merge

    runs: Any = None
    match outline:
        case [[_, *_], *_] if all(_is_polygon(polygon, width, height) for polygon in outline):
            runs = _run_lengths(merge(frPyObjects(outline, height, width))["counts"].decode())
        case {"size": [rows, columns], "counts": counts} if (rows, columns) == (height, width):
            runs = _run_lengths(counts) if isinstance(counts, str) else counts
    known = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
    if not known or sum(runs) != width * height:
        what = f"the segmentation is {shorten(outline)}"
        raise ValueError(f"{where}: {what}; expected polygons or run lengths of the photo's size")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T  # run lengths go down the columns


def _is_polygon(numbers: Any, width: int, height: int) -> bool:
    """Whether these are x and y of at least three corners near the photo, and not too many to draw."""
    if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2:
        return False
    side = max(width, height)
    near = (type(value) in (int, float) and -side <= value <= 2 * side for value in numbers)  # false for NaN, too
    return len(numbers) * side <= MAX_PIXELS and all(near)


def _run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits per character, lowest first. From the third run on, each is stored as
    the difference to the run two before it."""
    runs: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code & 16) << (bits - 4)  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return runs


def _folder_objects(source: Path) -> Objects:
    boxes: dict[str, dict[str, list[list[float]]]] = {}
    for number, line in lines(source):
        try:
            row = parse_json(line)
            by_word = boxes.setdefault(photo_name(row["image"]), defaultdict(list))
            for item in row["objects"]:
                left, top, width, height = map(float, item["box"])
                by_word[str(item["word"]).lower()].append([left, top, left + width, top + height])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source}:{number}: broken objects ({type(error).__name__}: {error}); expected "
                '"objects": [{"word": "dog", "box": [left, top, width, height]}, ...]'
            ) from None

    def masks(record: Record) -> Masks:
        width, height = open_image(record.path).size
        x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        return {
            word: np.any(
                [(x >= left) & (x < right) & (y >= top) & (y < bottom) for left, top, right, bottom in rectangles],
                axis=0,
            )
            for word, rectangles in boxes[str(record.id)].items()
        }

    return Objects(frozenset(word for by_word in boxes.values() for word in by_word), masks)
