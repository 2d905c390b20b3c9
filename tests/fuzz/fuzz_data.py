"""Damaged data files, from a seed: each reader is given small files that were right before a random change.

    python tests/fuzz/fuzz_data.py --number 1000 --seed 0

A reader may accept a changed file or raise ValueError or FileNotFoundError, whose message names the file or its folder.
Any other exception, and more than five seconds, is a fault. The exit status is 1 if there was any."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.data.checks import check_photos, note_on_copies, notes_on
from captioner.data.objects import read_objects
from captioner.data.readers import read_captions, read_dataset, select
from captioner.data.vectors import read_vectors
from captioner.metrics.files.references import read_coco_file, read_text_references
from captioner.metrics.files.results import Results
from captioner.metrics.files.score_file import ScoreFile, compare_files, score_files, score_people, score_results
from captioner.metrics.files.server import check_submission, read_image_ids
from captioner.metrics.files.tables import format_differences, format_scores
from captioner.vocabulary import Vocabulary

SECONDS = 5
PHOTOS = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
CAPTIONS = {1: "a dog runs", 2: "two cats sleep on a sofa", 3: "a man, a boat", 4: "the grass"}
RESULTS = json.dumps([{"image_id": key, "caption": text} for key, text in CAPTIONS.items()])
WRONG: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: copy.deepcopy(value) for value in (None, True, 0, -1, 1.5, "", " ", [], {}, [[]], [None])),
    lambda: float("nan"), lambda: float("inf"), lambda: 10**400, lambda: "x" * 70_000, lambda: "a\0b", lambda: "\ud800",
    lambda: "../" * 2000, lambda: {"id": []}, lambda: "ünï/\u202e\\cödé", lambda: "n" * 300,
)  # fmt: skip


def coco() -> str:
    images = [{"id": key, "file_name": name} for key, name in zip(CAPTIONS, PHOTOS, strict=True)]
    rows = [
        {"id": 10 * number + key, "image_id": key, "caption": text, "is_rejected": False}
        for number in (1, 2)
        for key, text in CAPTIONS.items()
    ]
    return json.dumps({"info": {"year": 2017}, "images": images, "annotations": rows})


def instances() -> str:
    images = [{"id": key, "width": 20, "height": 20} for key in CAPTIONS]
    runs = ([[1, 1, 9, 1, 9, 9]], {"size": [20, 20], "counts": [20, 20, 360]}, {"size": [20, 20], "counts": "d0d0X;"})
    rows = [{"image_id": key, "category_id": 1, "segmentation": run} for key in CAPTIONS for run in runs]
    return json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "dog"}]})


def karpathy() -> str:
    splits = ("train", "val", "test", "restval")
    images = [
        {"filename": name, "filepath": ".", "split": split, "cocoid": number, "sentences": [{"raw": "a dog"}]}
        for number, (name, split) in enumerate(zip(PHOTOS, splits, strict=True))
    ]
    return json.dumps({"images": images, "dataset": "coco"})


def json_lines(**more: Any) -> str:
    return "".join(json.dumps({"image": name, "caption": "a dog", **more}) + "\n" for name in PHOTOS)


def scores() -> str:
    found = score_results(Results(dict(CAPTIONS)), {key: [text, "a dog"] for key, text in CAPTIONS.items()}, samples=3)
    return json.dumps(found.to_dict())


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        for split in ("val", "test"):
            content.writestr(f"captions_{split}2014_x_results.json", RESULTS)
    return file.getvalue()


def data_set(folder: Path, name: str) -> None:
    """What train, evaluate and score do with a data set before any model."""
    entries = read_captions(folder)
    select(entries, entries[-1].split)
    records = read_dataset(folder)
    notes_on(records)
    note_on_copies(records)
    check_photos(records, 32, folder / "photos.json")
    read_dataset(folder / name)


def lists(folder: Path, name: str) -> None:
    read_dataset(folder)


def objects(folder: Path, name: str) -> None:
    found = read_objects(folder)
    for record in read_dataset(folder):
        found.masks(record)


def results(folder: Path, name: str) -> None:
    known = {key: [text] for key, text in CAPTIONS.items()}
    print(format_scores(score_files(folder / name, known, allow_missing=True, samples=2)))
    compare_files(folder / name, folder / name, known, samples=2)


def references(folder: Path, name: str) -> None:
    read_coco_file(folder / name)
    score_people(folder / name, samples=2)


def text_references(folder: Path, name: str) -> None:
    read_text_references([folder / name, folder / "r2.txt"])


def outlines(folder: Path, name: str) -> None:
    found = read_objects(folder)
    for record in read_dataset(folder / "annotations" / "captions_train2017.json"):
        found.masks(record)


def image_ids(folder: Path, name: str) -> None:
    read_image_ids(folder / name)


def score_file(folder: Path, name: str) -> None:
    (folder / "whole.json").write_text(SOURCES["score file"][1]["a.json"], encoding="utf-8")
    print(format_scores(ScoreFile.read(folder / name)))
    print(format_differences(compare_files(folder / "whole.json", folder / name, samples=2)))
    ScoreFile.read(folder / name).write(folder / "again.json")


def submission(folder: Path, name: str) -> None:
    check_submission(folder / name, {"val": {1, 2, 3, 4}})


def vectors(folder: Path, name: str) -> None:
    read_vectors(folder / name, Vocabulary(["a", "dog"]), 3)


def table(header: str, row: str) -> str:
    return f"{header}\n" + "".join(row.format(name) + "\n" for name in PHOTOS)


TOKENS = "".join(f"{name}#0\tA dog , here .\n{name}#1\tA cat .\n" for name in PHOTOS)
TRAIN, DEV, TEST = (f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test"))
BOXES = [{"word": "dog", "box": [1, 2, 10, 12.5]}]
ROWS = "".join(json.dumps({"path": f"{key}.jpg", "caption": text}) + "\n" for key, text in CAPTIONS.items())
# A reader, and its files: the first one is changed.
SOURCES: dict[str, tuple[Callable[[Path, str], Any], dict[str, str | bytes]]] = {
    "flickr8k": (data_set, {"Flickr8k.token.txt": TOKENS, TRAIN: "a.jpg\nb.jpg\n", DEV: "c.jpg\n", TEST: "d.jpg\n"}),
    "flickr8k, list": (lists, {TRAIN: "a.jpg\nb.jpg\n", "Flickr8k.token.txt": TOKENS}),
    "flickr30k": (data_set, {"results_20130124.token": TOKENS}),
    "kaggle": (data_set, {"captions.txt": table("image,caption", '{},"a dog, here"')}),
    "kaggle 30k": (data_set, {"results.csv": table("image_name| comment_number| comment", "{}| 0| a dog")}),
    "coco": (data_set, {"annotations/captions_train2017.json": coco()}),
    "coco, other name": (data_set, {"mine.json": coco()}),
    "karpathy": (data_set, {"dataset_coco.json": karpathy()}),
    "csv": (data_set, {"captions.csv": table("image,caption,split", '{},"a dog, here",train')}),
    "jsonl": (data_set, {"captions.jsonl": json_lines(split="val")}),
    "metadata": (data_set, {"metadata.csv": table("file_name;text", "{};a dog")}),
    "objects": (objects, {"captions.jsonl": json_lines(objects=BOXES)}),
    "outlines": (
        outlines,
        {"annotations/instances_train2017.json": instances(), "annotations/captions_train2017.json": coco()},
    ),
    "results": (results, {"r.json": RESULTS}),
    "results, lines": (results, {"r.jsonl": ROWS}),
    "results, csv": (results, {"r.csv": 'image_id,caption\n1,a dog\n2,"a cat, here"\n3,a man\n4,a boat\n'}),
    "results, text": (results, {"r.txt": "\n".join(CAPTIONS.values())}),
    "references": (references, {"r.json": coco()}),
    "references, text": (text_references, {"r1.txt": "a\nb\nc\n", "r2.txt": "a\nb\nc\n"}),
    "score file": (score_file, {"a.json": scores()}),
    "submission": (submission, {"captions_val2014_x_results.json": RESULTS}),
    "submission, zip": (submission, {"captions_x_results.zip": archive()}),
    "image ids": (image_ids, {"image_info_test2014.json": coco()}),
    "vectors": (vectors, {"v.txt": "2 3\na 0.1 0.2 0.3 \ndog 1 2 3 \n"}),
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def change_value(text: str, draw: random.Random) -> str:
    """Another JSON value somewhere in one of the JSON texts of a file: a wrong type, a key removed or doubled."""
    whole = text.startswith("[") or "\n" not in text.strip()
    rows = [text] if whole else text.splitlines()
    number = draw.randrange(len(rows))
    value = json.loads(rows[number])
    found = places(value)
    how = draw.choice(["wrong", "wrong", "wrong", "remove", "double", "deep"])
    if not found or draw.random() < 0.05:
        value = draw.choice(WRONG)()
    else:
        container, key = draw.choice(found)
        if how == "remove":
            del container[key]
        elif how == "double" and isinstance(container, list):
            container.insert(draw.randrange(len(container) + 1), copy.deepcopy(container[key]))
        else:
            container[key] = draw.choice(WRONG)()
    rows[number] = json.dumps(value)
    if how == "deep":
        rows[number] = rows[number].replace('"a dog', "[" * draw.choice([10, 900, 100_000]) + '"a dog', 1)
    return "\n".join(rows)


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    data, size = bytearray(content), len(content)
    start = draw.randrange(size)
    end = min(size, start + draw.choice([1, 1, 2, 8, 50]))
    match draw.randrange(9):
        case 0:
            data[start] ^= 1 << draw.randrange(8)
        case 1:
            data[start:end] = draw.randbytes(end - start)
        case 2:
            del data[start:]
        case 3:
            del data[start:end]
        case 4:
            data[start:start] = data[start:end]
        case 5:
            data[start:start] = draw.choice([b'"', b"\0", b"\n", b"\r", b"\xff", b",", b"\t", b"{", b"9" * 5000, b"#"])
        case 6:
            data[:0] = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n", b"PK\x03\x04", b"\x1f\x8b"])
        case 7:
            lines = data.splitlines(True)
            draw.shuffle(lines)
            data = bytearray(b"".join(lines))
        case _:
            other = draw.choice([b"", b" ", b"\n", b"null", b"[]", b"{}", b"7", b'"x"', b"[" * 100_000, b"9" * 400])
            data = bytearray(other)
    return bytes(data)


def changed(content: str | bytes, draw: random.Random) -> bytes:
    if isinstance(content, str):
        with contextlib.suppress(ValueError, IndexError):  # not JSON
            if draw.random() < 0.65:
                return change_value(content, draw).encode("utf-8", "surrogatepass")
        content = content.encode()
    for _ in range(draw.choice([1, 1, 1, 3])):
        content = change_bytes(content, draw) if content else content
    return content


class Hang(BaseException):
    """A reader took too long."""


def hang(*_: Any) -> None:
    raise Hang


def attempt(folder: Path, source: str, draw: random.Random) -> tuple[str, str]:
    """Read one changed file; what came of it ("accepted", "refused" or a fault), and the traceback or message."""
    read, files = SOURCES[source]
    for number, (name, content) in enumerate(files.items()):
        data = changed(content, draw) if number == 0 else content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name in PHOTOS:
        Image.new("RGB", (20, 20)).save(folder / name)
        if "annotations" in next(iter(files)):
            (folder / "train2017").mkdir(exist_ok=True)
            shutil.copy(folder / name, folder / "train2017" / name)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(folder, next(iter(files)))
    except Hang:
        return "hang", "".join(traceback.format_stack())
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        if str(folder) not in text or len(text.splitlines()) > 8:
            return "message", f"{type(error).__name__}: {text[:300]}\n{traceback.format_exc()[-900:]}"
        return "refused", text
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    return "accepted", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only sources whose name has this")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, hang)
    sources = [name for name in SOURCES if arguments.only in name]
    counts: Counter[str] = Counter()
    slowest = (0.0, "")
    for number in range(arguments.number):
        source = sources[number % len(sources)]
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            outcome, text = attempt(Path(scratch), source, random.Random(f"{arguments.seed} {number}"))
            slowest = max(slowest, (time.perf_counter() - started, f"{source}, case {number}"))
        counts[outcome] += 1
        if outcome not in ("accepted", "refused"):
            print(f"---- case {number}, {source}: {outcome}\n{text}")
    print(f"{arguments.number} files, seed {arguments.seed}: {dict(counts)}; slowest {slowest[0]:.1f} s ({slowest[1]})")
    return 0 if set(counts) <= {"accepted", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
