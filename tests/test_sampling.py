"""Captions drawn in a training step, against the probabilities of all captions of a two-word vocabulary."""

from itertools import product

import pytest
import torch

from captioner.decoder import Decoder
from captioner.encoder import Features
from captioner.training.sampling import allowed, draw, inputs_of, through_end
from captioner.vocabulary import BOS, EOS, PAD, UNK

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


def probability(decoder, memory, caption) -> torch.Tensor:
    """The product over the words, one call per word."""
    log_probability, state, word = torch.zeros(()), decoder.initial_state(memory), BOS
    for following in caption:
        logits, _, state = decoder(torch.tensor([[word]]), memory, state)
        kept = logits[0, 0].clone()
        kept[[PAD, BOS, UNK]] = -torch.inf
        log_probability, word = log_probability + kept.log_softmax(0)[following], following
    return log_probability.exp()


def test_draws_have_the_probabilities_of_the_model(decoder, features):
    memory, samples = decoder.prepare(features), 4000
    tokens = draw(decoder, memory, samples, LONGEST)
    assert tokens.shape == (2 * samples, LONGEST)
    for photo in range(2):
        one = memory.select(torch.tensor([photo]))
        rows = tokens[photo * samples : (photo + 1) * samples]
        found = [tuple(row[mask].tolist()) for row, mask in zip(rows, through_end(rows), strict=True)]
        total = 0.0
        for caption in every_caption():
            wanted = probability(decoder, one, caption).item()
            total += wanted
            assert found.count(caption) / samples == pytest.approx(wanted, abs=0.03)
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
