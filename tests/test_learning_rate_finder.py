"""The learning-rate range test: against a loop written by hand, against training, and that it leaves nothing behind."""

import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.cli import main
from captioner.config import ModelConfig
from captioner.data.toy import make_toy
from captioner.training import train as training
from captioner.training.config import FindConfig, TrainConfig
from captioner.training.journal import read_log
from captioner.training.learning_rate_finder import RangeTest, find_learning_rate, range_test


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=30, size=64)
    return root


def settings(toy, **changes) -> FindConfig:
    config = FindConfig(
        (toy,), model=ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24), weights="none",
        stages=("features.12:5",), batch_size=8, image_size=64, min_count=1, workers=0, device="cpu", steps=10,
    )  # fmt: skip
    return replace(config, **changes)


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def test_gradient_descent_on_a_parabola():
    """f(w) = 3 w² / 2 from w = 4: w shrinks while rate · 3 < 2, then it grows."""
    weight = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    def step(rate: float) -> float:
        loss = 1.5 * weight**2
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight.sub_(rate * gradient)
        return loss.item()

    found = range_test(step, 1e-3, 10.0, 80)
    w, rate, losses = 4.0, 1e-3, []
    for _ in range(80):
        losses.append(1.5 * w * w)
        w -= rate * 3 * w
        rate *= (10 / 1e-3) ** (1 / 79)
    taken, side = len(found.losses), len(found.losses) // 30
    assert found.losses == pytest.approx(losses[:taken]) and len(found.rates) == taken < 80
    means = [np.mean(losses[max(0, i - side) : min(taken, i + side + 1)]) for i in range(taken)]
    assert means[-1] > 2 * min(means)
    assert found.lowest == found.rates[np.argmin(means)] and 2 / 3 < found.lowest < 2
    assert found.suggestion == found.lowest / 10 and found.problem is None
    logs = np.log(found.rates)
    slopes = [
        (found.smooth[i + 1] - found.smooth[i - 1]) / (logs[i + 1] - logs[i - 1]) for i in range(1, len(logs) - 1)
    ]
    assert found.steepest == found.rates[1 + np.argmin(slopes)] < found.lowest


def test_where_nothing_can_be_suggested():
    rates = np.geomspace(1e-4, 1, 40)
    assert (
        "the loss still falls at the highest learning rate, 1. Raise" in RangeTest(rates, np.linspace(5, 1, 40)).problem
    )
    assert "the loss did not fall at any learning rate" in RangeTest(rates, np.linspace(1, 5, 40)).problem
    with pytest.raises(ValueError, match=r"diverges at the first learning rates, from 0\.5\. Lower --lowest"):
        range_test(lambda rate: float("nan"), 0.5, 1.0, 10)


def test_its_steps_are_those_of_training(toy, tmp_path, monkeypatch):
    """At a rate that hardly grows, over two epochs, the losses are those of a run whose schedule is flat."""
    monkeypatch.setattr("captioner.training.loop.schedule", lambda *_: 1.0)
    found = find_learning_rate(settings(toy, lowest=1e-3, highest=1.0000001e-3, joint_learning_rate=1e-3, steps=10))
    names = {each.name for each in fields(TrainConfig)}
    same = {name: value for name, value in vars(settings(toy)).items() if name in names}
    run = TrainConfig(**same | {"output": tmp_path / "run", "joint_learning_rate": 1e-3, "patience": 0})
    training.train(run)
    losses = [row["loss"] for row in read_log(run.output / "log.jsonl") if row["kind"] == "step"]
    assert len(losses) >= 10 and found.losses.tolist() == pytest.approx(losses[:10], rel=1e-3)


def test_it_leaves_no_trace(toy, tiny, tmp_path, monkeypatch, capsys):
    """From the command line, over a checkpoint and a run's folder; of a frozen CNN no features are kept."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.json").write_text("{}")
    before, random = contents(toy, tiny, tmp_path), torch.get_rng_state()
    options = ["--init", tiny, "--stages", "decoder:1", "--min-count", 1, "--workers", 0, "--device", "cpu"]
    test = ["--steps", 40, "--lowest", 1e-4, "--highest", 100, "--picture", "lr.png"]
    arguments = ["captioner", "find-lr", "--data", toy, "--output", "run", *options, *test]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert not end.value.code, err
    assert "suggested  --learning-rate 0." in out and "a tenth of the rate with the lowest loss" in out
    assert Path("lr.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "lr.png").unlink()
    assert contents(toy, tiny, tmp_path) == before and torch.equal(torch.get_rng_state(), random)


def test_what_is_refused(toy, monkeypatch):
    with pytest.raises(ValueError, match="does not measure caption quality"):
        find_learning_rate(settings(toy, stages=("self-critical@decoder:1",)))
    with pytest.raises(ValueError, match=r"--highest is 1e-07; expected more than --lowest"):
        find_learning_rate(settings(toy, highest=1e-7))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"runs in one process, but torchrun has started 2\. Run it without torchrun"):
        find_learning_rate(settings(toy))
