"""Objectives of training, and the captions that they draw, against direct, slow forms on tiny models: above all the
probabilities of all captions of a two-word vocabulary."""

import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captioner.data.datasets import Batch
from captioner.decoder import Decoder
from captioner.encoder import Features
from captioner.model import CaptionModel
from captioner.training.config import SelfCriticalConfig, TrainConfig
from captioner.training.objectives import professor_forcing
from captioner.training.objectives.coverage import coverage
from captioner.training.objectives.cross_entropy import CrossEntropy
from captioner.training.objectives.distillation import Distillation, Teacher
from captioner.training.objectives.professor_forcing import (
    Discriminator,
    ProfessorForcing,
    deception,
    discrimination,
    recognised,
)
from captioner.training.objectives.scheduled_sampling import half_point, inverse_sigmoid, linear, mix
from captioner.training.objectives.self_critical import SelfCritical, build, policy_gradient
from captioner.training.run import Progress
from captioner.training.sampling import allowed, draw, inputs_of, through_end
from captioner.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

LONGEST = 3


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = Decoder(6, 5, 4, embedding_size=6, hidden_size=8).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)
    return decoder


@pytest.fixture
def features():
    torch.manual_seed(1)
    return Features(torch.randn(2, 5), torch.randn(2, 3, 4))


def every_caption() -> list[tuple[int, ...]]:
    """All captions of the words 4 and 5: ended, or of LONGEST words."""
    captions = [(*words, EOS) for length in range(LONGEST) for words in product((4, 5), repeat=length)]
    return captions + list(product((4, 5), repeat=LONGEST))


def probability(decoder, memory, caption, temperature=1.0) -> torch.Tensor:
    """The product over the words, one call per word."""
    log_probability, state, word = torch.zeros(()), decoder.initial_state(memory), BOS
    for following in caption:
        logits, _, state = decoder(torch.tensor([[word]]), memory, state)
        kept = logits[0, 0] / temperature
        kept[[PAD, BOS, UNK]] = -torch.inf
        log_probability, word = log_probability + kept.log_softmax(0)[following], following
    return log_probability.exp()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_probabilities_of_the_model(decoder, features, temperature):
    memory, samples = decoder.prepare(features), 1500
    tokens = draw(decoder, memory, samples, LONGEST, temperature)
    assert tokens.shape == (2 * samples, LONGEST)
    for photo in range(2):
        one = memory.select(torch.tensor([photo]))
        rows = tokens[photo * samples : (photo + 1) * samples]
        found = [tuple(row[mask].tolist()) for row, mask in zip(rows, through_end(rows), strict=True)]
        total = 0.0
        for caption in every_caption():
            wanted = probability(decoder, one, caption, temperature).item()
            total += wanted
            assert found.count(caption) / samples == pytest.approx(wanted, abs=0.04)
        assert total == pytest.approx(1, abs=1e-5)


def test_greedy_takes_the_most_probable_word_each_time(decoder, features):
    tokens = draw(decoder, decoder.prepare(features), 1, LONGEST, greedy=True)
    logits, _, _ = decoder(inputs_of(tokens), decoder.prepare(features))
    mask = through_end(tokens)
    assert torch.equal(allowed(logits).argmax(-1)[mask], tokens[mask])


def test_the_same_generator_the_same_captions_and_no_gradient(decoder, features):
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(draw(decoder, decoder.prepare(features), 3, 8))
    assert torch.equal(*drawn) and not drawn[0].requires_grad


def test_what_counts_goes_through_the_first_end():
    tokens = torch.tensor([[4, EOS, 5, EOS], [4, 5, 4, 5], [EOS, 4, PAD, PAD], [4, PAD, 5, EOS]])
    wanted = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]  # PAD in a caption is a token like others
    assert through_end(tokens).tolist() == [[bool(x) for x in row] for row in wanted]
    assert inputs_of(tokens)[0].tolist() == [BOS, 4, EOS, 5]


