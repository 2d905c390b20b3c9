"""References from files, checked: COCO annotation files, and text files with one caption per line. Data sets have
readers of their own, in `captioner.data`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.metrics.files.reading import Id, is_id, raise_problems, read_json, shorten, text_lines


@dataclass(frozen=True)
class References:
    """`captions`: the references of each image to score. `names`: the file names of the images, as far as known.
    `elsewhere`: the splits of the data set's other images. `flagged`: images whose captions are all flagged by VizWiz;
    they are not scored."""

    captions: Mapping[Id, Sequence[str]]
    names: Mapping[str, Id] = field(default_factory=dict)
    elsewhere: Mapping[Id, str] = field(default_factory=dict)
    flagged: frozenset[Id] = frozenset()


def is_flagged(annotation: Mapping[str, Any]) -> bool:
    """Whether VizWiz flags a caption as not describing the photo. Some programs write the flags as text."""
    flags = (annotation.get(name, False) for name in ("is_rejected", "is_precanned"))
    return any(str(flag).lower() in ("true", "1") for flag in flags)


def read_coco_file(path: str | Path) -> References:
    """The captions of each image of a COCO annotation file, ordered by annotation id. Photos are not needed. Captions
    that VizWiz flags are left out, and so are images with no other captions. Annotations listed twice are an error."""
    path = Path(path)
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f'{path}: expected COCO annotations: an object with a list "annotations"')
    images = content.get("images", [])
    if not isinstance(images, list):
        raise ValueError(f"{path}: images is {shorten(images)}; expected a list")
    problems: list[str] = []
    found: dict[Id, list[tuple[int, str]]] = {}
    for number, image in enumerate(images):
        if isinstance(image, dict) and is_id(image.get("id")):
            found[image["id"]] = []
        else:
            problems.append(f"image {number} is {shorten(image)}; expected an object with an id")
    first: dict[Id, int] = {}
    flagged: set[Id] = set()
    for number, entry in enumerate(annotations):
        if not isinstance(entry, dict) or not is_id(entry.get("image_id")):
            problems.append(f"annotation {number} is {shorten(entry)}; expected image_id and caption")
            continue
        key, order = entry["image_id"], entry.get("id", number)
        if not is_id(order):
            problems.append(f"annotation {number}: the id is {shorten(order)}; expected a number or a string")
        elif "id" in entry and order in first:
            problems.append(f"annotation {number}: the id {order!r} is listed twice, also in annotation {first[order]}")
        elif not isinstance(entry.get("caption"), str):
            problems.append(f"annotation {number}: the caption is {shorten(entry.get('caption'))}; expected a string")
        elif is_flagged(entry):
            flagged.add(key)
        else:
            found.setdefault(key, []).append((order if isinstance(order, int) else number, entry["caption"]))
        if "id" in entry and is_id(order):
            first.setdefault(order, number)
    empty = [key for key, captions in found.items() if not any(caption.strip() for _, caption in captions)]
    if empty and len(empty) < len(found):
        problems += [f"image {key!r} has no reference caption" for key in empty if key not in flagged]
    raise_problems(path, problems, "expected at least one caption per image, each listed once")
    if len(empty) == len(found):
        raise ValueError(f"{path}: it has no reference captions (COCO keeps those of its test splits secret)")
    ordered = {
        key: [caption for _, caption in sorted(captions, key=lambda c: c[0])]
        for key, captions in found.items()
        if key not in empty
    }
    names = {image["file_name"]: image["id"] for image in images if isinstance(image.get("file_name"), str)}
    return References(ordered, names, flagged=frozenset(flagged - ordered.keys()))


def read_coco_references(path: str | Path) -> dict[Id, list[str]]:
    """The captions of a COCO annotation file by image id, as `read_coco_file` reads them."""
    return {key: list(captions) for key, captions in read_coco_file(path).captions.items()}


def read_text_references(paths: Sequence[Path]) -> References:
    """References from text files with one caption per line: line i of each file belongs to image i, from 1. Blank lines
    are no captions; each image needs at least one."""
    columns = [text_lines(path) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{path} has {len(column):,} lines, but {paths[0]} has {len(columns[0]):,}; expected one caption per "
                "line, in the same order in each file"
            )
    found: dict[Id, list[str]] = {
        number: [line for line in row if line.strip()] for number, row in enumerate(zip(*columns, strict=True), 1)
    }
    raise_problems(
        paths[0],
        [f"line {number} is blank in every file" for number, captions in found.items() if not captions],
        "expected at least one caption per line",
    )
    if not found:
        raise ValueError(f"{paths[0]} is empty; expected one caption per line")
    return References(found)


def references_of(records: Iterable[Any]) -> dict[Id, list[str]]:
    """The references of a data set's records, by image id. ValueError if two records have the same id, as records of
    different splits may."""
    found: dict[Id, list[str]] = {}
    for record in records:
        if record.id in found:
            raise ValueError(f"two photos have the id {record.id!r}, in different splits; score each split by itself")
        found[record.id] = list(record.captions)
    return found
