"""Captions and references from files, checked: COCO results (`[{"image_id": 42, "caption": "a dog"}, …]`) and COCO
annotations. Nothing is scored here.

One reading finds all problems of a file; the error names the first few and counts the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Id = int | str
MAX_CAPTION = 10_000  # characters; the longest caption of COCO has about 250
EMPTY = "the caption is empty"
SHOWN = 5  # problems that an error spells out


@dataclass(frozen=True)
class Results:
    """The content of a results file: the caption of each image, and the images whose caption reached the longest length
    without an end token. A caption may be empty."""

    captions: dict[Id, str]
    unfinished: frozenset[Id] = frozenset()


def raise_problems(path: Path, problems: Sequence[str], expected: str) -> None:
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listing = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        raise ValueError(f"{path}: {expected}, but {_times(len(problems), 'problem')}:{listing}{more}")


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def read_json(path: Path) -> Any:
    """The content of a JSON file. An error names the line and column where it is not JSON."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a JSON file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a JSON file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; expected JSON. Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError(f"{path} is empty; expected JSON") from None
        where = f"line {error.lineno}, column {error.colno}"
        at_end = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        cut = " The file seems to be cut off." if at_end else ""
        raise ValueError(f"{path}: not JSON at {where} ({error.msg}).{cut}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be read; expected a list of captions") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path}: not JSON that can be read ({error})") from None


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


def _is_id(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))


def _hint(key: Id, known: Collection[Id], elsewhere: Mapping[Id, str]) -> str:
    if key in elsewhere:
        return f" among those scored (it is in the split {elsewhere[key]}: --split {elsewhere[key]} or --split all)"
    if isinstance(key, str) and key.lstrip("-").isdigit() and int(key) in known:
        return f" (the references have the number {int(key)}, not a string)"
    if isinstance(key, int) and str(key) in known:
        return f" (the references have the string {str(key)!r}, not a number)"
    return ""


def read_results(
    path: str | Path,
    known: Collection[Id] | None = None,
    allow_missing: bool = False,
    elsewhere: Mapping[Id, str] | None = None,
) -> Results:
    """The captions of a COCO-format results file.

    `known`: the image ids that have references. An id outside them is an error, which names its split if it is in
    `elsewhere`. A missing id is an error, too, unless `allow_missing`. An empty caption is kept, because the official
    evaluation scores it as no words. An entry may have other keys; `"finished": false` marks a caption that reached the
    longest length.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(
            f'{path}: expected a list of {{"image_id": …, "caption": …}}, found '
            f"{'an object' if isinstance(entries, dict) else shorten(entries)}"
        )
    captions: dict[Id, str] = {}
    first: dict[Id, int] = {}
    unfinished, problems = set(), []
    for number, entry in enumerate(entries):
        where = f"entry {number}"
        if not isinstance(entry, dict) or "image_id" not in entry or "caption" not in entry:
            problems.append(f"{where} is {shorten(entry)}; expected an object with image_id and caption")
            continue
        key, caption = entry["image_id"], entry["caption"]
        if not _is_id(key):
            problems.append(f"{where}: image_id is {shorten(key)}; expected a number or a string")
            continue
        where = f"{where} (image_id {key!r})"
        if key in first:
            problems.append(f"{where}: the image already has a caption, entry {first[key]}")
            continue
        first[key] = number
        if known is not None and key not in known:
            problems.append(f"{where}: this image has no references{_hint(key, known, elsewhere or {})}")
            continue
        problem = caption_problem(caption)
        if problem and problem != EMPTY:
            problems.append(f"{where}: {problem}")
        else:
            captions[key] = caption
            if entry.get("finished") is False:
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
    return Results(captions, frozenset(unfinished))


def results_json(captions: Mapping[Id, str]) -> str:
    """Captions in COCO's results format, one entry per line."""
    lines = (json.dumps({"image_id": key, "caption": caption}) for key, caption in captions.items())
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write_results(path: str | Path, captions: Mapping[Id, str]) -> None:
    """Write a COCO-format results file; its folder is made if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(results_json(captions), encoding="utf-8")


def is_flagged(annotation: Mapping[str, Any]) -> bool:
    """Whether VizWiz marks a caption as no description of the photo."""
    return bool(annotation.get("is_rejected") or annotation.get("is_precanned"))


def read_coco_references(path: str | Path) -> dict[Id, list[str]]:
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
        if isinstance(image, dict) and _is_id(image.get("id")):
            found[image["id"]] = []
        else:
            problems.append(f"image {number} is {shorten(image)}; expected an object with an id")
    first: dict[Id, int] = {}
    flagged: set[Id] = set()
    for number, entry in enumerate(annotations):
        if not isinstance(entry, dict) or not _is_id(entry.get("image_id")):
            problems.append(f"annotation {number} is {shorten(entry)}; expected image_id and caption")
            continue
        key, order = entry["image_id"], entry.get("id", number)
        if not _is_id(order):
            problems.append(f"annotation {number}: the id is {shorten(order)}; expected a number or a string")
        elif "id" in entry and order in first:
            problems.append(f"annotation {number}: the id {order!r} is listed twice, also in annotation {first[order]}")
        elif not isinstance(entry.get("caption"), str):
            problems.append(f"annotation {number}: the caption is {shorten(entry.get('caption'))}; expected a string")
        elif is_flagged(entry):
            flagged.add(key)
        else:
            found.setdefault(key, []).append((order if isinstance(order, int) else number, entry["caption"]))
        if "id" in entry and _is_id(order):
            first.setdefault(order, number)
    empty = [key for key, captions in found.items() if not any(caption.strip() for _, caption in captions)]
    if empty and len(empty) < len(found):
        problems += [f"image {key!r} has no reference caption" for key in empty if key not in flagged]
    raise_problems(path, problems, "expected at least one caption per image, each listed once")
    if len(empty) == len(found):
        raise ValueError(f"{path}: it has no reference captions (COCO keeps those of its test splits secret)")
    return {
        key: [caption for _, caption in sorted(captions, key=lambda c: c[0])]
        for key, captions in found.items()
        if key not in empty
    }


def references_of(records: Iterable[Any]) -> dict[Id, list[str]]:
    """The references of a data set's records, by image id. ValueError if two records have the same id, as records of
    different splits may."""
    found: dict[Id, list[str]] = {}
    for record in records:
        if record.id in found:
            raise ValueError(f"two photos have the id {record.id!r}, in different splits; score each split by itself")
        found[record.id] = list(record.captions)
    return found
