"""The decoder against the papers' equations, written again in NumPy, and against itself: whole = step by step."""

import itertools

import numpy as np
import pytest
import torch

from captioner.config import RecurrentConfig
from captioner.decoder import ATTENTIONS, CELLS, Decoder
from captioner.encoder import Features
from captioner.model import build_language_model
from captioner.training.sampling import without_dropout
from captioner.vocabulary import BOS

V, D, R, E, H, B, C, T = 20, 10, 9, 8, 16, 2, 3, 5


def make(seed=0, **changes) -> Decoder:
    torch.manual_seed(seed)
    settings = {"embedding_size": E, "hidden_size": H, "dropout": 0.3} | changes
    return Decoder(V, 12, D, **settings).eval()


def photos(seed=1) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(B, 12, generator=generator), torch.randn(B, R, D, generator=generator))


def captions(seed=2) -> torch.Tensor:
    tokens = torch.randint(3, V, (B * C, T), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = BOS
    return tokens


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def numpy_step(cell, weights, x, state):
    """One step of one layer: Hochreiter and Schmidhuber 1997 with forget gates; Cho et al. 2014; Elman 1990."""
    a = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
    b = weights["weight_hh_l0"] @ state[0] + weights["bias_hh_l0"]
    if cell == "lstm":
        i, f, g, o = np.split(a + b, 4)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if cell == "gru":
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        z = sigmoid(az + bz)
        return ((1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * state[0],)
    return (np.tanh(a + b),)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("tied", [False, True])
def test_equations(cell, attention, tied):
    """Vinyals et al. 2015 (the photo first), Luong et al. 2015 (scores, eq. 5), a residual layer above; by hand."""
    decoder = make(cell=cell, attention=attention, tie_embeddings=tied)
    features, tokens = photos(), captions()
    with torch.no_grad():
        logits, maps, _ = decoder(tokens, decoder.prepare(features))
    w = {name: value.double().numpy() for name, value in decoder.state_dict().items()}
    below = {k.removeprefix("below."): v for k, v in w.items() if k.startswith("below.")}
    above = {k.removeprefix("above."): v for k, v in w.items() if k.startswith("above.")}
    for row, sentence in enumerate(tokens.numpy()):
        grid = features.grid[row // C].double().numpy()
        first = w["first.weight"] @ features.pooled[row // C].double().numpy() + w["first.bias"]
        low = high = (np.zeros(H), np.zeros(H))
        for t, x in enumerate([first, *w["embedding.weight"][sentence]]):
            low = numpy_step(cell, below, x, low)
            h = low[0]
            if attention != "none":
                key = w["attention.key.weight"]
                values = grid @ key.T if attention == "dot" else grid
                if attention == "concat":
                    both = [w["attention.query.weight"] @ h + key @ v + w["attention.key.bias"] for v in grid]
                    scores = np.array([w["attention.v"] @ np.tanh(s) for s in both])
                else:
                    scores = np.array([h @ (key @ v) for v in grid]) / np.sqrt(H)
                a = softmax(scores)
                h = np.tanh(w["combine.weight"] @ np.concatenate([a @ values, h]))
            high = numpy_step(cell, above, h, high)
            h = h + high[0]
            if t == 0:
                continue  # the photo predicts nothing
            if tied:
                y = w["embedding.weight"] @ (w["to_embedding.weight"] @ h + w["to_embedding.bias"]) + w["bias"]
            else:
                y = w["output.weight"] @ h + w["output.bias"]
            np.testing.assert_allclose(logits[row, t - 1], y, atol=2e-5)
            if attention != "none":
                np.testing.assert_allclose(maps[row, t - 1], a, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "attention", "layers"),
    list(itertools.product(CELLS, ATTENTIONS, [(1, 0), (1, 1), (2, 1), (1, 2)])),
)
def test_step_by_step_is_the_whole(cell, attention, layers):
    decoder = make(cell=cell, attention=attention, layers_below=layers[0], layers_above=layers[1])
    memory, tokens = decoder.prepare(photos()), captions()
    whole, maps, end = decoder(tokens, memory)
    state, logits, seen = None, [], []
    for t in range(T):
        step, looked, state = decoder(tokens[:, t : t + 1], memory, state)
        logits.append(step)
        seen.append(looked)
    torch.testing.assert_close(torch.cat(logits, 1), whole)
    for ours, theirs in zip(state, end, strict=True):
        torch.testing.assert_close(ours, theirs)
    if attention == "none":
        assert maps is None or maps.shape[-1] == 0
    else:
        torch.testing.assert_close(torch.cat(seen, 1), maps)
        torch.testing.assert_close(maps.sum(-1), torch.ones(B * C, T))


def test_captions_of_a_photo_do_not_meet():
    decoder, features, tokens = make(), photos(), captions()
    together, _, _ = decoder(tokens, decoder.prepare(features))
    for row in range(B * C):
        one = Features(*(part[row // C : row // C + 1] for part in features))
        alone, _, _ = decoder(tokens[row : row + 1], decoder.prepare(one))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_only_real_tokens_reach_the_vocabulary():
    decoder, memory, tokens = make(), None, captions()
    real = torch.rand(B * C, T) < 0.5
    logits, _, _ = decoder(tokens, memory)
    chosen, _, _ = decoder(tokens, memory, real=real)
    assert chosen.shape == (int(real.sum()), V)
    torch.testing.assert_close(chosen, logits[real])


def test_the_future_does_not_change_the_past():
    decoder, memory, tokens = make(layers_below=2), make(layers_below=2).prepare(photos()), captions()
    before, _, _ = decoder(tokens, memory)
    changed = tokens.clone()
    changed[:, 3:] = 7
    after, _, _ = decoder(changed, memory)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_a_language_model_carries_its_state():
    decoder, tokens = make(layers_above=2), captions()
    whole, attention, _ = decoder(tokens)
    assert attention is None
    left, _, state = decoder(tokens[:, :2])
    right, _, _ = decoder(tokens[:, 2:], state=tuple(part.detach() for part in state))
    torch.testing.assert_close(torch.cat([left, right], 1), whole)


@pytest.mark.parametrize("steps", [1, 2])
def test_rows_that_do_not_divide_among_the_photos_are_refused(steps):
    decoder = make()
    _, _, state = decoder(torch.ones(6, 1, dtype=torch.long))
    four = decoder.prepare(Features(torch.randn(4, 12), torch.randn(4, 9, D)))
    tokens = torch.full((6, steps), 5)
    for given in (None, state):
        with pytest.raises(AssertionError, match="6 rows over 4 photos"):
            decoder(tokens, four, given)


@pytest.mark.parametrize("tied", [False, True])
def test_dropout_before_each_stack_of_layers_and_before_the_vocabulary(tied):
    """With everything dropped, the part behind it sees zeros: it cannot know what came before."""
    decoder = make(tie_embeddings=tied).train()
    memory, tokens = decoder.prepare(photos()), captions()

    def run(tokens, memory, dropped):
        calls = iter(range(3))  # below, above, vocabulary
        decoder.dropout.forward = lambda x: x * 0 if next(calls) == dropped else x
        return decoder(tokens, memory)

    _, attention, _ = run(tokens, memory, dropped=0)
    torch.testing.assert_close(attention, run(tokens.flip(0), memory, dropped=0)[1])
    _, _, state = run(tokens, memory, dropped=1)
    blank = memory._replace(values=0 * memory.values)
    for ours, theirs in zip(state[2:], run(tokens, blank, dropped=1)[2][2:], strict=True):
        torch.testing.assert_close(ours, theirs)
    logits, _, _ = run(tokens, memory, dropped=2)
    torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits))
    assert not torch.allclose(logits, run(tokens, memory, dropped=None)[0])


def dropping(pooled_size: int, share: float = 0.25) -> tuple[Decoder, Features]:
    """A decoder in training that drops channels, whose image embedding is the pooled features, and 400 photos."""
    decoder = Decoder(V, pooled_size, D, embedding_size=pooled_size, hidden_size=H, feature_dropout=share)
    with torch.no_grad():
        decoder.first.weight.copy_(torch.eye(pooled_size))
        decoder.first.bias.zero_()
    return decoder, Features(torch.rand(400, pooled_size) + 1, torch.rand(400, R, D) + 1)


@pytest.mark.parametrize("pooled_size", [D, 12])
def test_channels_are_dropped_in_all_regions_at_once(pooled_size):
    """One mask per photo, shared with pooled features of as many channels; what is kept is scaled. Two roads to what
    is left: the decoder's own, and the mask by hand on the features without dropout."""
    torch.manual_seed(0)
    decoder, features = dropping(pooled_size)
    memory = decoder.prepare(features)
    kept = memory.values[:, 0] > 0  # (B, D)
    of_pooled = memory.image > 0  # (B, D_p)
    assert torch.equal(of_pooled, kept) if pooled_size == D else (of_pooled[:, :D] != kept).float().mean() > 0.3
    assert abs(kept.float().mean() - 0.75) < 0.03 and abs(of_pooled.float().mean() - 0.75) < 0.03
    assert len(kept.unique(dim=0)) > 100  # photos lose different channels
    by_hand = Features(features.pooled * of_pooled / 0.75, features.grid * kept[:, None] / 0.75)
    for ours, theirs in zip(memory, decoder.eval().prepare(by_hand), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("pooled_size", [D, 12])
def test_dropped_channels_keep_the_expectation(pooled_size):
    torch.manual_seed(0)
    decoder, features = dropping(pooled_size)
    one = Features(*(part[:1].expand(20_000, *part.shape[1:]) for part in features))
    for ours, theirs in zip(decoder.prepare(one), decoder.eval().prepare(features), strict=True):
        torch.testing.assert_close(ours.mean(0), theirs[0], atol=0.02, rtol=0.02)


def test_channels_are_dropped_in_training_only():
    decoder, features = dropping(D)
    whole = decoder.eval().prepare(features)
    assert torch.equal(whole.values, features.grid) and torch.equal(whole.image, features.pooled)
    decoder.train()
    with without_dropout(decoder):
        for ours, theirs in zip(decoder.prepare(features), whole, strict=True):
            assert torch.equal(ours, theirs)
    assert not torch.equal(decoder.prepare(features).values, whole.values)


def test_a_language_model_has_no_channels_to_drop():
    assert build_language_model(RecurrentConfig(dropout=0), V).feature_dropout.p == 0
    decoder, _ = dropping(D, 0.9)
    assert torch.equal(decoder(captions())[0], decoder.eval()(captions())[0])


def test_forget_gates_start_open():
    decoder = make(layers_below=2)
    for stack, layers in ((decoder.below, 2), (decoder.above, 1)):
        for layer in range(layers):
            bias = getattr(stack, f"bias_ih_l{layer}") + getattr(stack, f"bias_hh_l{layer}")
            assert (bias[H : 2 * H] == 1).all()


def test_every_parameter_learns():
    for attention, tied in itertools.product(ATTENTIONS, (False, True)):
        decoder = make(attention=attention, tie_embeddings=tied)
        decoder(captions(), decoder.prepare(photos()))[0].logsumexp(-1).sum().backward()
        lazy = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
        assert not lazy, (attention, lazy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "transformer"}, "unknown recurrent cell 'transformer'; there are: lstm, gru, rnn"),
        ({"attention": "bahdanau"}, "unknown attention score 'bahdanau'; there are: general, dot, concat, none"),
        ({"layers_below": 0}, "layers_below must be at least 1"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
