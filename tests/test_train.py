"""The training recipe on the toy world: it is repeatable, resumes to the bit, and stops with a clear word."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from captioner.captioner import Captioner
from captioner.checkpoint.manifest import find_checkpoint
from captioner.checkpoint.tensors import load_checkpoint
from captioner.config import ModelConfig
from captioner.data.augment import AugmentConfig
from captioner.data.objects import read_objects
from captioner.data.readers import read_dataset
from captioner.data.toy import make_toy
from captioner.encoder import Encoder
from captioner.metrics.pointing import Pointing
from captioner.training.config import SelfCriticalConfig, TrainConfig, parse_stage
from captioner.training.journal import read_log
from captioner.training.loop import Interrupted
from captioner.training.train import train

STAGES = ("decoder:2", "features.12:1")

FLICKR8K = str(find_checkpoint("flickr8k"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=40, size=64)
    return root


def config(toy, output, **changes) -> TrainConfig:
    model = ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24)
    settings = TrainConfig(
        (toy,), output, model, weights="none", stages=STAGES, batch_size=8, image_size=64, min_count=1,
        patience=0, workers=0, save_every=1, device="cpu",
    )  # fmt: skip
    return replace(settings, **changes)


def weights(checkpoint):
    return load_checkpoint(checkpoint)[0]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory):
    settings = config(toy, tmp_path_factory.mktemp("run") / "run")
    train(settings)
    return settings


def command(settings: TrainConfig, *more: str) -> list[str]:
    model = settings.model
    return [
        sys.executable, "-m", "captioner", "train", "--data", str(settings.data[0]), "--output", str(settings.output),
        "--weights", "none", "--stages", *STAGES, "--batch-size", "8", "--image-size", "64", "--min-count", "1",
        "--patience", "0", "--workers", "1", "--save-every", "1", "--device", "cpu", "--model.encoder", model.encoder,
        "--model.embedding-size", "16", "--model.hidden-size", "24", *more,
    ]  # fmt: skip


def wait_for_step(process, output, step):
    log = output / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and sum(row["kind"] == "step" for row in read_log(log)) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached; status {process.poll()}")


def test_same_seed_same_run(toy, uninterrupted, tmp_path):
    again = config(toy, tmp_path / "again")
    train(again)
    assert_same(weights(again.output / "best"), weights(uninterrupted.output / "best"))
    losses = [[row["loss"] for row in read_log(run.output / "log.jsonl")] for run in (again, uninterrupted)]
    assert losses[0] == losses[1]
    other = config(toy, tmp_path / "other", seed=1)
    train(other)
    assert [row["loss"] for row in read_log(other.output / "log.jsonl")] != losses[0]


def test_what_a_run_leaves(uninterrupted):
    output = uninterrupted.output
    assert (output / "curves.png").stat().st_size > 1000
    assert list((output / "tensorboard").iterdir())
    rows = read_log(output / "log.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert {"loss", "gradient_norm", "learning_rate", "stage", "epoch"} <= steps[0].keys()
    validations = [row for row in rows if row["kind"] == "validation"]
    assert len(validations) == 3
    assert {"loss", "BLEU-1", "BLEU-4", "CIDEr-D"} <= validations[0].keys()
    _, saved = load_checkpoint(output / "best")
    assert saved["scores"]["CIDEr-D"] == max(row["CIDEr-D"] for row in validations)
    card = (output / "best" / "README.md").read_text()
    assert "decoder:2, features.12:1" in card and f"| CIDEr-D | {saved['scores']['CIDEr-D']:.4f} |" in card
    assert Captioner.load(output / "best", device="cpu").vocabulary.words[0] == "a"


def test_frozen_is_frozen(toy, tmp_path):
    """After the joint stage from features.12, the blocks below are as they were, to the bit."""
    settings = config(toy, tmp_path / "run", stages=("features.12:1",))
    train(settings)
    torch.manual_seed(settings.seed)
    fresh = Encoder("squeezenet1_1", None).state_dict()
    trained = Captioner.load(settings.output / "last", device="cpu").backend.model.encoder.state_dict()
    changed = {name for name in fresh if not torch.equal(trained[name], fresh[name])}
    assert any(name.startswith("features.12") for name in changed)
    assert not [name for name in changed if not name.startswith("features.12")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_resumed_is_uninterrupted(toy, uninterrupted, tmp_path, number):
    settings = config(toy, tmp_path / "run")
    total = sum(row["kind"] == "step" for row in read_log(uninterrupted.output / "log.jsonl"))
    step = random.randint(1, total - 3)
    process = subprocess.Popen(command(settings), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_step(process, settings.output, step)
    if number == signal.SIGTERM:
        process.send_signal(number)  # `timeout` signals the process, then its group
    os.killpg(process.pid, number)  # the processes that read photos get it, too
    _, errors = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert process.returncode == 130, errors
        assert "--resume" in errors.splitlines()[-1]
        assert errors.count("finishing the step") <= 1 and "Traceback" not in errors, errors
    train(replace(settings, resume=True))
    assert_same(weights(settings.output / "last"), weights(uninterrupted.output / "last"))
    assert_same(weights(settings.output / "best"), weights(uninterrupted.output / "best"))
    logs = [read_log(run.output / "log.jsonl") for run in (settings, uninterrupted)]
    assert logs[0] == logs[1], f"killed at step {step}"


def test_a_stage_ends_early_and_the_next_begins_with_the_best(toy, tmp_path, monkeypatch):
    ciders = iter([0.5, 0.4, 0.3])
    scores = {"loss": 1.0, "BLEU-1": 0.0, "BLEU-4": 0.0}
    monkeypatch.setattr("captioner.training.train.validate", lambda *_, **__: scores | {"CIDEr-D": next(ciders)})
    settings = config(
        toy, tmp_path / "run", stages=("decoder:9", "features.12:1"), patience=1,
        joint_learning_rate=1e-12, encoder_learning_rate=1e-12,
    )  # fmt: skip
    train(settings)
    rows = [row for row in read_log(settings.output / "log.jsonl") if row["kind"] == "validation"]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("decoder", 1), ("decoder", 2), ("features.12", 1)]
    best, last = weights(settings.output / "best"), weights(settings.output / "last")  # no step has changed it since
    for name in best:
        torch.testing.assert_close(last[name], best[name], rtol=1e-3, atol=1e-4)  # best/ ends in half precision


def test_a_loss_that_is_no_number_stops(toy, tmp_path):
    settings = config(toy, tmp_path / "run", learning_rate=1e30, warmup=0.0)
    with pytest.raises(
        FloatingPointError, match=r"step \d+: the loss is .*images/.*holds the run as it was after step"
    ) as error:
        train(settings)
    step = int(str(error.value).split()[1].rstrip(":"))
    rows = read_log(settings.output / "log.jsonl")
    assert rows[-1]["step"] == step - 1  # saved each step: the last good one is there and whole
    assert json.loads((settings.output / "last" / "config.json").read_text())["training"]["step"] == step - 1


def test_the_curves_are_drawn_when_the_end_was_cut_off(toy, tmp_path, monkeypatch):
    settings = config(toy, tmp_path / "run", stages=("decoder:1",))

    def cut_off(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("captioner.training.train.save_curves", cut_off)
        train(settings)
    train(replace(settings, resume=True))
    assert (settings.output / "curves.png").is_file()


def test_a_run_goes_on_with_its_own_photos_wherever_they_lie(toy, uninterrupted, tmp_path, capsys):
    shutil.copytree(toy, tmp_path / "moved")
    assert train(replace(uninterrupted, data=(tmp_path / "moved",), resume=True)) == uninterrupted.output / "best"
    assert "is complete already" in capsys.readouterr().out
    make_toy(tmp_path / "other", images=40, size=64, seed=1)
    with pytest.raises(ValueError, match="was started with other data"):
        train(replace(uninterrupted, data=(tmp_path / "other",), resume=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0; expected 1 or more"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; expected above 0"),
        ({"clip": 0.0}, "--clip is 0.0; expected above 0"),
        ({"warmup": 1.5}, "--warmup is 1.5; expected 0 to 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0; expected 0 or more and below 1"),
        ({"limit": -1}, "--limit is -1; expected 0 or more"),
        ({"stages": ()}, "--stages is missing; expected at least one stage"),
        ({"model": ModelConfig(hidden_size=0)}, "--model.hidden-size is 0; expected 1 or more"),
        ({"model": ModelConfig(feature_dropout=1.0)}, "--model.feature-dropout is 1.0; expected 0 or more and below 1"),
        ({"self_critical": SelfCriticalConfig(wrong_object=-1)}, "--self-critical.wrong-object is -1; expected 0"),
        ({"augment": AugmentConfig(smallest_crop=0.0)}, "--augment.smallest-crop is 0.0; expected above 0"),
        ({"image_size": 8}, "squeezenet1_1 cannot take images of 8 pixels .*larger --image-size"),
        ({"min_count": 1000}, "no word occurs 1000 times in the training captions\\. Lower --min-count"),
    ],
)
def test_numbers_that_no_training_can_use(toy, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        train(config(toy, tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()


def test_wrong_settings(toy, uninterrupted, tmp_path):
    with pytest.raises(ValueError, match="holds a run already"):
        train(replace(uninterrupted))
    with pytest.raises(ValueError, match=r"started with --batch-size 8 \(now 4\)\. A resumed run keeps"):
        train(replace(uninterrupted, batch_size=4, resume=True))
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(config(toy, tmp_path / "none", resume=True))
    with pytest.raises(ValueError, match=r"has no block 'layer3'; it has, in order: features\.0"):
        train(config(toy, tmp_path / "block", stages=("layer3:2",)))
    assert not (tmp_path / "block" / "last").exists()
    for wrong in ("decoder", "decoder:", ":3", "decoder:0", "decoder:x"):
        with pytest.raises(ValueError, match="is not \\[OBJECTIVE"):
            parse_stage(wrong)


def test_augmentation_is_a_function_of_the_seed(toy, tmp_path):
    runs = [config(toy, tmp_path / f"run{workers}", stages=("features.12:1",), workers=workers) for workers in (0, 1)]
    for run in runs:
        train(run)
    assert_same(*(weights(run.output / "last") for run in runs))
    plain = config(toy, tmp_path / "plain", stages=("features.12:1",), augment=AugmentConfig(1.0, False, 0.0))
    train(plain)
    assert read_log(plain.output / "log.jsonl")[0]["loss"] != read_log(runs[0].output / "log.jsonl")[0]["loss"]


def test_the_toy_world_is_learned(tmp_path):
    """On pictures that the model has not seen most captions are exactly right, and the words for shapes look at
    the shapes. (Where its cells are coarse, or where a layer above the attention remembers what was seen, they need
    not: it looks beside them, or beforehand, and is as right.)"""
    make_toy(tmp_path / "toy", images=900)
    model = ModelConfig(hidden_size=128, dropout=0, attention="concat", layers_above=0)
    settings = TrainConfig(
        (tmp_path / "toy",), tmp_path / "run", model, weights=FLICKR8K, stages=("decoder:10",),
        patience=0, batch_size=8, image_size=288, workers=0, device="cpu",
    )  # fmt: skip
    captioner = Captioner.load(train(settings), device="cpu")
    unseen = [record for record in read_dataset(*settings.data) if record.split != "train"]
    captions = captioner.caption([record.path for record in unseen])
    right = sum(caption.text in record.captions for caption, record in zip(captions, unseen, strict=True))
    assert right >= 0.8 * len(unseen), f"{right} of {len(unseen)}"
    objects, game = read_objects(*settings.data), Pointing()
    for caption, record in zip(captions, unseen, strict=True):
        game.add(caption.words, {"attention": caption.attention}, caption.box, objects.masks(record), objects.names)
    assert game.present >= 1.9 * len(unseen) and game.hits["attention"] >= 0.9 * game.present, game
