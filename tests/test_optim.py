"""What a step of training is made of: the loss against its equation, who learns at which rate, the schedule."""

import numpy as np
import pytest
import torch

from captioner.config import ModelConfig
from captioner.decoder import Decoder
from captioner.encoder import Features
from captioner.model import build_model
from captioner.training.objectives.cross_entropy import cross_entropy
from captioner.training.optim import build_optimizer, schedule, set_learning_rates
from captioner.vocabulary import PAD


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_by_hand(smoothing):
    logits, targets = torch.randn(5, 7), torch.tensor([3, 0, 6, 2, 2])
    x = logits.double().numpy()
    log_probabilities = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    wanted = np.full((5, 7), smoothing / 7)
    wanted[np.arange(5), targets.numpy()] += 1 - smoothing
    assert cross_entropy(logits, targets, smoothing).item() == pytest.approx(-(wanted * log_probabilities).sum())
    halves = cross_entropy(logits[:2], targets[:2], smoothing) + cross_entropy(logits[2:], targets[2:], smoothing)
    assert cross_entropy(logits, targets, smoothing).item() == pytest.approx(halves.item())
    assert cross_entropy(logits.bfloat16(), targets).dtype == torch.float32


def test_padding_weighs_nothing():
    """Columns and rows of padding change neither the loss nor the gradient."""
    torch.manual_seed(0)
    decoder = Decoder(20, 12, 10, embedding_size=8, hidden_size=16).eval()
    features = Features(torch.randn(2, 12), torch.randn(2, 9, 10))
    tokens = torch.randint(4, 20, (4, 5))
    padded = torch.full((2, 3, 8), PAD)
    padded[:, :2, :5] = tokens.reshape(2, 2, 5)
    results = []
    for each in (tokens, padded.flatten(0, 1)):
        decoder.zero_grad()
        inputs, targets = each[:, :-1], each[:, 1:]
        real = targets != PAD
        logits, _, _ = decoder(inputs, decoder.prepare(features), real=real)
        loss = cross_entropy(logits, targets[real], 0.1) / real.sum()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in decoder.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_who_learns_how_fast_and_who_decays():
    model = build_model(ModelConfig("mobilenet_v3_small", embedding_size=8, hidden_size=16), 20)
    model.encoder.unfreeze_from("features.12")
    parts = [(model.decoder, 1e-3), (model.encoder, 1e-4)]
    optimizer = build_optimizer(parts, 0.01)
    set_learning_rates(optimizer, 0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        learns = name.startswith(("decoder.", "encoder.features.12.", "encoder.classifier."))
        assert (id(parameter) in groups) == learns, name
        if learns:
            group = groups[id(parameter)]
            assert group["lr"] == (5e-4 if name.startswith("decoder.") else 5e-5), name
            matrix = parameter.ndim > 1 and name != "decoder.embedding.weight"
            assert group["weight_decay"] == (0.01 if matrix else 0.0), name
    model.encoder.unfreeze_from(None)
    assert len(build_optimizer(parts, 0.01).param_groups) == 2  # none for a frozen CNN


def test_schedule():
    shares = [schedule(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[55] == pytest.approx(0.51) and shares[-1] < 0.03
