"""Submissions to COCO's evaluation server: results files under the required names, in a zip, checked before they are
sent. Nothing is scored here."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from captioner.metrics.files.reading import Id, parse_json, raise_problems, read_json, shorten
from captioner.metrics.files.results import caption_problem, results_json, write_results

SERVER_FILE = re.compile(r"captions_(val|test)2014_([A-Za-z0-9][A-Za-z0-9.+-]*(?:_[A-Za-z0-9.+-]+)*)_results\.json")
MOST_MEMBERS = 10  # that are read
MAX_BYTES = 100_000_000  # of an unpacked results file; those of test2014 have about 4 MB

Splits = Mapping[str, Collection[int]]


def check_submission(path: str | Path, ids: Splits | None = None) -> list[str]:
    """The reasons why COCO's evaluation server would reject a results file or a zip of such files; empty if there are
    none.

    `ids`: the image ids of "val" and "test", as far as known. Missing and unknown images are then problems too.
    """
    ids = ids or {}
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a results file or a zip of two results files")
    if path.suffix != ".zip":
        return _check_member(path.name, path.read_bytes(), ids)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            problems = [] if names else [f"{path.name}: the zip is empty"]
            if len(names) > MOST_MEMBERS:
                problems.append(f"{path.name}: {len(names):,} files; expected two, of val and of test")
            for name in names[:MOST_MEMBERS]:
                with archive.open(name) as file:
                    content = file.read(MAX_BYTES + 1)
                if len(content) > MAX_BYTES:
                    problems.append(f"{name}: unpacks to more than {MAX_BYTES // 1_000_000} MB; expected captions")
                else:
                    problems += _check_member(name, content, ids)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError) as error:
        # RuntimeError: a password, an unknown compression; OSError, EOFError and ValueError: damaged positions
        return [f"{path.name}: not a zip that can be read ({error})"]
    return problems + _missing_halves(path.name, names)


def _missing_halves(archive: str, names: Sequence[str]) -> list[str]:
    """Problems of a zip without both the val and the test file of a name: the server opens both, whichever is
    evaluated."""
    called = {match[2]: None for name in names if (match := SERVER_FILE.fullmatch(name))}
    wanted = [submission_name(name, split) for name in called for split in ("val", "test")]
    return [f"{archive}: {file} is missing; the server needs both" for file in wanted if file not in names]


def read_image_ids(path: str | Path) -> set[int]:
    """The image ids of a COCO file with a list "images", such as captions_val2014.json or image_info_test2014.json."""
    content = read_json(Path(path))
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(
        isinstance(image, dict) and type(image.get("id")) is int for image in images
    ):
        raise ValueError(f'{path}: expected a COCO file with a list "images", each with a whole number "id"')
    return {image["id"] for image in images}


def _check_member(name: str, content: bytes, splits: Splits) -> list[str]:
    problems = []
    match = SERVER_FILE.fullmatch(name)
    ids = splits.get(match[1]) if match else None
    if not match:
        problems.append(
            f"{name}: expected the name captions_val2014_NAME_results.json or captions_test2014_NAME_results.json, "
            "and no folder"
        )
    try:
        entries = parse_json(content.decode())
    except ValueError as error:
        return [*problems, f"{name}: not JSON in UTF-8 ({error})"]
    if not isinstance(entries, list):
        return [*problems, f"{name}: expected a list of captions"]
    seen: Counter[int] = Counter()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "caption"} <= entry.keys():
            problems.append(f"{name}: entry {number} is {shorten(entry)}; expected image_id and caption")
            continue
        key = entry["image_id"]
        where = f"{name}: entry {number} (image_id {shorten(key)})"
        if not isinstance(key, int) or isinstance(key, bool):
            problems.append(f"{where}: the image_id is not a whole number")
        else:
            seen[key] += 1
            if seen[key] == 2:
                problems.append(f"{where}: the image has two captions")
            if ids is not None and key not in ids:
                problems.append(f"{where}: no such image in the split")
        problem = caption_problem(entry["caption"])
        if problem:
            problems.append(f"{where}: {problem}")
    if ids is not None and (missing := [key for key in ids if key not in seen]):
        problems.append(f"{name}: {len(missing):,} of {len(ids):,} images have no caption (first: {missing[0]})")
    return problems


def submission_name(name: str, split: str) -> str:
    """The file name that the server requires. Raises ValueError for another split or character."""
    file = f"captions_{'val' if split == 'dev' else split}2014_{name}_results.json"
    if not SERVER_FILE.fullmatch(file):
        raise ValueError(
            f"cannot name a submission {file!r}; expected split val or test, and a name of A-Z a-z 0-9 . + - _"
        )
    return file


def write_submission(folder: str | Path, name: str, split: str, captions: Mapping[Id, str]) -> Path:
    """Write `captions_{split}2014_{name}_results.json` and a zip of it, as COCO's server requires; return the zip.

    The server needs the val file and the test file in one zip. If the other is already in the folder, it is added.
    """
    file, folder = submission_name(name, split), Path(folder)
    problems = _check_member(file, results_json(captions).encode("utf-8", "surrogatepass"), {})
    raise_problems(folder / file, problems, "expected what COCO's server accepts")
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / file, captions)
    both = [path for part in ("val", "test") if (path := folder / submission_name(name, part)).exists()]
    target = folder / f"captions_{name}_results.zip"
    partial = target.with_suffix(".zip.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in both:
            archive.write(path, path.name)
    partial.replace(target)
    return target
