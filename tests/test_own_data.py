"""The verbs score and evaluate on data sets and results of people's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main

NAMES = [f"{letter}.png" for letter in "abcdefghijklmnopqrst"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; returns exit status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["captioner", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


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
