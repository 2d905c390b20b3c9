"""Captions and references from files, checked: COCO results (`[{"image_id": 42, "caption": "a dog"}, …]`) and COCO
annotations. Nothing is scored here.

Everything that is wrong with a file is found in one reading; the error names the first few entries and counts the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Id = int | str
MAX_CAPTION = 10_000  # characters; the longest caption of COCO has about 250
SHOWN = 5  # problems that an error spells out


@dataclass(frozen=True)
class Results:
    """A results file: the caption of each image, the images whose caption the decoder did not finish, and the
    entries that were left out because nothing could be scored."""

    captions: dict[Id, str]
    unfinished: frozenset[Id] = frozenset()
    left_out: tuple[str, ...] = field(default=())


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
    """A JSON file, or an error that says where it stops being one."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a JSON file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a JSON file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
        raise ValueError(f"{path}: {problem}; expected JSON in UTF-8. Save it so.") from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError(f"{path} is empty; expected JSON") from None
        where = f"line {error.lineno}, column {error.colno}"
        at_end = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        cut = " It ends too early: was it cut off?" if at_end else ""
        raise ValueError(f"{path}: not JSON from {where} on ({error.msg}).{cut}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply; expected a list of captions") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path}: not JSON that can be read ({error})") from None


def caption_problem(caption: Any) -> str | None:
    """What is wrong with a value as a caption, or None."""
    if not isinstance(caption, str):
        return f"the caption is {shorten(caption)}; expected a string"
    if not caption.strip():
        return "the caption is empty"
    if len(caption) > MAX_CAPTION:
        return f"the caption has {len(caption):,} characters; expected at most {MAX_CAPTION:,}"
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        return f"the caption has half a character (a lone surrogate) at position {error.start}"
    return None


def _is_id(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))


def _hint(key: Id, known: Collection[Id]) -> str:
    if isinstance(key, str) and key.lstrip("-").isdigit() and int(key) in known:
        return f" (the references have the number {int(key)}, not a string)"
    if isinstance(key, int) and str(key) in known:
        return f" (the references have the string {str(key)!r}, not a number)"
    return ""


def read_results(path: str | Path, known: Collection[Id] | None = None, allow_missing: bool = False) -> Results:
    """The captions of a COCO-format results file.

    `known`: the ids that there are references of; then ids outside it are errors, and so are ids without a caption,
    unless `allow_missing`, which also leaves empty captions out. Other keys of an entry are free; `"finished": false`
    marks an unfinished caption.
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
    unfinished, left_out, problems = set(), [], []
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
            problems.append(f"{where}: no references of this image{_hint(key, known)}")
            continue
        problem = caption_problem(caption)
        if allow_missing and problem == "the caption is empty":
            left_out.append(f"{where}: {problem}")
        elif problem:
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
                "captioner score --allow-missing scores the others"
            )
    raise_problems(path, problems, "expected one caption for each image")
    if not captions:
        raise ValueError(f"{path}: there is no caption to score; expected one or more")
    return Results(captions, frozenset(unfinished), tuple(left_out))


def results_json(captions: Mapping[Id, str]) -> str:
    """Captions in the format of COCO results, one entry a line."""
    lines = (json.dumps({"image_id": key, "caption": caption}) for key, caption in captions.items())
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write_results(path: str | Path, captions: Mapping[Id, str]) -> None:
    """Write a COCO-format results file, and the folder that it lies in."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(results_json(captions), encoding="utf-8")


def read_coco_references(path: str | Path) -> dict[Id, list[str]]:
    """The captions of each image of a COCO annotation file, by annotation id; photos are not needed."""
    path = Path(path)
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f'{path}: expected COCO annotations, an object with a list "annotations"; there is none')
    problems: list[str] = []
    found: dict[Id, list[tuple[Any, str]]] = {}
    for image in content.get("images") or []:
        if isinstance(image, dict) and _is_id(image.get("id")):
            found[image["id"]] = []
    for number, entry in enumerate(annotations):
        if not isinstance(entry, dict) or not _is_id(entry.get("image_id")):
            problems.append(f"annotation {number} is {shorten(entry)}; expected image_id and caption")
        elif not isinstance(entry.get("caption"), str):
            problems.append(f"annotation {number}: the caption is {shorten(entry.get('caption'))}; expected a string")
        else:
            order = entry.get("id")
            found.setdefault(entry["image_id"], []).append(
                (order if isinstance(order, int) else number, entry["caption"])
            )
    empty = [key for key, captions in found.items() if not any(caption.strip() for _, caption in captions)]
    if empty and len(empty) < len(found):
        problems += [f"image {key!r} has no reference caption" for key in empty]
    raise_problems(path, problems, "expected captions of each image")
    if len(empty) == len(found):
        raise ValueError(f"{path}: there are no reference captions in it (as in COCO's test splits)")
    return {key: [caption for _, caption in sorted(captions, key=lambda c: c[0])] for key, captions in found.items()}


def references_of(records: Iterable[Any]) -> dict[Id, list[str]]:
    """The references in a data set's records (anything with `id` and `captions`)."""
    return {record.id: list(record.captions) for record in records}
