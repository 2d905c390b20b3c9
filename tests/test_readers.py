"""The readers of caption data sets: each layout in a small folder made here, each complaint, and the real
data where it is at hand."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from captioner.data.readers import FORMATS, Record, default_split, read_captions, read_dataset, select
from captioner.data.records import hash_split
from captioner.metrics.files.references import is_flagged

FLICKR8K = {"a.jpg": "train", "b.jpg": "train", "c.jpg": "dev"}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / name, "a photo is not opened by a reader")


def write_lists(root: Path, splits: dict[str, str]) -> None:
    for split in set(splits.values()):
        names = [name for name, s in splits.items() if s == split]
        write(root / f"Flickr_8k.{split}Images.txt", "\n".join(names) + "\n")


def flickr8k(root: Path, photos: str = "Images") -> Path:
    rows = [f"{name}#{i}\tA {name[0]} , number {i} .\n" for name in (*FLICKR8K, "x.jpg", "y.jpg.1") for i in (0, 1)]
    write(root / "Flickr8k.token.txt", "".join(rows))
    write_lists(root, FLICKR8K)
    touch(root / photos, *FLICKR8K, "x.jpg")
    return root


def coco(root: Path, parts: dict[str, tuple[int, ...]]) -> Path:
    for part, ids in parts.items():
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
        annotations = [
            {"id": 10 * i + k, "image_id": i, "caption": f"Photo {i},\n caption {k}. "} for k in (0, 1) for i in ids
        ]
        data = {"images": images, "annotations": annotations}
        write(root / "annotations" / f"captions_{part}.json", json.dumps(data))
        touch(root / part, *(f"{i:012d}.jpg" for i in ids))
    return root


def karpathy_image(name: str, split: str, **more: object) -> dict[str, object]:
    return {"filename": name, "split": split, "sentences": [{"raw": f"This is {name}."}], **more}


def message(root: Path, error: type[Exception] = ValueError, format: str | None = None) -> str:
    with pytest.raises(error) as caught:
        read_dataset(root, format)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new, 1))


# ---- every layout


@pytest.mark.parametrize("photos", ["Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "."])
def test_flickr8k(tmp_path: Path, photos: str) -> None:
    records = read_dataset(flickr8k(tmp_path, photos))
    assert records[0] == Record("a.jpg", tmp_path / photos / "a.jpg", ("A a , number 0 .", "A a , number 1 ."), "train")
    assert [(r.id, r.split) for r in records] == [("a.jpg", "train"), ("b.jpg", "train"), ("c.jpg", "val")]
    assert select(records, "dev") == select(records, "val") == records[2:]


def test_flickr8k_with_windows_line_ends_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    expected = read_dataset(flickr8k(tmp_path))
    for path in tmp_path.glob("*.txt"):
        write(path, "\ufeff" + path.read_text(encoding="utf-8").replace("\n", "\r\n") + "\r\n")
    assert read_dataset(tmp_path) == expected


def test_kaggle_takes_commas_and_quotes_as_they_come(tmp_path: Path) -> None:
    rows = [
        "image,caption",
        "a.jpg,A dog , a cat , and a bird .",
        'b.jpg,"A dog , quoted ."',
        'b.jpg,"A sign says ""stop"" ."',
        'c.jpg,"Stop" says the sign , "now"',
    ]
    write(tmp_path / "captions.txt", "\n".join(rows))
    touch(tmp_path / "Images", "a.jpg", "b.jpg", "c.jpg")
    records = read_dataset(tmp_path)
    assert [r.captions for r in records] == [
        ("A dog , a cat , and a bird .",),
        ("A dog , quoted .", 'A sign says "stop" .'),
        ('"Stop" says the sign , "now"',),
    ]
    assert [r.split for r in records] == [hash_split(r.path.name) for r in records]
    write_lists(tmp_path, {"c.jpg": "train", "a.jpg": "test"})
    assert [(r.id, r.split) for r in read_dataset(tmp_path)] == [("c.jpg", "train"), ("a.jpg", "test")]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("results_20130124.token", "a.jpg#0\tA man , a dog .\na.jpg#1\tA dog ."),
        ("captions.txt", "image,caption\na.jpg,A man , a dog .\na.jpg,A dog ."),
        ("captions.txt", "image_name,comment_number,comment\na.jpg,0,A man , a dog .\na.jpg,1,A dog ."),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| A man , a dog .\na.jpg| 1   A dog ."),
    ],
)
@pytest.mark.parametrize("folder", ["flickr30k_images", "flickr30k-images"])
def test_flickr30k(tmp_path: Path, file: str, text: str, folder: str) -> None:
    write(tmp_path / file, text)
    touch(tmp_path / folder, "a.jpg")
    assert read_dataset(tmp_path) == [
        Record("a.jpg", tmp_path / folder / "a.jpg", ("A man , a dog .", "A dog ."), "train", hashed=True)
    ]


def test_hash_split_is_80_10_10_and_never_changes() -> None:
    counts = Counter(hash_split(f"{i}.jpg") for i in range(10_000))
    assert abs(counts["train"] - 8000) < 150
    assert abs(counts["val"] - 1000) < 150
    assert [hash_split(name) for name in ("a.jpg", "b.jpg", "f.jpg", "g.jpg")] == [
        "train",
        "val",
        "test",
        "train",
    ]


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco(tmp_path: Path, year: int, capsys: pytest.CaptureFixture[str]) -> None:
    records = read_dataset(coco(tmp_path, {f"train{year}": (7, 5), f"val{year}": (6,)}))
    first = tmp_path / f"train{year}" / "000000000007.jpg"
    assert records[0] == Record(7, first, ("Photo 7, caption 0.", "Photo 7, caption 1."), "train")
    assert [(r.id, r.split) for r in records] == [(7, "train"), (5, "train"), (6, "val")]
    assert capsys.readouterr().out == ""


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    expected = read_dataset(coco(tmp_path, {"train2017": (7, 5)}))
    source = tmp_path / "annotations" / "captions_train2017.json"
    write(source, "\ufeff" + source.read_text(encoding="utf-8"))
    assert read_dataset(tmp_path) == expected


def test_vizwiz_flags_leave_captions_out(tmp_path: Path) -> None:
    source = coco(tmp_path, {"train2017": (7, 5)}) / "annotations" / "captions_train2017.json"
    content = json.loads(source.read_text(encoding="utf-8"))
    flags = {70: ("is_rejected",), 50: ("is_precanned",), 51: ("is_rejected", "is_precanned")}
    for annotation in content["annotations"]:
        annotation |= {name: name in flags.get(annotation["id"], ()) for name in ("is_rejected", "is_precanned")}
    write(source, json.dumps(content))
    assert [(r.id, r.captions) for r in read_dataset(tmp_path)] == [(7, ("Photo 7, caption 1.",))]


def test_coco_without_the_photos_of_a_split_has_the_others(tmp_path: Path) -> None:
    coco(tmp_path, {"train2017": (7,), "val2017": (6,)})
    (tmp_path / "val2017").rename(tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "aside")
    assert [r.id for r in read_dataset(tmp_path)] == [7]
    (tmp_path / "images").mkdir()
    (tmp_path / "aside").rename(tmp_path / "images" / "val2017")
    assert [r.id for r in read_dataset(tmp_path)] == [7, 6]


def test_coco_of_two_years_asks_which(tmp_path: Path) -> None:
    coco(tmp_path, {"train2014": (1, 2), "train2017": (1,)})
    assert "captions_train2017.json, or the format coco2017" in message(tmp_path)
    assert [r.id for r in read_dataset(tmp_path, "coco2014")] == [1, 2]
    assert [r.id for r in read_dataset(tmp_path, "coco2017")] == [1]
    assert [r.id for r in read_dataset(tmp_path / "annotations" / "captions_train2014.json")] == [1, 2]


@pytest.mark.parametrize("folder", ["val2014", "images/val2014", "val2017"])
def test_karpathy_coco(tmp_path: Path, folder: str) -> None:
    name = "COCO_val2014_000000000009.jpg"
    image = karpathy_image(name, "restval", filepath="val2014", cocoid=9)
    write(tmp_path / "dataset_coco.json", json.dumps({"images": [image], "dataset": "coco"}))
    photo = "000000000009.jpg" if folder == "val2017" else name
    touch(tmp_path / folder, photo)
    assert read_dataset(tmp_path) == [Record(9, tmp_path / folder / photo, (f"This is {name}.",), "train")]


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("dataset_flickr8k.json", "Flicker8k_Dataset"),
        ("dataset_flickr30k.json", "flickr30k-images"),
        ("dataset.json", "images"),
        ("dataset.json", "."),
    ],
)
def test_karpathy_flickr(tmp_path: Path, file: str, folder: str) -> None:
    images = [karpathy_image("a.jpg", "train", imgid=0), karpathy_image("b.jpg", "test", imgid=1)]
    write(tmp_path / file, json.dumps({"images": images}))
    touch(tmp_path / folder, "a.jpg", "b.jpg")
    records = read_dataset(tmp_path)
    assert [(r.id, r.split, r.path) for r in records] == [
        ("a.jpg", "train", tmp_path / folder / "a.jpg"),
        ("b.jpg", "test", tmp_path / folder / "b.jpg"),
    ]


def test_karpathys_files_beside_the_folders_of_the_photos(tmp_path: Path) -> None:
    for name in ("dataset_flickr8k.json", "dataset_coco.json"):
        image = karpathy_image("a.jpg", "test") if "flickr" in name else karpathy_image("b.jpg", "val", cocoid=3)
        write(tmp_path / "karpathy" / name, json.dumps({"images": [image]}))
    touch(tmp_path / "flickr8k" / "Flicker8k_Dataset", "a.jpg")
    touch(tmp_path / "coco2017" / "val2017", "000000000003.jpg")
    assert "expected one caption file, found dataset_coco.json, dataset_f" in message(tmp_path / "karpathy")
    assert [r.path.name for r in read_dataset(tmp_path / "karpathy" / "dataset_flickr8k.json")] == ["a.jpg"]
    assert [r.id for r in read_dataset(tmp_path / "karpathy" / "dataset_coco.json")] == [3]
    assert "expected a folder, or a file named" in message(tmp_path / "karpathy" / "dataset_coco.json", format="kaggle")


@pytest.mark.parametrize("text_folder", [".", "Flickr8k_text"])
def test_a_data_set_by_its_caption_file(tmp_path: Path, text_folder: str) -> None:
    expected = [r.captions for r in read_dataset(flickr8k(tmp_path))]
    (tmp_path / "Flickr8k_text").mkdir()
    for path in tmp_path.glob("*.txt"):
        path.rename(tmp_path / text_folder / path.name)
    source = tmp_path / text_folder / "Flickr8k.token.txt"
    assert [r.captions for r in read_dataset(source)] == [r.captions for r in read_dataset(tmp_path)] == expected


def test_plain_folder_csv_and_jsonl_are_the_same(tmp_path: Path) -> None:
    images = {
        "one.png": ("train", ["A cat, asleep.", 'A "cat".']),
        "sub/two.png": ("val", ["Ein Käfer\nim Gras"]),
    }
    touch(tmp_path, "one.png", "sub/two.png")
    source = tmp_path / "captions.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "image", "caption"])
        writer.writerows((split, name, text) for name, (split, texts) in images.items() for text in texts)
    records = read_dataset(tmp_path)
    assert records[0] == Record("one.png", tmp_path / "one.png", ("A cat, asleep.", 'A "cat".'), "train")
    assert records[1] == Record("sub/two.png", tmp_path / "sub" / "two.png", ("Ein Käfer im Gras",), "val")
    source.unlink()
    lists = [{"image": n, "split": s, "captions": c, "objects": []} for n, (s, c) in images.items()]
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, lists)))
    assert read_dataset(tmp_path) == records
    rows = [{"image": n, "split": s, "caption": text} for n, (s, c) in images.items() for text in c]
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_dataset(tmp_path) == records


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "header", ["id|image|caption|split", "split|caption|url|image", "file_name|text|split", "text|image|caption|split"]
)
def test_plain_folder_with_other_columns_separators_and_names(tmp_path: Path, delimiter: str, header: str) -> None:
    values = {"image": "a.jpg", "file_name": "a.jpg", "caption": "A cat, asleep; a dog", "split": "val"}
    values["text"] = values["caption"]
    touch(tmp_path, "a.jpg")
    with (tmp_path / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header.split("|"), [values.get(name, "7") for name in header.split("|")]])
    expected = [Record("a.jpg", tmp_path / "a.jpg", (values["caption"],), "val")]
    assert read_dataset(tmp_path) == expected
    (tmp_path / "metadata.csv").unlink()
    write(tmp_path / "metadata.jsonl", json.dumps({name: values.get(name, 7) for name in header.split("|")}))
    assert read_dataset(tmp_path) == expected


def test_a_csv_header_in_upper_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    write(tmp_path / "captions.csv", "Image,Caption,SPLIT\na.jpg,A cat,val\n")
    assert read_dataset(tmp_path) == [Record("a.jpg", tmp_path / "a.jpg", ("A cat",), "val")]


def test_plain_folder_without_splits_hashes_names(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(40)]
    touch(tmp_path / "images", *names)
    write(tmp_path / "captions.csv", "image,caption\n" + "".join(f"{name},a cat\n" for name in names))
    records = read_dataset(tmp_path)
    assert {r.id: r.split for r in records} == {name: hash_split(name) for name in names}
    assert {r.split for r in records} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),  # as macOS writes names
        ("sub/a.jpg", "sub\\a.jpg"),
        ("a.jpg", "./a.jpg"),
        ("a.jpg", "sub/../a.jpg"),
    ],
)
def test_names_of_one_photo_in_several_spellings(tmp_path: Path, on_disk: str, written: str) -> None:
    touch(tmp_path, on_disk)
    rows = [{"image": on_disk, "caption": "a", "split": "train"}, {"image": written, "caption": "b", "split": "train"}]
    source = write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(r.path, r.captions) for r in read_dataset(tmp_path)] == [(tmp_path / on_disk, ("a", "b"))]
    edit(source, '"b", "split": "train"', '"b", "split": "val"')
    assert "is in two splits, train (line 1) and val" in message(tmp_path)


# ---- every complaint


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    text = message(tmp_path, FileNotFoundError)
    for name in (
        "Flickr8k.token.txt",
        "captions.txt",
        "annotations/captions_",
        "dataset_coco.json",
        "captions.jsonl",
    ):
        assert name in text
    assert "The folder contains" not in message(tmp_path, FileNotFoundError)
    touch(tmp_path, *"abcdef")
    assert "The folder contains: a, b, c, d, e, ...." in message(tmp_path, FileNotFoundError)
    assert "does not exist" in message(tmp_path / "nowhere", FileNotFoundError)
    assert "x.txt: no caption data set found" in message(write(tmp_path / "x.txt", "{}"), FileNotFoundError)
    assert "x.json: no images; expected an object with lists" in message(write(tmp_path / "x.json", "{}"))
    assert "expected one of flickr8k, kaggle" in message(tmp_path, format="coca")
    for format in FORMATS:  # a format that is told, and whose files are not there
        assert str(tmp_path) in message(tmp_path, FileNotFoundError, format)


def test_two_data_sets_in_one_folder(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    write(tmp_path / "captions.csv", "image,caption\na.jpg,A cat\n")
    text = message(tmp_path)
    assert "flickr8k, folder" in text
    assert "Flickr8k.token.txt, captions.csv" in text
    assert len(read_dataset(tmp_path, "flickr8k")) == 3
    write(tmp_path / "captions.jsonl", "")
    assert "captions.csv, captions.jsonl" in message(tmp_path, format="folder")


def test_select_lists_the_splits() -> None:
    records = [Record(i, Path(f"{i}.jpg"), ("a",), "train") for i in range(3)]
    with pytest.raises(ValueError, match=r"no split 'test'; it has: train \(3 images\)\.$"):
        select(records, "test")
    by_name = [replace(record, hashed=True) for record in records]
    with pytest.raises(ValueError, match=r"has: train \(3 images\)\. .* Add photos, or a split column with train, val"):
        select(by_name, "val")


def test_photos_missing(tmp_path: Path) -> None:
    root = flickr8k(tmp_path)
    (root / "Images" / "b.jpg").unlink()
    text = message(root, FileNotFoundError)
    assert "1 of 3 photos are missing (first: b.jpg)" in text
    assert "Flickr8k.token.txt" in text
    assert "Flicker8k_Dataset/" in text
    for name in ("a.jpg", "c.jpg"):
        (root / "Images" / name).unlink()
    assert "none of the 3 photos was found (first: a.jpg, b.jpg, c.jpg)" in message(root, FileNotFoundError)


FLICKR8K_FAULTS = [
    ("Flickr8k.token.txt", "a.jpg#1\tA a , number 1 .", "a.jpg#1\t ", ":2: the caption is empty"),
    ("Flickr8k.token.txt", "a.jpg#1\tA a", "a.jpg#1 A a", ":2: broken row 'a.jpg#1 A a"),
    ("Flickr8k.token.txt", "a.jpg#1\t", "a.jpg\t", ":2: broken row 'a.jpg"),
    ("Flickr8k.token.txt", "a.jpg#1", "a.jpg#0", ":2: duplicate id a.jpg#0, also in line 1"),
    ("Flickr_8k.devImages.txt", "c.jpg", "c.jpg\n\nb.jpg", ":3: b.jpg is in two splits, train and val"),
    ("Flickr_8k.trainImages.txt", "b.jpg", "b.jpg\na.jpg", ":3: a.jpg is listed twice"),
    ("Flickr_8k.trainImages.txt", "b.jpg", "q.jpg", ":2: unknown photo q.jpg"),
]


@pytest.mark.parametrize(("file", "old", "new", "expected"), FLICKR8K_FAULTS)
def test_flickr8k_faults(tmp_path: Path, file: str, old: str, new: str, expected: str) -> None:
    edit(flickr8k(tmp_path) / file, old, new)
    assert str(tmp_path / file) + expected in message(tmp_path)


def test_flickr8k_without_lists_or_in_another_encoding(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    (tmp_path / "Flickr8k.token.txt").write_bytes("a.jpg#0\tA cat\nb.jpg#0\tUn café\n".encode("latin-1"))
    assert "Flickr8k.token.txt:2: not UTF-8" in message(tmp_path)
    for path in tmp_path.glob("Flickr_8k.*"):
        path.unlink()
    write(tmp_path / "Flickr8k.token.txt", "a.jpg#0\tA cat\n")
    assert "no split lists" in message(tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1: broken header"),
        ("a.jpg,A cat\n", ":1: broken header 'a.jpg,A cat'; expected image,caption"),
        ("image,caption\na.jpg,A cat\n\na.jpg A dog\n", ":4: broken row 'a.jpg A dog'"),
        ("image,caption\na.jpg,\n", ":2: the caption is empty"),
        ('image,caption\na.jpg," "\n', ":2: the caption is empty"),
        ("image,caption\n,A cat\n", ":2: broken row"),
        ("image,caption\n", ": no captions; expected at least one"),
    ],
)
def test_kaggle_faults(tmp_path: Path, text: str, expected: str) -> None:
    touch(tmp_path / "Images", "a.jpg")
    assert str(write(tmp_path / "captions.txt", text)) + expected in message(tmp_path)


COCO_FAULTS = [
    ('"id": 5, "file_name"', '"id": true, "file_name"', ": images[1] has a value of the wrong type; expected id, file"),
    ('"Photo 5,\\n caption 0. "', '"\\ud800"', ": annotation 50: the caption has a lone surrogate"),
    ("}]}", "}]", ": not JSON at line 1"),
    ('"id": 5, "file_name"', '"id": 7, "file_name"', ": several images with the id 7"),
    ('"id": 50', '"id": 70', ": several annotations with the id 70"),
    ('"id": 50, "image_id": 5', '"id": 50, "image_id": 55', ": annotation 50 belongs to image 55"),
    ('"Photo 5,\\n caption 0. "', '" \\n"', ": annotation 50: the caption is empty"),
    (
        '"caption": "Photo 5,\\n caption 0. "',
        '"text": "hm"',
        ": annotations[1] has no caption; expected id, image_id, caption",
    ),
    ('"image_id": 7', '"image": 7', ": annotations[0] has no image_id; expected id, image_id, caption"),
    ('"file_name": "000000000005.jpg"', '"name": "5.jpg"', ": images[1] has no file_name; expected id, file_name"),
    ('"images": [', '"images": [{"id": 99, "file_name": "99.jpg"}, ', ": image 99 has no caption"),
    ('"annotations"', '"instances"', ": no annotations; expected an object with lists"),
]


@pytest.mark.parametrize(("old", "new", "expected"), COCO_FAULTS)
def test_coco_faults(tmp_path: Path, old: str, new: str, expected: str) -> None:
    source = coco(tmp_path, {"train2017": (7, 5)}) / "annotations" / "captions_train2017.json"
    edit(source, old, new)
    assert str(source) + expected in message(tmp_path)


def test_coco_photos_and_splits(tmp_path: Path) -> None:
    coco(tmp_path, {"train2017": (7, 5), "val2017": (7,)})
    assert "captions_val2017.json: image 7 is in two splits, train and val" in message(tmp_path)
    coco(tmp_path, {"train2017": (7, 5), "val2017": (6,)})
    (tmp_path / "train2017" / "000000000005.jpg").unlink()
    assert "captions_train2017.json: 1 of 2 photos are missing" in message(tmp_path, FileNotFoundError)
    for part in ("train2017", "val2017"):
        (tmp_path / part).rename(tmp_path / f"not_{part}")
    assert "none of the 2 photos was found" in message(tmp_path, FileNotFoundError)


KARPATHY_FAULTS = [
    ('"split": "val"', '"split": "val", "cocoid": "9"', "images[1]: the cocoid is '9'; expected a whole number"),
    (
        '"split": "val"',
        '"split": "val", "filepath": [1]',
        "images[1]: broken; expected filename and filepath as strings",
    ),
    ('"filename": "b.jpg"', '"filename": 7', "images[1]: broken; expected filename and filepath as strings"),
    (
        '"split": "val"',
        '"split": "trian"',
        "images[1]: unknown split 'trian'; expected one of train, val, test",
    ),
    ('"raw": "This is b.jpg."', '"raw": ""', "images[1], b.jpg: the caption is empty"),
    ('[{"raw": "This is b.jpg."}]', "[]", "images[1]: b.jpg: no sentences"),
    (
        '"filename": "b.jpg"',
        '"filename": "a.jpg"',
        "images[1]: duplicate id: a.jpg is in two splits, train and val",
    ),
    ('"sentences"', '"captions"', "images[0]: broken (KeyError: 'sentences'); expected filename, split"),
    ('"filename": "b.jpg"', '"filename": "q.jpg"', "1 of 2 photos are missing (first: q.jpg)"),
    ('"images"', '"photos"', "expected an object with a list of images"),
    ('{"images"', '["images"', "not JSON at line 1"),
]


@pytest.mark.parametrize(("old", "new", "expected"), KARPATHY_FAULTS)
def test_karpathy_faults(tmp_path: Path, old: str, new: str, expected: str) -> None:
    images = [karpathy_image("a.jpg", "train"), karpathy_image("b.jpg", "val")]
    source = write(tmp_path / "dataset_flickr8k.json", json.dumps({"images": images}))
    touch(tmp_path, "a.jpg", "b.jpg")
    assert len(read_dataset(tmp_path)) == 2
    edit(source, old, new)
    text = message(tmp_path, FileNotFoundError if "missing" in expected else ValueError)
    assert text.startswith(f"{source}: ")
    assert expected in text


FOLDER_FAULTS = [
    ("jsonl", "[" * 100_000, ":1: broken row (it is nested too deeply to be read)"),
    ("jsonl", '{"image": "a.jpg", "caption": ' + "9" * 5000 + "}", ":1: broken row (Exceeds the limit"),
    ("jsonl", '{"image": "a.jpg", "caption": ' + "9" * 400 + "}", ":1: expected the caption as a string, found 999"),
    ("csv", "image,caption\na.jpg,A cat, asleep\n", ":2: broken row of 3 fields; expected 2: image,caption"),
    ("csv", 'image,caption\na.jpg,"A cat"\na.jpg,"A dog\n', ":3: broken row"),
    ("csv", "file,caption\na.jpg,A cat\n", ":1: broken header 'file,caption'; expected the columns image,caption"),
    ("csv", "", ":1: broken header"),
    ("csv", 'image,caption\na.jpg,"A\ncat"\na.jpg,\n', ":4: the caption is empty"),
    ("csv", "image,caption\n ,A cat\n", ":2: broken row; the name of the image is empty"),
    ("csv", "image,caption,split\na.jpg,A,train\nb.jpg,B,trian\n", ":3: unknown split 'trian'"),
    ("csv", "split,image,caption\ntrain,a.jpg,A\nval,a.jpg,B\n", ":3: a.jpg is in two splits, train (line 2"),
    ("jsonl", '{"image": "a.jpg", "caption": "A"}\n{"image": "a.jpg"\n', ":2: broken row"),
    ("jsonl", '{"image": "a.jpg"}\n', ':1: broken row \'{"image": "a.jpg"}\'; expected an object'),
    ("jsonl", '{"image": "a.jpg", "captions": []}\n', ":1: broken row; expected captions as a list"),
    ("jsonl", '{"image": "a.jpg", "captions": ["A", ""]}\n', ":1: the caption is empty"),
    ("jsonl", '{"image": "a.jpg", "captions": "A"}\n', ":1: broken row; expected captions as a list"),
    ("jsonl", '{"image": "a.jpg", "captions": ["A"]}\n' * 2, ":2: duplicate id a.jpg, also in line 1"),
    ("jsonl", '{"image": "a.jpg", "caption": "A", "split": "train"}\n{"image": "b.jpg", "caption": "B"}\n',
     ":2: expected a split in every row or in no row"),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "text", "expected"), FOLDER_FAULTS)
def test_folder_faults(tmp_path: Path, ending: str, text: str, expected: str) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    source = write(tmp_path / f"captions.{ending}", text)
    assert str(source) + expected in message(tmp_path)


# ---- speed, imports, real data


@pytest.mark.parametrize("name", ["a\0/b.jpg", "\ud800/b.jpg", "x" * 300 + "/b.jpg", "../" * 2000 + "b.jpg"])
def test_names_that_no_file_can_have_are_missing_photos(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.jpg")
    rows = [{"image": each, "caption": "a dog"} for each in ("a.jpg", name)]
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    assert "1 of 2 photos are missing" in message(tmp_path, FileNotFoundError)


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path, {"train2017": tuple(range(50))})
    listed: Counter[str] = Counter()
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.update([str(path)]) or listdir(path))
    assert len(read_dataset(tmp_path)) == 50
    assert set(listed.values()) == {1}


def test_reading_needs_no_torch() -> None:
    code = "import sys, captioner.data.readers, captioner.data.toy; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


FLICKR8K_ITSELF = Path(__file__).parents[1] / "datasets" / "flickr8k"


@pytest.mark.skipif(not FLICKR8K_ITSELF.is_dir(), reason="Flickr8k is not at hand")
def test_flickr8k_itself() -> None:
    begin = time.process_time()
    records = read_dataset(FLICKR8K_ITSELF)
    assert time.process_time() - begin < 1
    counts = Counter(record.split for record in records)
    assert counts["train"] == 6000
    assert counts["val"] == 1000
    assert {len(record.captions) for record in records} == {5}


def test_captions_are_read_without_photos(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption,split\na.jpg,A dog.,val\nb.jpg,A cat.,train\n")
    message(tmp_path, FileNotFoundError)
    entries = read_captions(tmp_path)
    assert [(entry.id, entry.captions, entry.split) for entry in entries] == [
        ("a.jpg", ["A dog."], "val"),
        ("b.jpg", ["A cat."], "train"),
    ]
    assert [entry.id for entry in select(entries, "dev")] == ["a.jpg"]


# ---- COCO-format files under other names


def own_coco(root: Path, file: str, photos: str, ids: tuple[int, ...] = (1, 2)) -> Path:
    images = [{"id": i, "file_name": f"{i}.png"} for i in ids]
    rows = [{"id": i, "image_id": i, "caption": f"photo {i}"} for i in ids]
    touch(root / photos, *(f"{i}.png" for i in ids))
    return write(root / file, json.dumps({"images": images, "annotations": rows}))


@pytest.mark.parametrize(
    ("file", "photos", "split"),
    [
        ("annotations/captions_train.json", "images", "train"),
        ("annotations/captions_val.json", "images/val", "val"),
        ("my_test_set.json", ".", "test"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("annotations/captions/train_v2.json", "train_v2", "train"),
        ("food.json", "images", None),
    ],
)
def test_coco_under_other_names(tmp_path: Path, file: str, photos: str, split: str | None) -> None:
    source = own_coco(tmp_path, file, photos)
    write(tmp_path / "annotations" / "instances_train.json", json.dumps({"images": [], "annotations": []}))
    records = read_dataset(tmp_path)
    assert [(r.id, r.path, r.captions) for r in records] == [
        (i, tmp_path / photos / f"{i}.png", (f"photo {i}",)) for i in (1, 2)
    ]
    assert {(r.split, r.hashed) for r in records} == {(split or hash_split(str(r.id)), not split) for r in records}
    assert [r.captions for r in read_dataset(source)] == [r.captions for r in records]
    (tmp_path / photos).rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    source.parent.mkdir(parents=True, exist_ok=True)
    source = own_coco(tmp_path, file, "aside")
    shutil.rmtree(tmp_path / "aside")
    apart = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    assert "name their folder (--images)" in message(source, FileNotFoundError)
    assert [r.path for r in read_dataset(source, images=apart)] == [apart / f"{i}.png" for i in (1, 2)]
    with pytest.raises(FileNotFoundError, match="expected the folder of the photos"):
        read_dataset(source, images=tmp_path / "none")


def test_own_coco_splits_may_count_from_one_but_share_no_photo(tmp_path: Path) -> None:
    for split in ("train", "val"):
        own_coco(tmp_path, f"annotations/{split}.json", f"images/{split}")
    assert [(r.id, r.split) for r in read_dataset(tmp_path)] == [(1, "train"), (2, "train"), (1, "val"), (2, "val")]
    shutil.rmtree(tmp_path / "images")
    touch(tmp_path / "images", "1.png", "2.png")
    assert "1.png is in two splits, train and val" in message(tmp_path)
    own_coco(tmp_path, "annotations/train_more.json", "images", (3,))
    assert "expected one COCO caption file per split" in message(tmp_path)


def test_the_default_split_is_val_or_all_photos_of_a_data_set_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.png" for i in range(20)))
    rows = [f"{i}.png,a cat" for i in range(20)]
    write(tmp_path / "captions.csv", "image,caption\n" + "\n".join(rows))
    records = read_dataset(tmp_path)
    assert default_split(records) == "all" and select(records, "all") == records
    assert len(select(records, "train")) + len(select(records, "val")) + len(select(records, "test")) == 20
    write(tmp_path / "captions.csv", "image,caption,split\n" + "\n".join(f"{row},dev" for row in rows))
    assert default_split(read_dataset(tmp_path)) == "val"


def photo(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_image_folder_with_a_folder_per_split(tmp_path: Path, ending: str) -> None:
    rows = {"csv": "file_name,text\na.jpg,A dog.\n", "jsonl": '{"file_name": "a.jpg", "text": "A dog."}\n'}
    for folder in ("train", "validation", "test"):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder / "a.jpg")
        write(tmp_path / folder / f"metadata.{ending}", rows[ending])
    found = {(r.id, r.path, r.split, r.hashed) for r in read_dataset(tmp_path)}
    splits = {"train": "train", "validation": "val", "test": "test"}
    assert found == {(f"{name}/a.jpg", tmp_path / name / "a.jpg", ours, False) for name, ours in splits.items()}
    write(tmp_path / "metadata.csv", "file_name,text\ntrain/a.jpg,A dog.\n")  # then it alone counts
    assert [r.hashed for r in read_dataset(tmp_path)] == [True]


def test_names_of_splits_in_any_case(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    write(tmp_path / "captions.csv", "image,caption,split\na.jpg,a dog,Validation \n")
    assert [r.split for r in read_dataset(tmp_path)] == ["val"]


def test_a_cut_json_file_is_named(tmp_path: Path) -> None:
    """Rather than that there is no data set."""
    write(tmp_path / "mine.json", '{"images": [{"id": 1')
    assert "mine.json: not JSON at line 1" in message(tmp_path)


@pytest.mark.parametrize("value, flagged", [(1, True), ("True", True), (0, False), ("false", False), (None, False)])
def test_flags_that_other_programs_wrote(value: object, flagged: bool) -> None:
    assert is_flagged({"is_rejected": False, "is_precanned": value}) is flagged
