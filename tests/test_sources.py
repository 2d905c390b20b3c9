"""Several data sets that are trained on together: names, ids, shares, and scores of each set on its own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint
from captioner.config import ModelConfig
from captioner.data.datasets import PhotoDataset, encode_captions
from captioner.data.readers import read_dataset, select
from captioner.data.sources import draw_photos, names_of, read_sources
from captioner.decoding import Decoding
from captioner.training import loop
from captioner.training import train as training
from captioner.training.config import TrainConfig
from captioner.training.journal import read_log
from captioner.training.validate import by_name, validate
from captioner.visualize import training_curves

train = training.train


def make(root: Path, seed: int, captions: list[str]) -> Path:
    """A data set whose photos are called as in the others."""
    random, rows = np.random.default_rng(seed), []
    root.mkdir(parents=True)
    for number, caption in enumerate(captions):
        split = "val" if number % 3 == 2 else "train"
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / f"{number}.png")
        rows.append({"image": f"{number}.png", "split": split, "captions": [caption, f"there is {caption}"]})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    words = ["a dog", "two cats", "a red bird", "a dog runs", "the cat sleeps", "the dog", "a cat", "birds", "a bird"]
    return make(tmp_path_factory.mktemp("one") / "animals", 0, words)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    words = ["a ball", "the red ball", "a zeppelin", "two balls on the grass", "a house", "the house", "a red house"]
    return make(tmp_path_factory.mktemp("two") / "things", 1, words)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr("captioner.device.has_bfloat16", lambda device: False)


def settings(output, *data: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        data, output, ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=12), weights="none",
        stages=("decoder:2", "features.12:1"), batch_size=3, image_size=64, min_count=1, patience=0, workers=0,
        decoding=Decoding(beam_size=1, max_length=6), save_every=1, device="cpu",
    )  # fmt: skip
    return replace(config, **changes)


def rows(run: TrainConfig, kind: str) -> list[dict]:
    return [row for row in read_log(run.output / "log.jsonl") if row["kind"] == kind]


def weights(run: TrainConfig, checkpoint: str = "last"):
    return load_checkpoint(run.output / checkpoint)[0]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_names_and_ids(animals, things):
    assert names_of([Path("x/a"), Path("y/b=1")]) == ["a", "b=1"]
    assert names_of([Path("/x/data"), Path("/y/data"), Path("/y/c")]) == ["x/data", "y/data", "y/c"]
    with pytest.raises(ValueError, match=r"the data set x/\.\./a is given twice"):
        names_of([Path("x/../a"), Path("a")])
    alone, both = read_sources([things]), read_sources([animals, things])
    assert [record.id for record in alone["things"]] == [f"{number}.png" for number in range(7)]
    ids = [record.id for records in both.values() for record in records]
    assert len(ids) == len(set(ids)) == 16 and ids[0] == "animals/0.png" and ids[-1] == "things/6.png"
    assert [record.path for record in both["things"]] == [record.path for record in alone["things"]]
    moved = read_sources([animals / "captions.jsonl"], [animals])
    assert [record.path for record in moved["captions.jsonl"]] == [record.path for record in both["animals"]]
    with pytest.raises(ValueError, match=r"1 folders of photos .* for 2 data sets"):
        read_sources([animals, things], [animals])


def test_shares():
    assert draw_photos([3, 2], [1, 1], (0,)) == [0, 1, 2, 3, 4]
    epochs = [draw_photos([4, 100], [1, 0.3], (0, 0, epoch)) for epoch in range(50)]
    assert all(epoch[:4] == [0, 1, 2, 3] and len(set(epoch)) == 34 and epoch == sorted(epoch) for epoch in epochs)
    assert epochs[0] == draw_photos([4, 100], [1, 0.3], (0, 0, 0)) != epochs[1]
    counts = np.bincount([photo for epoch in epochs for photo in epoch[4:]], minlength=104)[4:]
    assert counts.sum() == 1500 and counts.min() >= 4 and counts.max() <= 28  # each photo about 15 times
    assert len(draw_photos([5], [0.01], (0,))) == 1


def test_a_share_of_0_is_training_without_that_set(animals, things, tmp_path):
    """Words, steps and weights are those of the other set alone, wherever it stands in the list; cached features and
    photos alike. The set is validated on."""
    alone = settings(tmp_path / "alone", animals)
    train(alone)
    for data, shares in (((animals, things), (1.0, 0.0)), ((things, animals), (0.0, 1.0))):
        run = settings(tmp_path / data[0].name, *data, shares=shares, select="animals")
        train(run)
        assert_same(weights(run), weights(alone))
        assert rows(run, "step") == rows(alone, "step")
        for ours, theirs in zip(rows(run, "validation"), rows(alone, "validation"), strict=True):
            assert {name: ours[f"animals/{name}"] for name in ("loss", "CIDEr-D")}.items() <= theirs.items()
            assert ours["loss"] == pytest.approx((ours["animals/loss"] + ours["things/loss"]) / 2)


def test_scores_of_each_set_are_those_of_scoring_it_alone(animals, things, tmp_path, capsys):
    run = settings(tmp_path / "run", animals, things, shares=(1.0, 0.5), stages=("features.12:2",))
    train(run)
    out = capsys.readouterr().out
    assert f"{things}: 5 photos to train on, a share of 0.5 per epoch, 2 to validate on" in out
    assert len(rows(run, "step")) == 2 * 3  # 6 photos and half of 5, in batches of 3
    captioner = Captioner.load(run.output / "last", device="cpu", backend="torch")  # the best epoch, exactly
    assert {"zeppelin", "bird"}.isdisjoint(captioner.vocabulary.words)  # of validation captions
    assert {"dog", "ball"} <= set(captioner.vocabulary.words)
    best = max(rows(run, "validation"), key=lambda row: row["CIDEr-D"])
    _, saved = load_checkpoint(run.output / "best")
    for source in (animals, things):
        records = select(read_dataset(source), "val")
        captions = encode_captions(records, captioner.vocabulary, run.max_length)
        own = validate(captioner, PhotoDataset(records, captions, captioner.preprocess), records, run.decoding)
        assert {name: best[f"{source.name}/{name}"] for name in own} == pytest.approx(own, rel=1e-5)
        assert saved["scores"][f"{source.name}/loss"] == best[f"{source.name}/loss"]
    card = (run.output / "best" / "README.md").read_text()
    assert "- Data: animals, things (share 0.5), 11 photos" in card and "| score | mean | animals | things |" in card
    cells = (best["CIDEr-D"], best["animals/CIDEr-D"], best["things/CIDEr-D"])
    assert "| CIDEr-D | {:.4f} | {:.4f} | {:.4f} |".format(*cells) in card
    names = [
        text.get_text().split("\n")[0] for text in training_curves(read_log(run.output / "log.jsonl")).axes[1].texts
    ]
    assert {"mean CIDEr-D", "animals", "things"} <= set(names)


def test_interrupted_and_resumed_is_uninterrupted(animals, things, tmp_path, monkeypatch):
    """With shares, cached features and the self-critical objective, which finds references by id."""
    stages = ("decoder:1", "self-critical@decoder:1", "features.12:1")
    whole, cut = (
        settings(tmp_path / name, animals, things, shares=(0.5, 1.0), stages=stages) for name in ("whole", "cut")
    )
    train(whole)
    assert sorted(path.parent.name for path in (whole.output / "features").glob("*/train")) == ["animals", "things"]

    def step(run, batches, step=loop.train_step):
        if run.progress.step == 5 and not run.config.resume:  # in the second stage
            raise KeyboardInterrupt
        return step(run, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train_step", step)
        train(cut)
    train(replace(cut, resume=True))
    assert_same(weights(cut), weights(whole))
    assert read_log(cut.output / "log.jsonl") == read_log(whole.output / "log.jsonl")
    with pytest.raises(ValueError, match=r"started with --shares 0\.5 1\.0 \(now 1\.0 1\.0\)"):
        train(replace(cut, resume=True, shares=(1.0, 1.0)))


@pytest.mark.parametrize(("name", "epoch"), [("mean", 2), ("animals", 3), ("things", 1)])
def test_what_selects_the_best(animals, things, tmp_path, monkeypatch, name, epoch):
    scores = {"animals": iter([0.1, 0.4, 0.5]), "things": iter([0.5, 0.4, 0.1])}

    def score(captioner, dataset, records, *_, **__):
        own = "animals" if len(records) == 3 else "things"
        return {"loss": 1.0, "BLEU-4": 0.0, "CIDEr-D": next(scores[own])}

    monkeypatch.setattr(training, "validate", score)
    run = settings(tmp_path / "run", animals, things, stages=("decoder:3",), select=name)
    train(run)
    assert load_checkpoint(run.output / "best")[1]["training"]["step"] == 4 * epoch


def test_means():
    row = by_name({"a": {"loss": 1.0, "CIDEr-D": float("nan")}, "b": {"loss": 3.0, "CIDEr-D": 0.5}})
    assert row["loss"] == 2 and np.isnan(row["CIDEr-D"]) and row["b/CIDEr-D"] == 0.5 and len(row) == 6


def test_a_set_without_validation_photos(animals, things, tmp_path, capsys):
    only = make(tmp_path / "only", 2, ["a dog", "a cat"])  # the third photo would be one to validate on
    run = settings(tmp_path / "run", animals, only, stages=("decoder:1",), limit=1)
    train(run)
    assert "note    only has no photos to validate on." in capsys.readouterr().out
    row = rows(run, "validation")[0]
    assert row["loss"] == row["animals/loss"] and "only/loss" not in row
    with pytest.raises(
        ValueError, match="--select is only; expected mean or a data set with validation photos: animals"
    ):
        train(replace(run, output=tmp_path / "other", select="only"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((1.0,), r"--shares is \(1\.0,\); expected one share per data set \(2 of them\)"),
        ((0.0, 0.0), "expected shares from 0 to 1, not all 0"),
        ((1.0, 1.5), "expected shares from 0 to 1, not all 0"),
    ],
)
def test_shares_that_cannot_be_used(animals, things, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        train(settings(tmp_path / "run", animals, things, shares=wrong))
