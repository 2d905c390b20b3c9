"""Where the objects of a photo are, for comparison with attention: masks from COCO's instances, through pycocotools, or
boxes from the captions.jsonl of a plain folder, such as the toy world. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner.data.readers import Record, find_format
from captioner.data.records import lines, photo_name
from captioner.images import open_image
from captioner.metrics.files.reading import parse_json

Masks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Objects:
    """`names`: the names of all kinds of objects in the data set. `masks(record)`: the objects in a photo, name -> mask
    (height, width) of bool over the pixels of the upright photo; one mask for all objects with the same name."""

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
    from pycocotools.coco import COCO

    files = sorted(root.glob("annotations/instances_*.json"))
    if not files:
        raise FileNotFoundError(f"{root}: no object annotations; expected COCO's annotations/instances_*.json")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        parts = [COCO(str(file)) for file in files]
    names = {key: category["name"] for part in parts for key, category in part.cats.items()}

    def masks(record: Record) -> Masks:
        found: Masks = {}
        for part in parts:
            for annotation in part.imgToAnns.get(record.id, ()):
                name, mask = names[annotation["category_id"]], part.annToMask(annotation).astype(bool)
                found[name] = found[name] | mask if name in found else mask
        return found

    return Objects(frozenset(names.values()), masks)


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
