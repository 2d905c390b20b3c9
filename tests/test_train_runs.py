"""Whole training runs on a tiny data set whose splits differ: what each split is used for, the learning rates in the
log, what selects best/, and what an interrupt leaves."""

import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint, load_state
from captioner.config import ModelConfig
from captioner.data import cache
from captioner.decoding import Decoding
from captioner.training import loop
from captioner.training.config import TrainConfig
from captioner.training.journal import read_log
from captioner.training.loop import Interrupted, train_step
from captioner.training.objectives import Loss
from captioner.training.objectives.cross_entropy import CrossEntropy
from captioner.training.train import train
from captioner.vocabulary import BOS, EOS, tokenize

CAPTIONS = {
    "train": ["a red ball", "two dogs run on the grass", "a dog", "the ball", "a dog runs", "a red dog", "two balls"],
    "val": ["a zeppelin over the grass", "a dog", "the red ball rolls on and on"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, random, rows = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for split, captions in CAPTIONS.items():
        for i, caption in enumerate(captions):
            Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / f"{split}{i}.png")
            rows.append({"image": f"{split}{i}.png", "split": split, "captions": [caption, f"there is {caption}"]})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def settings(data, output, **changes) -> TrainConfig:
    config = TrainConfig(
        (data,), output, ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=12), weights="none",
        stages=("decoder:2", "features.12:1"), batch_size=3, image_size=64, min_count=1, patience=0, workers=0,
        decoding=Decoding(beam_size=1, max_length=6), save_every=0, device="cpu",
    )  # fmt: skip
    return replace(config, **changes)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr("captioner.device.has_bfloat16", lambda device: False)


def log(run: TrainConfig, kind: str) -> list[dict]:
    return [row for row in read_log(run.output / "log.jsonl") if row["kind"] == kind]


def test_splits_and_learning_rates(data, tmp_path, monkeypatch):
    """The vocabulary is that of the training captions; the validation loss is that of the validation captions, word by
    word; the learning rates in the log follow the equation; every step is taken in training mode."""
    modes = []

    def watched(run, batches):
        modes.append((run.model.decoder.dropout.training, run.model.decoder.dropout.p, run.objective.training))
        return train_step(run, batches)

    monkeypatch.setattr(loop, "train_step", watched)
    run = settings(data, tmp_path / "run", warmup=0.4)
    train(run)
    assert modes == [(True, 0.4, True)] * 9
    captioner = Captioner.load(run.output / "last", device="cpu", backend="torch")
    words = {word for caption in CAPTIONS["train"] for word in tokenize(caption)} | {"there", "is"}
    assert set(captioner.vocabulary.words) == words and "zeppelin" not in words

    total, count = 0.0, 0
    decoder = captioner.model.decoder.eval()
    for i, caption in enumerate(CAPTIONS["val"]):
        pixels, _ = captioner.preprocess.read(data / f"val{i}.png")
        memory = captioner.backend.encode(pixels[None])
        for text in (caption, f"there is {caption}"):
            ids = [BOS, *captioner.vocabulary.encode(tokenize(text)), EOS]
            with torch.inference_mode():
                logits = decoder(torch.tensor([ids[:-1]]), memory)[0][0]
            total += F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
            count += len(ids) - 1
    best = max(log(run, "validation"), key=lambda row: row["CIDEr-D"])  # last/ of a finished run holds it exactly
    assert best["loss"] == pytest.approx(total / count, rel=1e-4)

    def rates(epochs: int, peak: float) -> list[float]:
        steps = 3 * epochs  # 7 photos in batches of 3
        rise = round(0.4 * steps)
        falling = [0.02 + 0.98 * (1 + math.cos(math.pi * i / (steps - rise))) / 2 for i in range(steps - rise)]
        return [peak * share for share in [(i + 1) / rise for i in range(rise)] + falling]

    assert [row["learning_rate"] for row in log(run, "step")] == pytest.approx(rates(2, 1e-3) + rates(1, 4e-4))


def test_accumulation_over_a_run_with_an_uneven_end(data, tmp_path):
    """7 photos: batches of 4 and 3, or 2, 2 | 2, 1 in pairs."""
    model = ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=12, dropout=0)
    large = settings(data, tmp_path / "large", model=model, stages=("decoder:2",), batch_size=4)
    parts = settings(data, tmp_path / "parts", model=model, stages=("decoder:2",), batch_size=2, accumulate=2)
    for run in (large, parts):
        train(run)
    ours, theirs = ([row["loss"] for row in log(run, "step")] for run in (parts, large))
    assert len(ours) == 4 and ours == pytest.approx(theirs, rel=1e-4)


def test_one_validation_photo(data, tmp_path, capsys):
    run = settings(data, tmp_path / "run", limit=1)
    train(run)
    assert capsys.readouterr().out.count("CIDEr-D cannot be computed") == 1
    rows = log(run, "validation")
    assert [row["CIDEr-D"] for row in rows] == [None] * 3
    _, saved = load_checkpoint(run.output / "best")
    assert "CIDEr-D" not in saved["scores"] and saved["scores"]["loss"] == min(row["loss"] for row in rows)


def test_features_are_computed_once_in_a_run(data, tmp_path, monkeypatch):
    built, keys = [], []
    build, key = cache._build, cache.cache_key
    monkeypatch.setattr(cache, "_build", lambda folder, *rest: built.append(folder.name) or build(folder, *rest))
    monkeypatch.setattr(cache, "cache_key", lambda *arguments: keys.append(1) or key(*arguments))
    train(settings(data, tmp_path / "run", stages=("decoder:2", "decoder:2")))
    assert built == ["train", "val"] and len(keys) == 4  # a key per split and stage


class Scaled(CrossEntropy):
    """An objective with a parameter of its own, drawn at random."""

    def __init__(self):
        super().__init__(0.1)
        self.scale = nn.Parameter(1 + torch.rand(()))

    def forward(self, run, batch) -> Loss:
        loss = super().forward(run, batch)
        return replace(loss, sum=loss.sum * self.scale)


def test_an_interrupt_in_mid_step_and_an_objective_with_parameters(data, tmp_path, monkeypatch):
    """An interrupt says what last/ holds; the resumed run is the uninterrupted one, the objective's own weights and
    moments included."""
    monkeypatch.setattr("captioner.training.train.build_objective", lambda stage, run: Scaled())
    whole = settings(data, tmp_path / "whole", save_every=2)
    train(whole)

    def stopped(run, batches):
        if run.progress.step == 5:
            raise KeyboardInterrupt
        return train_step(run, batches)

    cut = settings(data, tmp_path / "cut", save_every=2)
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as interrupt:
        patch.setattr(loop, "train_step", stopped)
        train(cut)
    message = "holds the run as it was after step 4; the 1 step since then will be repeated. To continue, "
    assert message in str(interrupt.value)
    assert load_state(cut.output / "last")["progress"]["step"] == 4
    train(replace(cut, resume=True))
    states = [load_state(run.output / "last") for run in (cut, whole)]
    assert torch.equal(*(state["objective"]["scale"] for state in states))
    assert read_log(cut.output / "log.jsonl") == read_log(whole.output / "log.jsonl")


def test_a_run_outside_the_main_thread(data, tmp_path):
    results = []
    run = settings(data, tmp_path / "run", stages=("decoder:1",), deterministic=False)
    thread = threading.Thread(target=lambda: results.append(train(run)))
    thread.start()
    thread.join()
    assert results == [run.output / "best"]
