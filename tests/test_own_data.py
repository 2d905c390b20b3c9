"""The verbs score and evaluate on data sets and results of people's own."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from captioner.data.readers import read_dataset
from captioner.metrics.bleu import nltk_bleu
from captioner.metrics.files.rows import PhotoNames
from captioner.metrics.files.score_file import compare_files, score_files
from captioner.vocabulary import tokenize

NAMES = [f"{letter}.png" for letter in "abcdefghijklmnopqrst"]


@pytest.fixture
def own(tmp_path) -> Path:
    """Twenty photos with a caption each, without splits."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (40, 40), (10 * number, 90, 30)).save(folder / name)
    rows = [f"{name},a green square number {number}" for number, name in enumerate(NAMES)]
    (folder / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    return folder


def results(path: Path, names) -> Path:
    path.write_text(json.dumps([{"image_id": name, "caption": "a green square"} for name in names]))
    return path


def test_without_splits_all_photos_are_scored_and_an_error_names_the_split_of_an_id(run, own, tmp_path):
    status, out, _ = run("score", "--references", own, "--results", results(tmp_path / "r.json", NAMES))
    assert status == 0 and "20 images" in out
    status, _, err = run("score", "--references", own, "--results", tmp_path / "r.json", "--split", "val")
    assert status == 2 and "it is in the split train: --split train or --split all" in err
    (own / "captions.csv").write_text("image,caption,split\n" + "".join(f"{n},a cat,val\n" for n in NAMES[:5]))
    status, out, _ = run("score", "--references", own, "--results", results(tmp_path / "r.json", NAMES[:5]))
    assert status == 0 and "5 images" in out
    rows = [f"{name},a cat,{'val' if number % 2 else 'test'}\n" for number, name in enumerate(NAMES)]
    (own / "captions.csv").write_text("image,caption,split\n" + "".join(rows))
    command = ("score", "--references", own, "--results", results(tmp_path / "r.json", NAMES))
    status, _, err = run(*command)
    assert status == 2 and "'a.png'): this image has no references among those scored (it is in the split test" in err
    status, out, _ = run(*command, "--split", "all", "-o", tmp_path / "s.json")
    assert status == 0 and json.loads((tmp_path / "s.json").read_text())["provenance"]["split"] == "all"


def test_evaluate_takes_all_photos_of_a_data_set_without_splits(run, own, tiny, tmp_path):
    apart = tmp_path / "photos"
    own.rename(apart)
    own.mkdir()
    (apart / "captions.csv").rename(own / "captions.csv")
    command = ("evaluate", "--data", own, "--images", apart, "--checkpoint", tiny, "--results", tmp_path / "r.json")
    status, out, err = run(*command)
    assert status == 0 and "20 images" in out and "the data set has no splits, so all photos are captioned" in err
    assert [row["image_id"] for row in json.loads((tmp_path / "r.json").read_text())] == NAMES
    status, _, err = run(*command[:3], *command[5:])
    assert status == 2 and "none of the 20 photos was found" in err


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_that_captioner_wrote_is_a_data_set(run, own, tiny, tmp_path, monkeypatch, ending):
    """Captions of our own, perhaps corrected by hand, can be trained on."""
    (own / "captions.csv").unlink()
    monkeypatch.chdir(own)
    status, _, err = run("caption", ".", "--checkpoint", tiny, "-o", f"captions.{ending}")
    assert status == 0, err
    captions = {record.path.name: record.captions for record in read_dataset(own)}
    assert captions.keys() == set(NAMES) and all(len(each) == 1 for each in captions.values())


def test_images_of_two_splits_with_one_id_are_not_scored_as_one(run, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for split in ("train", "val"):
        rows = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}
        (folder / f"{split}.json").write_text(json.dumps(rows))
    command = ("score", "--references", tmp_path, "--results", results(tmp_path / "r.json", [1]))
    assert run(*command)[0] == 0
    status, _, err = run(*command, "--split", "all")
    assert status == 2 and "two photos have the id 1, in different splits" in err


# ---- results of other programs, all with the same captions


CAPTIONS = {42: "a dog runs", 7: 'a cat, "asleep"', 9: "", 1000: "two red horses on the grass"}


@pytest.fixture
def references(tmp_path) -> Path:
    images = [{"id": key, "file_name": f"COCO_val2014_{key:012d}.jpg"} for key in CAPTIONS]
    texts = ["a dog runs on grass", "the cat sleeps", "a small boat", "two horses"]
    rows = [
        {"id": n, "image_id": key, "caption": text} for n, (key, text) in enumerate(zip(CAPTIONS, texts, strict=True))
    ]
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    return path


def csv_of(rows, delimiter=",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def numbered(key) -> str:
    return f"photos/COCO_val2014_{key:012d}.jpg"


FORMATS = {
    "a.json": json.dumps([{"image_id": key, "caption": text} for key, text in CAPTIONS.items()]),
    "a.jsonl": "".join(json.dumps({"image_id": key, "caption": text}) + "\n" for key, text in CAPTIONS.items()),
    "lines.json": "\n".join(
        json.dumps({"path": f"/x/{numbered(key)}", "caption": text, "finished": True}) for key, text in CAPTIONS.items()
    ),
    "windows.jsonl": "\ufeff"
    + "\r\n".join(json.dumps({"path": f"{key:012d}.jpg", "caption": text}) for key, text in CAPTIONS.items()),
    "a.csv": csv_of([("image_id", "caption"), *CAPTIONS.items()]),
    "b.csv": csv_of(
        [("path", "caption", "error"), *((numbered(key), text, "") for key, text in CAPTIONS.items())], ";"
    ),
    "c.tsv": csv_of([("caption", "file_name"), *((text, numbered(key)) for key, text in CAPTIONS.items())], "\t"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_results_in_every_format_have_the_same_scores(references, tmp_path, name):
    for file in ("a.json", name):
        (tmp_path / file).write_text(FORMATS[file], newline="")
    first, other = (score_files(tmp_path / file, references, samples=10) for file in ("a.json", name))
    assert other.scores.corpus() == first.scores.corpus() and other.scores.ids == tuple(CAPTIONS)
    assert all(
        item.difference == 0 for item in compare_files(tmp_path / "a.json", tmp_path / name, references, samples=9)
    )


def test_text_files_with_one_caption_per_line(run, references, tmp_path):
    """As nltk's and nlg-eval's users have them; the scores are those of the same captions in COCO's format."""
    known = json.loads(references.read_text())["annotations"]
    (tmp_path / "hyp.txt").write_text("\n".join(CAPTIONS.values()) + "\n")
    (tmp_path / "ref1.txt").write_text("\r\n".join(row["caption"] for row in known), newline="")
    (tmp_path / "ref2.txt").write_text("a dog on grass\n\n\nred horses\n")
    known += [
        {"id": 50, "image_id": 42, "caption": "a dog on grass"},
        {"id": 51, "image_id": 1000, "caption": "red horses"},
    ]
    references.write_text(json.dumps({"annotations": known}))
    (tmp_path / "a.json").write_text(FORMATS["a.json"])
    texts = [tmp_path / "ref1.txt", tmp_path / "ref2.txt"]
    outs = [
        run("score", "--references", *given, "--results", tmp_path / file, "--nltk")[:2]
        for given, file in ((texts, "hyp.txt"), ([references], "a.json"))
    ]
    assert outs[0][0] == 0 and outs[0][1].replace("image 3", "image 9") == outs[1][1]
    candidates = [tokenize(text) for text in CAPTIONS.values()]
    tokens = [[tokenize(row["caption"]) for row in known if row["image_id"] == key] for key in CAPTIONS]
    assert f"BLEU-1 nltk   {nltk_bleu(candidates, tokens)[0]:.5f}" in outs[0][1]
    texts[1].write_text("a dog\n")
    status, _, err = run("score", "--references", *texts, "--results", tmp_path / "hyp.txt")
    assert status == 2 and "ref2.txt has 1 lines, but" in err
    texts[0].write_text("a\n\nb\nc")
    status, _, err = run("score", "--references", texts[0], "--results", tmp_path / "hyp.txt")
    assert status == 2 and "line 2 is blank in every file" in err
    texts[0].write_text("a\nb\nc")
    status, _, err = run("score", "--references", texts[0], "--results", tmp_path / "hyp.txt")
    assert status == 2 and "line 4 (image_id 4): this image has no references" in err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "image_id,text\n1,a\n",
            "line 1 is 'image_id,text'; expected a header with the columns caption and one",
        ),
        ("a.csv", 'image_id,caption\n42,"a\n', "line 2 is not CSV"),
        ("a.csv", "image_id,caption\n42,a,b\n", "line 2 has 3 fields; expected 2: image_id,caption"),
        ("a.csv", "", "there is no caption to score"),
        ("a.jsonl", '{"image_id": 42, "caption": "a"}\nx\n', "line 2 is not JSON"),
        ("a.jsonl", "[" * 10_000, "line 1 is not JSON (it is nested too deeply to be read)"),
        (
            "a.jsonl",
            '{"image_id": 42}\n7\n',
            "line 1 is {'image_id': 42}; expected an object with image_id and caption",
        ),
        ("a.jsonl", '{"path": "x.jpg", "caption": "a"}\n', "line 1 (image_id 'x.jpg'): this image has no references"),
        ("a.csv", "image_id,caption\n" + "9" * 5000 + ",a\n", "line 2 (image_id '9999"),
        ("a.jsonl", '{"image_id": null, "caption": "a"}\n', "line 1 has the image_id null"),
    ],
)
def test_damaged_results_of_every_format(references, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        score_files(tmp_path / name, references, allow_missing=True)


def test_photos_that_our_own_run_could_not_caption_are_missing(references, tmp_path):
    rows = [{"path": numbered(key), "caption": text} for key, text in CAPTIONS.items()]
    rows[1] = {"path": numbered(7), "error": "damaged"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"1 of 4 images have no caption \(7\)"):
        score_files(tmp_path / "a.jsonl", references)
    assert score_files(tmp_path / "a.jsonl", references, allow_missing=True, samples=9).scores.ids == (42, 9, 1000)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.jpg", "a.jpg"), ("/data/own/a.jpg", "a.jpg"), ("sub/b.jpg", "sub/b.jpg"), ("x\\sub\\b.jpg", "sub/b.jpg"),
        ("b.jpg", "sub/b.jpg"), ("c.jpg", "c.jpg"), ("y/z/c.jpg", "y/z/c.jpg"), ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)  # fmt: skip
def test_photos_are_found_by_the_end_of_their_path(path, found):
    known = ["a.jpg", "sub/b.jpg", "x/c.jpg", "y/c.jpg", "caf\u00e9.jpg"]  # two are called c.jpg
    assert PhotoNames(known, {})(path) == found
