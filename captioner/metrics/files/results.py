"""Results: the captions of a file, checked against the images that have references. Nothing is scored here.

All problems of a file are found in one pass; the error names the first few and counts the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.metrics.files.reading import Id, is_id, raise_problems, shorten
from captioner.metrics.files.rows import PhotoNames, number_of, read_rows

MAX_CAPTION = 10_000  # characters; the longest caption of COCO has about 250
EMPTY = "the caption is empty"


@dataclass(frozen=True)
class Results:
    """The content of a results file: the caption of each image, the images whose caption reached the longest length
    without an end token, and the number of captions that are left out because their images are flagged. A caption may
    be empty."""

    captions: dict[Id, str]
    unfinished: frozenset[Id] = frozenset()
    left_out: int = 0


def caption_problem(caption: Any) -> str | None:
    """Why a value is not a valid caption; None if it is."""
    if not isinstance(caption, str):
        return f"the caption is {shorten(caption)}; expected a string"
    if not caption.strip():
        return EMPTY
    if len(caption) > MAX_CAPTION:
        return f"the caption has {len(caption):,} characters; expected at most {MAX_CAPTION:,}"
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        return f"the caption has a lone surrogate (half a character) at position {error.start}"
    return None


def _hint(key: Id, known: Collection[Id], elsewhere: Mapping[Id, str]) -> str:
    if key in elsewhere:
        return f" among those scored (it is in the split {elsewhere[key]}: --split {elsewhere[key]} or --split all)"
    if (number := number_of(key)) is not None and number in known:
        return f" (the references have the number {number}, not a string)"
    if isinstance(key, int) and str(key) in known:
        return f" (the references have the string {str(key)!r}, not a number)"
    return ""


def read_results(
    path: str | Path,
    known: Collection[Id] | None = None,
    allow_missing: bool = False,
    elsewhere: Mapping[Id, str] | None = None,
    names: Mapping[str, Id] | None = None,
    flagged: frozenset[Id] = frozenset(),
) -> Results:
    """The captions of a results file, in one of the formats of `rows.read_rows`.

    `known`: the image ids that have references. Any other id is an error, which names its split if it is in
    `elsewhere`. A missing id is an error unless `allow_missing`. `names`: file name -> image id, for formats that name
    files. `flagged`: images whose captions are left out. An empty caption is kept, because the official evaluation
    scores it as having no words.
    """
    path = Path(path)
    everything = None if known is None else {*known, *flagged}
    captions: dict[Id, str] = {}
    first: dict[Id, str] = {}
    unfinished, problems, left_out = set(), [], 0
    find = PhotoNames(everything, names or {})
    for row in read_rows(path):
        if row.problem:
            problems.append(f"{row.where} {row.problem}")
            continue
        key = find(row.name) if row.key is None else row.key
        if row.is_text and everything is not None and key not in everything and number_of(key) in everything:
            key = number_of(key)
        if not is_id(key):
            problems.append(f"{row.where}: image_id is {shorten(key)}; expected a number or a string")
            continue
        where = f"{row.where} (image_id {key!r})"
        if key in first:
            problems.append(f"{where}: the image already has a caption, {first[key]}")
            continue
        first[key] = row.where
        if key in flagged:
            left_out += 1
            continue
        if known is not None and key not in known:
            problems.append(f"{where}: this image has no references{_hint(key, known, elsewhere or {})}")
            continue
        problem = caption_problem(row.caption)
        if problem and problem != EMPTY:
            problems.append(f"{where}: {problem}")
        else:
            captions[key] = row.caption
            if not row.finished:
                unfinished.add(key)
    if known is not None and not allow_missing:
        missing = [key for key in known if key not in first]
        if missing:
            examples = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
            problems.append(
                f"{len(missing):,} of {len(known):,} images have no caption ({examples}); "
                "use --allow-missing to score the others"
            )
    raise_problems(path, problems, "expected one caption per image")
    if not captions:
        raise ValueError(f"{path}: there is no caption to score; expected at least one")
    return Results(captions, frozenset(unfinished), left_out)


def results_json(captions: Mapping[Id, str]) -> str:
    """Captions in COCO's results format, one entry per line."""
    lines = (json.dumps({"image_id": key, "caption": caption}) for key, caption in captions.items())
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write_results(path: str | Path, captions: Mapping[Id, str]) -> None:
    """Write a COCO-format results file; its folder is made if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(results_json(captions), encoding="utf-8")
