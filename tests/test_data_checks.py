"""Damaged photos, copies in two splits, captions without spaces: found before a training, and what it then does."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from captioner.data import checks
from captioner.data.checks import check_damaged, check_photos, find_copies, note_on_copies, notes_on
from captioner.data.records import Record
from captioner.data.toy import make_toy
from captioner.vocabulary import UNSEPARATED, words_are_separated


def records_of(paths, split="train", caption="a dog") -> list[Record]:
    return [Record(path.name, path, (caption,), split) for path in paths]


def test_damaged_photos_are_found_once(photos, tmp_path, monkeypatch):
    paths = [photos / "a.png", photos / "b.jpg", photos / "c.webp", tmp_path / "cut.jpg"]
    paths[3].write_bytes(paths[1].read_bytes()[:300])
    records, saved = records_of(paths), tmp_path / "photos.json"
    check = check_photos(records, 64, saved, threads=2)
    assert list(check.damaged) == [3] and "cut.jpg" in check.damaged[3]
    check.save(saved)
    decoded = []
    monkeypatch.setattr(checks, "open_reduced", lambda path, side: decoded.append(path))
    assert check_photos(records, 64, saved) == check and not decoded
    text = saved.read_text()
    for damaged in ("", "[]", '{"files": 1}', text.replace('"damaged"', '"x"')):
        saved.write_text(damaged)
        check_photos(records[:3], 64, saved)
    assert len(decoded) == 12
    saved.write_text(text)
    paths[3].write_bytes(b"another size")
    check_photos(records, 64, saved)
    assert decoded[12:] == paths


@pytest.mark.parametrize(
    ("damaged", "photos", "good"), [(1, 2, 1), (1, 1, 0), (2, 8, 1), (3, 8, 0), (0, 5, 1), (2, 3, 0)]
)
def test_too_many_damaged_photos_are_an_error(damaged, photos, good):
    if good:
        check_damaged(range(damaged), photos)
    else:
        with pytest.raises(ValueError, match=f"{damaged} of {photos} photos cannot be read; at most a quarter"):
            check_damaged(range(damaged), photos)


def test_copies_in_two_splits(tmp_path):
    draw = random.Random(0)
    contents = [draw.randbytes(size) for size in (10, 10, 6000, 6000, 7000)]
    contents += [b"x" + contents[2][1:], contents[2][:-1] + b"x"]  # the same size; the first has the same ending, too
    records = []
    for number in range(30):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(draw.choice(contents))
        records += records_of([path], draw.choice(["train", "val", "test"]))
    contents_of = [record.path.read_bytes() for record in records]
    first = {content: records[contents_of.index(content)] for content in contents_of}
    expected = {
        (first[content].id, record.id)
        for content, record in zip(contents_of, records, strict=True)
        if record.split != first[content].split
    }
    assert {(one.id, other.id) for one, other in find_copies(records)} == expected and len(expected) > 10
    assert f"photos with an identical copy in another split: {len(expected)} (first: " in note_on_copies(records)[0]


@pytest.mark.parametrize(
    ("captions", "separated"),
    [
        (["这是绿色的方块在左边", "a dog"], False),
        (["这 是 绿色 的 方块 在 左边", "一个 方块"], True),
        (["これは緑色の四角です"], False),
        (["これ は 緑色 の 四角 です"], True),
        (["ผู้ชายกำลังขี่จักรยานบนถนน"], False),
        (["ผู้ชาย กำลัง ขี่ จักรยาน บน ถนน"], True),
        (
            ["Ein Hund läuft über die Straße", "собака бежит", "남자가 자전거를 타고 있다", "एक आदमी साइकिल चला रहा है"],
            True,
        ),
        ([""], True),
    ],
)
def test_words_without_spaces(tmp_path, captions, separated):
    assert words_are_separated(captions) is separated
    (tmp_path / "a.jpg").touch()
    said = notes_on([Record("a", tmp_path / "a.jpg", tuple(captions), "train")])
    assert said == ([] if separated else [UNSEPARATED])


def test_training_without_damaged_photos_is_training_without_their_rows(tmp_path, capsys):
    from test_train import assert_same, config, weights

    from captioner.training.train import train

    root = tmp_path / "toy"
    make_toy(root, images=20)
    bad = ["images/0003.png", "images/0008.png"]  # of train and of val
    for name in bad:
        (root / name).write_bytes(b"\x89PNG cut")
    runs = [config(root, tmp_path / name, stages=("decoder:1", "features.12:1")) for name in ("damaged", "removed")]
    train(runs[0])
    out = capsys.readouterr().out
    assert all(f"damaged {root / name}" in out for name in bad)
    assert "note    2 of 18 photos cannot be read and are left out." in out
    source = root / "captions.jsonl"
    rows = [line for line in source.read_text().splitlines(True) if json.loads(line)["image"] not in bad]
    source.write_text("".join(rows))
    train(runs[1])
    for name in ("best", "last"):
        assert_same(*(weights(run.output / name) for run in runs))
    assert "\ndamaged" not in capsys.readouterr().out


def test_links_to_nowhere_are_damaged_photos(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    paths[0].unlink()
    paths[0].symlink_to(tmp_path / "nowhere")
    records = [
        Record(path.name, path, ("a dog",), split) for path, split in zip(paths, ["train", "val"] * 3, strict=False)
    ]
    assert list(check_photos(records, 8, tmp_path / "photos.json").damaged) == [0]
    assert all(record.path != paths[0] for pair in find_copies(records) for record in pair)