def gradients(module, loss):
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.mark.parametrize(("baseline", "temperature"), [(0.0, 1.0), (1.7, 1.0), (1.7, 0.6), (0.0, 1.5)])
def test_the_policy_gradient_is_that_of_the_expected_reward(decoder, features, baseline, temperature):
    """All captions, weighted by their probabilities, give the exact gradient of the expected reward of the model at a
    temperature; a baseline that does not depend on the caption changes nothing."""
    one = decoder.prepare(Features(features.pooled[:1], features.grid[:1]))
    captions = every_caption()
    rewards = torch.randn(len(captions), generator=torch.Generator().manual_seed(3))
    probabilities = torch.stack([probability(decoder, one, caption, temperature) for caption in captions])
    wanted = gradients(decoder, -(probabilities * rewards).sum())

    one = decoder.prepare(Features(features.pooled[:1], features.grid[:1]))
    longest = max(map(len, captions))
    tokens = torch.tensor([[*caption, *[5] * (longest - len(caption))] for caption in captions])
    mask = through_end(tokens)
    logits, _, _ = decoder(inputs_of(tokens), one, real=mask)
    weights = (probabilities.detach() * (rewards - baseline))[:, None].expand_as(tokens)[mask]
    found = gradients(decoder, policy_gradient(allowed(logits, temperature), tokens[mask], weights))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_self_critical_step_by_hand(decoder, features, weight):
    """-Σ A log p at the temperature of the draws, plus the weight times -Σ log p of human captions at 1."""

    def reward(tokens, photos):
        return (tokens == 4).sum(1) + 10.0 * photos

    people = torch.tensor([[BOS, 4, 5, EOS], [BOS, 5, EOS, PAD], [BOS, 4, 4, EOS], [PAD] * 4])
    batch = Batch(features, people, ["b", "a"])
    run = SimpleNamespace(model=SimpleNamespace(decoder=decoder, features=lambda images: images))
    objective = SelfCritical(reward, {"a": 0, "b": 1}, 3, "others", LONGEST, 1.5, weight)
    torch.manual_seed(1)
    loss = objective(run, batch)
    memory = decoder.prepare(features)
    torch.manual_seed(1)
    tokens = draw(decoder, memory, 3, LONGEST, 1.5)  # the same
    total, rewards = 0.0, reward(tokens.numpy(), np.repeat([1, 0], 3))
    for row, (caption, mask) in enumerate(zip(tokens, through_end(tokens), strict=True)):
        same = [other for other in range(6) if other // 3 == row // 3 and other != row]
        advantage = rewards[row] - rewards[same].mean()
        one = memory.select(torch.tensor([row // 3]))
        total = total - advantage * probability(decoder, one, caption[mask].tolist(), 1.5).log()
    for row, caption in enumerate(([4, 5, EOS], [5, EOS], [4, 4, EOS])):
        logits, _, _ = decoder(people[row : row + 1, :-1], memory.select(torch.tensor([row // 2])))
        total = total - weight * logits[0].log_softmax(1)[range(len(caption)), caption].sum()
    assert loss.count == through_end(tokens).sum() and (rewards.reshape(2, 3).std(1) > 0).all()
    torch.testing.assert_close(loss.sum, total)
    for ours, theirs in zip(gradients(decoder, loss.sum), gradients(decoder, total), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_settings_of_self_critical_training_reach_the_reward():
    run = SimpleNamespace(
        config=TrainConfig((), Path(), self_critical=SelfCriticalConfig(bleu=0.5, wrong_object=0.7)),
        training=SimpleNamespace(records=[SimpleNamespace(id="a", captions=["a dog"])]),
        captioner=SimpleNamespace(vocabulary=Vocabulary(["a", "dog"])),
    )
    reward = build(run).reward
    assert (reward.bleu, reward.wrong_object) == (0.5, 0.7)


def test_coverage_is_equation_14():
    attention = torch.rand(3, 4, 5).softmax(-1)
    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()  # the last row is padding
    wanted = 0.0
    for n, length in enumerate((3, 1)):
        for i in range(5):
            wanted += (1 - sum(attention[n, t, i].item() for t in range(length))) ** 2
    assert coverage(attention, real).item() == pytest.approx(wanted, rel=1e-5)
    even = torch.full((1, 5, 5), 0.2)
    assert coverage(even, torch.ones(1, 5, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-9)


def test_mixed_inputs():
    inputs, drawn = torch.arange(12).reshape(2, 6), -torch.arange(1, 13).reshape(2, 6)
    assert torch.equal(mix(inputs, drawn, 0.0), inputs)
    assert mix(inputs, drawn, 1.0).tolist() == [[0, -1, -2, -3, -4, -5], [6, -7, -8, -9, -10, -11]]
    inputs, drawn = torch.zeros(100, 101), torch.ones(100, 101)
    assert mix(inputs, drawn, 0.3).sum().item() / 1e4 == pytest.approx(0.3, abs=0.02)


def test_schedules_of_the_rate():
    assert [linear(step, 10, 0.5) for step in (0, 5, 10, 20)] == [0, 0.25, 0.5, 0.5]
    for steps in (10, 1000, 100_000):
        k = half_point(steps / 2)
        rates = [inverse_sigmoid(step, steps, 0.5) for step in range(0, steps + 1, steps // 10)]
        assert rates == sorted(rates) and rates[-1] <= 0.5
        for step, rate in zip(range(0, steps + 1, steps // 10), rates, strict=True):
            assert rate == pytest.approx(0.5 * (1 - k / (k + math.exp(step / k))))
        if steps > 10:
            assert rates[5] == pytest.approx(0.25) and rates[0] < 0.01 < 0.49 < rates[-1]


@pytest.fixture
def states():
    torch.manual_seed(2)
    hidden = torch.randn(4, 5, 6, requires_grad=True)
    return hidden, torch.arange(5) < torch.tensor([[5], [2], [3], [1]])


def test_the_discriminator_reads_a_caption_as_if_it_were_alone(states):
    hidden, real = states
    discriminator = Discriminator(6, 7)
    together = discriminator(hidden, real)
    for row, length in enumerate(real.sum(1).tolist()):
        alone = hidden[row : row + 1, :length]
        torch.testing.assert_close(discriminator(alone, torch.ones(1, length).bool()), together[row : row + 1])
        outputs = discriminator.layers(discriminator.recurrent(alone)[0])
        torch.testing.assert_close(outputs.mean((1, 2)), together[row : row + 1])


def test_who_learns_from_the_discriminator(states):
    """Deception has gradients for the hidden states only, discrimination for the discriminator only."""
    hidden, real = states
    discriminator = Discriminator(6, 7)
    torch.testing.assert_close(discriminator.frozen(hidden, real), discriminator(hidden, real))
    logits = discriminator.frozen(hidden, real)
    deception(logits[:2], logits[2:]).backward()
    assert hidden.grad is not None and hidden.grad[real].abs().sum() > 0 and not hidden.grad[~real].any()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    hidden.grad = None
    logits = discriminator(hidden.detach(), real)
    discrimination(logits[:2], logits[2:]).backward()
    assert hidden.grad is None and all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_two_sides_by_their_equations():
    read, written = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0, -1.0])
    right = F.binary_cross_entropy(read.sigmoid(), torch.ones(2), reduction="sum") + F.binary_cross_entropy(
        written.sigmoid(), torch.zeros(3), reduction="sum"
    )
    wrong = F.binary_cross_entropy(read.sigmoid(), torch.zeros(2), reduction="sum") + F.binary_cross_entropy(
        written.sigmoid(), torch.ones(3), reduction="sum"
    )
    torch.testing.assert_close(discrimination(read, written), right)
    torch.testing.assert_close(deception(read, written), wrong)
    assert recognised(read, written).item() == 3


@pytest.mark.parametrize(
    ("figures", "fools", "learns"),
    [
        ({}, False, True),
        ({"discriminator_accuracy": 0.8}, True, True),
        ({"discriminator_accuracy": 0.995}, True, False),
    ],
)
def test_the_bounds_of_accuracy(decoder, features, figures, fools, learns):
    """The discriminator learns from its own term only, and the decoder's loss is cross-entropy where it does not fool
    it."""
    people = torch.tensor([[BOS, 4, 5, EOS], [BOS, 5, EOS, PAD]])
    model = SimpleNamespace(decoder=decoder, features=lambda images: images)
    run = SimpleNamespace(model=model, progress=Progress(figures=figures))
    objective = ProfessorForcing(Discriminator(8, 7), 0.5, 0.0, LONGEST)
    loss = objective(run, Batch(features, people, ["a", "b"]))
    logits, targets = decoder(people[:, :-1], decoder.prepare(features))[0], people[:, 1:]
    plain = F.cross_entropy(logits[targets != PAD], targets[targets != PAD], reduction="sum")
    ours, theirs = gradients(decoder, loss.sum), gradients(decoder, plain)
    assert fools != all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))
    assert learns == any(gradient.any() for gradient in gradients(objective, loss.sum))


def test_professor_forcing_draws_from_whole_features(features, monkeypatch):
    """Channels are dropped from what is read, not from what the captions are drawn from."""
    torch.manual_seed(0)
    decoder = Decoder(6, 5, 4, embedding_size=6, hidden_size=8, feature_dropout=0.9)
    found = []

    def drawn(decoder, memory, samples, longest):
        found.append(memory)
        return torch.tensor([[4, EOS], [5, EOS]])

    monkeypatch.setattr(professor_forcing, "draw", drawn)
    run = SimpleNamespace(model=CaptionModel(torch.nn.Identity(), decoder), progress=Progress())
    people = torch.tensor([[BOS, 4, 5, EOS], [BOS, 5, EOS, PAD]])
    ProfessorForcing(Discriminator(8, 7), 0.5, 0.0, LONGEST)(run, Batch(features, people, ["a", "b"]))
    torch.testing.assert_close(found[0].values, decoder.eval().prepare(features).values)


def teacher(words: str, vocabulary: str, seed: int) -> Teacher:
    """A teacher with a vocabulary of one-letter words for a model with the vocabulary `vocabulary`."""
    torch.manual_seed(seed)
    decoder = Decoder(4 + len(words), 5, 4, embedding_size=6, hidden_size=8)
    return Teacher(CaptionModel(torch.nn.Identity(), decoder), Vocabulary([*words]), Vocabulary([*vocabulary]))


def test_distillation_by_hand(decoder, features):
    """Word by word: -Σ q log p, where q is the mean of the teachers' probabilities, and of the word that people wrote.
    The teachers stay as they are."""
    people = torch.tensor([[BOS, 4, 5, EOS], [BOS, 5, EOS, PAD], [BOS, 4, 4, EOS], [PAD] * 4])
    batch = Batch(features, people, ["a", "b"])
    run = SimpleNamespace(model=CaptionModel(torch.nn.Identity(), decoder))
    teachers = [teacher("ab", "ab", seed) for seed in (1, 2)]
    objective = Distillation(teachers, 0.7)
    assert not list(objective.parameters()) and not objective.state_dict()
    loss = objective(run, batch)
    loss.sum.backward()
    assert all(p.grad is None for each in teachers for p in each.model.parameters())
    total = 0.0
    for row, tokens in enumerate(people[:3].tolist()):
        photo = Features(features.pooled[row // 2, None], features.grid[row // 2, None])
        for place, word in enumerate(tokens[1:], 1):
            if word == PAD:
                continue
            read = torch.tensor([tokens[:place]])
            ours, *theirs = (
                model(photo, read)[0][0, -1].double() for model in (run.model, *(each.model for each in teachers))
            )
            wanted = 0.35 * (theirs[0].softmax(0) + theirs[1].softmax(0))
            wanted[word] += 0.3
            total -= (wanted * ours.log_softmax(0)).sum().item()
    assert loss.sum.item() == pytest.approx(total, rel=1e-5)
    assert loss.count == 8


def test_distillation_without_a_share_is_cross_entropy(decoder, features):
    batch = Batch(features, torch.tensor([[BOS, 4, 5, EOS], [BOS, 5, EOS, PAD]]), ["a", "b"])
    run = SimpleNamespace(model=CaptionModel(torch.nn.Identity(), decoder))
    ours, theirs = (
        objective(run, batch).sum for objective in (Distillation([teacher("ab", "ab", 1)], 0.0), CrossEntropy())
    )
    torch.testing.assert_close(ours, theirs)


def test_a_teacher_with_other_words(features):
    """The same teacher for a model with its words in another order, one of them missing and another one new: words
    keep their probabilities, what is missing is unknown, and what is new never follows."""
    inputs = torch.tensor([[BOS, 4, 6], [BOS, 5, 7]])  # a, c; b, d
    real = torch.ones(2, 3, dtype=torch.bool)
    same = teacher("abcd", "abcd", 3)(features, inputs, real)
    others = torch.tensor([[BOS, 6, 4], [BOS, UNK, 5]])  # the same words where they are known
    found = teacher("abcd", "cdae", 3)(features, others, real)
    torch.testing.assert_close(found.sum(1), torch.ones(6))
    unread = [0, 1, 2, 3]  # not what comes after the unknown word
    torch.testing.assert_close(found[unread, 4:7], same[unread][:, [6, 7, 4]])  # c, d, a
    assert (found[:, 7] == 0).all()  # e
    torch.testing.assert_close(found[unread, UNK], same[unread, UNK] + same[unread, 5])  # and b
    torch.testing.assert_close(found[unread][:, [PAD, BOS, EOS]], same[unread][:, [PAD, BOS, EOS]])
