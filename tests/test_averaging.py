"""Averages of weights against a computation by hand, and their shares."""

from pathlib import Path

import pytest
import torch
from torch import nn

from captioner.checkpoint.tensors import load_checkpoint, save_checkpoint
from captioner.config import RecurrentConfig
from captioner.language_model import LanguageModel
from captioner.model import build_language_model
from captioner.training.averaging import OF_THE_MODEL, MovingAverage, average_checkpoints, mean_weights
from captioner.vocabulary import Vocabulary


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def walk(model: nn.Module, average: MovingAverage, steps: int) -> None:
    for _ in range(steps):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        model(torch.randn(4, 3))  # moves the statistics of batch norm
        average.update(model)


def test_by_hand():
    model = small()
    average = MovingAverage(model, 0.4)
    wanted = model[0].weight.detach().double().clone()
    for decay in (2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4):  # rises to the decay, then stays
        walk(model, average, 1)
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach().double()
    torch.testing.assert_close(average.weights["0.weight"].double(), wanted, atol=1e-6, rtol=1e-6)


def test_the_model_gets_its_own_weights_back():
    model = small()
    average = MovingAverage(model, 0.9)
    walk(model, average, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError), average.applied(model):
        for name, weight in model.named_parameters():
            assert torch.equal(weight, average.weights[name]) and not torch.equal(weight, before[name])
        assert torch.equal(model[1].running_mean, before["1.running_mean"])  # buffers stay those of the model
        raise RuntimeError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_restored_is_uninterrupted():
    ends = []
    for interrupted in (False, True):
        model = small()
        average = MovingAverage(model, 0.5)
        walk(model, average, 3)
        if interrupted:
            state = average.state()
            average = MovingAverage(model, 0.5)
            average.restore(state["updates"], state["weights"])
        walk(model, average, 4)
        ends.append(average.weights)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_half_precision_is_averaged_in_float32():
    model = nn.Linear(3, 2).bfloat16()
    average = MovingAverage(model, 0.999)
    average.updates = 10**6
    with torch.no_grad():
        model.weight.fill_(1.0)
        average.weights["weight"].zero_()
    for _ in range(10):
        average.update(model)
    torch.testing.assert_close(average.weights["weight"], torch.full((2, 3), 1 - 0.999**10))


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_cannot_be(decay):
    with pytest.raises(ValueError, match="expected 0 or more and below 1"):
        MovingAverage(nn.Linear(1, 1), decay)


def test_mean_of_checkpoints():
    models = [{"w": torch.randn(2, 3).half(), "steps": torch.tensor(i)} for i in range(3)]
    mean = mean_weights(models, [0.5, 0.2, 0.3])
    wanted = 0.5 * models[0]["w"].double() + 0.2 * models[1]["w"].double() + 0.3 * models[2]["w"].double()
    assert mean["w"].dtype == torch.float16 and torch.equal(mean["w"], wanted.half())
    assert mean["steps"] == 2
    assert torch.equal(mean_weights(models[:1], [1.0])["w"], models[0]["w"])


def test_checkpoints_of_two_models():
    one = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"b has the shape \(3,\) in checkpoint 1 and None in checkpoint 3"):
        mean_weights([one, one, {"a": torch.zeros(2)}], [0.4, 0.3, 0.3])


def other_run(checkpoint: Path, directory: Path, **settings) -> Path:
    """A checkpoint with other weights, whose settings differ in these."""
    tensors, saved = load_checkpoint(checkpoint)
    moved = {name: tensor + torch.randn_like(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}
    config = {name: saved[name] for name in OF_THE_MODEL if name in saved} | {"model": saved["model"] | settings}
    save_checkpoint(directory, tensors | moved, config, "A card.", half=False)
    return directory


def test_checkpoints_of_two_runs_and_their_shares(tiny, tmp_path):
    """Runs may differ in what they drop. 0.75 and 0.25 are the mean of the first and of the mean of both."""
    second = other_run(tiny, tmp_path / "second" / "best", dropout=0.1, feature_dropout=0.3)
    average_checkpoints([tiny, second], tmp_path / "both")
    average_checkpoints([tiny, tmp_path / "both"], tmp_path / "twice")
    average_checkpoints([tiny, second], tmp_path / "shares", [0.75, 0.25])
    tensors, saved = load_checkpoint(tmp_path / "shares")
    for name, tensor in load_checkpoint(tmp_path / "twice")[0].items():
        torch.testing.assert_close(tensors[name], tensor, atol=4e-3, rtol=4e-3)  # stored in float16, twice
    averaged = [{"checkpoint": f"{tiny.parent.name}/tiny", "share": 0.75}, {"checkpoint": "second/best", "share": 0.25}]
    assert saved["training"]["averaged"] == averaged and saved["model"] == load_checkpoint(tiny)[1]["model"]
    assert f"0.75 of {tiny.parent.name}/tiny, 0.25 of second/best" in (tmp_path / "shares" / "README.md").read_text()


def test_language_models(tmp_path):
    vocabulary, config = Vocabulary(["a", "dog"]), RecurrentConfig(embedding_size=4, hidden_size=4)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = LanguageModel(build_language_model(config, len(vocabulary)), vocabulary, config, "word", "line")
        save_checkpoint(tmp_path / str(seed), model.decoder.state_dict(), model.to_config(), "A model.\n", half=False)
    average_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "mean")
    mean = LanguageModel.load(tmp_path / "mean").decoder.state_dict()
    parts = [LanguageModel.load(tmp_path / seed).decoder.state_dict() for seed in "01"]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2, atol=2e-3, rtol=2e-3)  # in float16


def test_checkpoints_of_two_architectures(tiny, tmp_path):
    second = other_run(tiny, tmp_path / "second", attention="dot")
    with pytest.raises(
        ValueError, match=r"second and .*tiny differ in their model; expected checkpoints of one run, or"
    ):
        average_checkpoints([tiny, second], tmp_path / "mean")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5], "1 shares for 2 checkpoints; expected one share for each"),
        ([0.8, 0.3], r"the shares 0\.8 0\.3 sum to 1\.1; expected 1\. For equal"),
        ([1.2, -0.2], r"the shares are 1\.2 -0\.2; expected numbers above 0"),
        ([float("nan"), 0.5], "expected numbers above 0"),
    ],
)
def test_shares_that_cannot_be(tiny, tmp_path, shares, message):
    with pytest.raises(ValueError, match=message):
        average_checkpoints([tiny, tiny], tmp_path / "mean", shares)
    assert not (tmp_path / "mean").exists()
