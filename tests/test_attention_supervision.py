"""The term that teaches attention by a word classifier, against the same written by hand, word by word; what learns
from which part of it; and that a stage takes over the classifier of the stage before."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from captioner.encoder import Features
from captioner.training.objectives import Forward, WithTerms
from captioner.training.objectives.attention_supervision import (
    SHARPNESS,
    AttentionSupervision,
    build,
    content_words,
    smoothed,
)
from captioner.vocabulary import EOS, PAD, Vocabulary

VOCABULARY = Vocabulary("a dog on the grass cat".split())  # noqa: SIM905
A, DOG, ON, THE, GRASS, CAT = VOCABULARY.encode(VOCABULARY.words)
TARGETS = torch.tensor([[A, DOG, EOS, PAD], [DOG, ON, GRASS, EOS], [THE, CAT, EOS, PAD], [PAD, PAD, PAD, PAD]])


def make(weight: float = 1.5) -> tuple[AttentionSupervision, Forward, SimpleNamespace]:
    """Two photos with two captions each, over a grid of 3×3; the classifier has opinions."""
    torch.manual_seed(0)
    term = AttentionSupervision(weight, 5, content_words(VOCABULARY), torch.full((len(VOCABULARY),), 0.3))
    torch.nn.init.normal_(term.classifier.weight)
    grid = torch.randn(2, 9, 5, requires_grad=True)
    attention = torch.randn(4, 4, 9).softmax(-1).requires_grad_()
    forward = Forward(Features(grid.mean(1), grid), torch.empty(0), attention, torch.empty(0), TARGETS, TARGETS != PAD)
    return term, forward, SimpleNamespace(targets=TARGETS)


def by_hand(term: AttentionSupervision, forward: Forward) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of the sum: looking and naming."""
    weight, bias = term.classifier.weight, term.classifier.bias
    looking, naming = torch.zeros(()), torch.zeros(())
    grid = forward.features.grid
    for photo in range(2):
        for word in (DOG, GRASS, CAT):
            named = (TARGETS[2 * photo : 2 * photo + 2] == word).any().float()
            score = grid[photo].mean(0) @ weight[word] + bias[word]
            naming = naming + F.binary_cross_entropy_with_logits(score, named)
        for row in (2 * photo, 2 * photo + 1):
            for place, word in enumerate(TARGETS[row].tolist()):
                if word in (DOG, GRASS, CAT):
                    evidence = (grid[photo] @ weight[word]).reshape(3, 3)
                    around = torch.zeros(3, 3)
                    for y in range(3):
                        for x in range(3):
                            around[y, x] = evidence[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean()
                    wanted = torch.softmax(SHARPNESS * (around - around.mean()).flatten() / around.std(), 0)
                    seen = torch.sigmoid(grid[photo].mean(0) @ weight[word] + bias[word])
                    looking = looking - (seen * (wanted * forward.attention[row, place].log()).sum()).detach()
    return looking, naming


def test_the_sum_is_that_of_single_words():
    term, forward, batch = make(weight=1.5)
    looking, naming = by_hand(term, forward)
    assert looking > 1 and naming > 1
    torch.testing.assert_close(term(None, batch, forward), 1.5 * (looking + naming))


def test_who_learns_from_what():
    term, forward, batch = make()
    term.looking(forward.features.grid, TARGETS, forward.attention).backward()
    assert forward.attention.grad.any()
    assert forward.features.grid.grad is None and term.classifier.weight.grad is None  # targets are given, not learned
    term(None, batch, forward).backward()
    assert forward.features.grid.grad.any() and term.classifier.weight.grad[[DOG, GRASS, CAT]].any()
    assert not term.classifier.weight.grad[[A, ON, THE, EOS, PAD]].any()  # these name nothing


def test_attention_comes_to_the_map():
    """Gradient descent on the attention alone ends at the targets."""
    term, forward, _ = make()
    scores = torch.zeros(4, 4, 9, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        term.looking(forward.features.grid.detach(), TARGETS, scores.softmax(-1)).backward()
        optimizer.step()
    evidence = (forward.features.grid[0] @ term.classifier.weight[DOG]).reshape(1, 1, 9)
    assert scores[0, 1].argmax() == scores[1, 0].argmax() == smoothed(evidence).argmax()
    assert not scores[0, 0].any()  # "a" is not taught


def make_run(attention: object = "general") -> SimpleNamespace:
    decoder, encoder = SimpleNamespace(attention=attention), SimpleNamespace(grid_size=5)
    return SimpleNamespace(
        model=SimpleNamespace(decoder=decoder, encoder=encoder),
        captioner=SimpleNamespace(vocabulary=VOCABULARY),
        training=SimpleNamespace(captions=[[[A, DOG, EOS], [DOG, EOS]], [[CAT, EOS]], [[A, CAT, EOS]], [[CAT, EOS]]]),
        config=SimpleNamespace(attention_supervision=1.0),
    )


def test_the_classifier_starts_from_the_share_of_photos_and_goes_from_stage_to_stage():
    run = make_run()
    term = build(run)
    probabilities = term.classifier(torch.randn(5)).sigmoid()
    assert probabilities[[DOG, CAT]].tolist() == pytest.approx([0.25, 0.75])
    run.objective = WithTerms(torch.nn.Identity(), {"attention-supervision": term})
    assert build(run) is term


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="the model has none"):
        build(make_run(attention=None))
