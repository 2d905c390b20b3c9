"""Captions of a data set, scored, compared and made ready for COCO's server."""

from __future__ import annotations

import json
import shutil
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest

from captioner.captioner import Caption, Captioner
from captioner.data.records import Record
from captioner.decoding import Decoding
from captioner.evaluate import caption_records
from captioner.images import ImageError
from captioner.metrics.files.score_file import compare_files
from captioner.metrics.files.server import check_submission, read_image_ids


@pytest.fixture
def coco(tmp_path, photos, monkeypatch) -> Path:
    """A small COCO of 2014: val with captions, whose spaces and order are as untidy as COCO's, and test without."""
    folder = tmp_path / "coco2014"
    for part, count in (("val2014", 3), ("test2014", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            shutil.copy(photos / "b.jpg", folder / part / f"{part}_{number}.jpg")
    (folder / "annotations").mkdir()
    val = [{"id": number, "file_name": f"val2014_{number}.jpg"} for number in range(3)]
    test = [{"id": 90 + number, "file_name": f"test2014_{number}.jpg"} for number in range(2)]
    captions = ["a dog runs \n", "the cat  sleeps", "a dog", "grass", "the sofa and the cat ", "a cat sleeps"]
    rows = [{"id": 9 - i, "image_id": i % 3, "caption": caption} for i, caption in enumerate(captions)]
    for name, content in (
        ("captions_val2014", {"annotations": rows, "images": val}),
        ("image_info_test2014", {"images": test}),
    ):
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def run(run, tiny):
    """Run `captioner evaluate` (or another verb) with the tiny model; returns exit status and both outputs."""

    def with_tiny(*arguments, verb="evaluate"):
        model = ("--checkpoint", tiny, "--device", "cpu") if verb == "evaluate" else ()
        return run(verb, *arguments, *model)

    return with_tiny


def test_scores_of_evaluate_are_those_of_score(run, coco):
    assert run("--data", coco, "--results", "out/r.json", "--scores", "out/a.json")[0] == 0
    references = coco / "annotations" / "captions_val2014.json"
    assert run("--references", references, "--results", "out/r.json", "-o", "out/b.json", verb="score")[0] == 0
    assert {item.difference for item in compare_files("out/a.json", "out/b.json", samples=10)} == {0}
    provenance = json.loads(Path("out/a.json").read_text())["provenance"]
    assert provenance["split"] == "val" and provenance["images"] == 3 and provenance["references_per_image"] == [2, 2]
    assert provenance["decoding"]["max_length"] == 8 and "SHA-256" in provenance["model"]
    assert {"captioner", "numpy", "python", "pillow"} <= provenance["versions"].keys()


def test_submission_of_both_splits(run, coco):
    status, out, err = run("--data", coco, "--submit", "mine", "--limit", 2)
    assert status == 0 and err == ""  # no progress bar where standard error is not a terminal
    *_, archive, missing, half = out.splitlines()
    assert archive == str(Path.cwd() / "captions_mine_results.zip")
    assert missing == "note: captions_val2014_mine_results.json: 1 of 3 images have no caption (first: 2)"
    assert "captions_test2014_mine_results.json is missing; the server needs both" in half
    assert run("--data", coco, "--submit", "mine")[0] == 0
    status, out, _ = run("--data", coco, "--split", "test", "--submit", "mine", "--results", "test.json")
    assert status == 0 and out.splitlines() == [
        "nothing is scored: only COCO's server has the captions of test2014",
        archive,
    ]
    lists = {"val": "captions_val2014.json", "test": "image_info_test2014.json"}
    ids = {part: read_image_ids(coco / "annotations" / name) for part, name in lists.items()}
    assert check_submission(archive, ids) == [] and ids["test"] == {90, 91}
    with zipfile.ZipFile(archive) as content:
        assert content.read("captions_test2014_mine_results.json") == Path("test.json").read_bytes()


def no_work(*_, **__):
    raise AssertionError("the model was loaded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--submit", "a b"), "cannot name a submission"),
        (("--submit", "x", "--split", "train"), "cannot name a submission"),
        (("--submit", "x", "--split", "test", "--scores", "s.json"), "so nothing can be scored. Leave --scores out"),
        (("--submit", "x", "--data", "{plain}"), "COCO's server needs numbers as image ids"),
        (
            ("--submit", "x", "--split", "test", "--data", "{plain}"),
            "expected one of annotations/image_info_test2014.json",
        ),
        (("--split", "test"), "no split 'test'; it has: val (3 images)"),
    ],
)
def test_what_cannot_be_submitted_is_told_before_the_work(run, coco, tmp_path, monkeypatch, arguments, message):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "captions.csv").write_text("image,caption,split\na.jpg,a dog,val\n")
    shutil.copy(coco / "val2014" / "val2014_0.jpg", plain / "a.jpg")
    monkeypatch.setattr(Captioner, "load", no_work)
    status, out, err = run("--data", coco, *(part.format(plain=plain) for part in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err


class Stub:
    """Captions out of nothing. It remembers, weakly, what it gave away."""

    provenance = "stub"

    def __init__(self):
        self.alive = weakref.WeakSet()
        self.most = 0

    def caption_many(self, photos, decoding, batch_size):
        for number, photo in enumerate(photos):
            if number == 300:
                yield ImageError("no photo")
                continue
            self.most = max(self.most, len(self.alive))
            maps = np.full((2, 3, 3), 1 / 9)
            caption = Caption("a dog", ["a", "dog"], [-1.0, -1.0], -2.0, -1.0, number % 2 == 0, attention=maps).of(
                photo
            )
            self.alive.add(caption)
            yield caption


def test_captions_and_their_maps_are_not_kept():
    stub, seen = Stub(), []
    records = [Record(number, Path("a.jpg"), ("a dog",), "val") for number in range(200)]
    results, looks, damaged, _ = caption_records(
        stub, records, Decoding(), watch=lambda record, _: seen.append(record.id)
    )
    assert stub.most <= 2, "photos and maps of earlier captions are still there"
    assert results.captions == dict.fromkeys(range(200), "a dog") and seen == list(range(200))
    assert results.unfinished == set(range(1, 200, 2))
    assert looks["attention_warnings"] == 1 and looks["attention_entropy"] == pytest.approx(1) and not damaged


def test_a_damaged_photo_is_left_out_and_the_others_count(run, coco):
    (coco / "val2014" / "val2014_1.jpg").write_bytes(b"\xff\xd8 no photo")
    status, out, err = run("--data", coco, "--results", "r.json")
    assert status == 1 and err.count("val2014_1.jpg") == 1 and "1 of 3 photos cannot be read and are left out" in err
    assert "2 of 3 images have a caption; only these are scored" in out
    assert [row["image_id"] for row in json.loads(Path("r.json").read_text())] == [0, 2]
    (coco / "val2014" / "val2014_2.jpg").write_bytes(b"")
    Path("r.json").unlink()
    status, out, err = run("--data", coco, "--results", "r.json")
    assert (status, out) == (2, "") and "2 of 3 photos cannot be read; at most a quarter may be damaged" in err
    assert [row["image_id"] for row in json.loads(Path("r.json").read_text())] == [0]


def interrupt_after(monkeypatch, count):
    """Ctrl-C comes after this number of captions."""
    caption_many = Captioner.caption_many

    def interrupted(self, photos, *rest):
        for number, result in enumerate(caption_many(self, photos, *rest)):
            if number == count:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Captioner, "caption_many", interrupted)


def test_an_interrupted_evaluation_goes_on(run, coco, monkeypatch):
    """Its results and scores are those of one that was not interrupted, and no photo is captioned twice."""
    assert run("--data", coco, "--results", "whole.json", "--scores", "whole.scores", "--batch-size", 1)[0] == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        status, out, err = run("--data", coco, "--results", "r.json", "--batch-size", 1)
    told = "interrupted. The captions are kept in r.json.partial. Run the same command to continue."
    assert (status, out, err) == (130, "", f"captioner: {told}\n")
    status, out, err = run("--data", coco, "--results", "r.json", "--beam-size", 2)
    assert (status, out, err.count("\n")) == (2, "", 1) and "r.json.partial has captions of an evaluation with" in err
    with open("r.json.partial", "ab") as file:
        file.write(b'["2 1 1", {"capt')  # as a killed writer leaves it
    (coco / "val2014" / "val2014_1.jpg").touch()  # its caption is of an older file
    caption_many, seen = Captioner.caption_many, []

    def watched(self, photos, *rest):
        seen.extend(photos)
        return caption_many(self, seen, *rest)

    monkeypatch.setattr(Captioner, "caption_many", watched)
    status, out, err = run("--data", coco, "--results", "r.json", "--scores", "r.scores", "--batch-size", 1)
    assert status == 0 and err == "captioner: 2 captions are in r.json.partial already.\n"
    assert [path.name for path in seen] == ["val2014_1.jpg", "val2014_2.jpg"]
    assert Path("r.json").read_bytes() == Path("whole.json").read_bytes() and not Path("r.json.partial").exists()
    assert json.loads(Path("r.scores").read_text()) == json.loads(Path("whole.scores").read_text())


def test_what_is_no_caption_of_an_evaluation_is_told(run, coco, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert run("--data", coco, "--results", "r.json")[0] == 130
    settings = Path("r.json.partial").read_bytes().splitlines()[0]
    wrong = (b"7", b"[]", b'["a", 7]', b'["a", {"caption": "x"}]', b"\xff", b'["a", {"caption": 1, "looks": {"x": 1}}]')
    for line in wrong:
        Path("r.json.partial").write_bytes(settings + b"\n" + line + b"\n")
        status, out, err = run("--data", coco, "--results", "r.json")
        assert (status, out, err.count("\n")) == (
            2,
            "",
            1,
        ) and "r.json.partial:2: not a caption of an evaluation" in err
