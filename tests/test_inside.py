"""Inside the recurrent network: activations equal those of torch's single cells, planted properties are found, and
gradients equal finite differences and the Jacobian written by hand."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captioner.captioner import Captioner
from captioner.checkpoint.card import model_card
from captioner.checkpoint.tensors import save_checkpoint
from captioner.config import RecurrentConfig
from captioner.data.readers import read_dataset, select
from captioner.data.toy import make_toy
from captioner.decoder import Decoder
from captioner.encoder import Features
from captioner.images import open_image
from captioner.inside.gradients import gradient_norms, trained_gradients, untrained_gradients
from captioner.inside.properties import OF_CHARACTERS, OF_WORDS
from captioner.inside.units import (
    Activations,
    caption_activations,
    excerpt,
    find_matches,
    match_units,
    text_activations,
    unit_activations,
)
from captioner.language_model import LanguageModel
from captioner.model import build_language_model
from captioner.visualize.gradients import gradients_figure
from captioner.visualize.units import COLUMNS, colour, rows_of, text_figure, units_figure
from captioner.vocabulary import BOS, EOS, UNK, Vocabulary

WORDS = ["a", "man", "in", "a", "red", "shirt", "plays", "with", "two", "dogs"]


def decoder(cell="lstm", **changes) -> Decoder:
    torch.manual_seed(0)
    settings = {"embedding_size": 5, "hidden_size": 6, "cell": cell, "layers_above": 0} | changes
    return Decoder(12, 7, 8, **settings).double().eval()


def memory_of(model: Decoder):
    return model.prepare(Features(torch.randn(2, 7).double(), torch.randn(2, 9, 8).double()))


def tokens() -> torch.Tensor:
    return torch.tensor([[BOS, 4, 5, 6, 7, 8], [BOS, 9, 10, 11, 4, 6]])  # no word twice in a caption


def lstm_by_hand(lstm: nn.LSTM, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T, E) -> h and tanh(c), both (N, T, H), by torch's single cell."""
    single = nn.LSTMCell(lstm.input_size, lstm.hidden_size).double()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(single, name, getattr(lstm, f"{name}_l0"))
    state, found = None, []
    for t in range(inputs.shape[1]):
        state = single(inputs[:, t], state)
        found.append((state[0], torch.tanh(state[1])))
    hidden, cells = zip(*found, strict=True)
    return torch.stack(hidden, 1), torch.stack(cells, 1)


@torch.no_grad()
def test_activations_of_an_lstm():
    model = decoder(layers_above=1)
    below, units = lstm_by_hand(model.below, model.embedding(tokens()))
    _, units_above = lstm_by_hand(model.above, below)
    found = unit_activations(model, tokens())
    assert torch.allclose(found["below"], units) and torch.allclose(found["above"], units_above)


@torch.no_grad()
@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_activations_of_other_cells(cell):
    model = decoder(cell, layers_below=2)
    whole, _ = model.below(model.embedding(tokens()))
    assert torch.allclose(unit_activations(model, tokens())["below"], whole)


def test_activations_of_captions(tiny, photos):
    captioner = Captioner.load(tiny, device="cpu")
    paths = [photos / "b.jpg", photos / "a.png"]
    decoding = replace(captioner.decoding, num_captions=2)  # the second begins alike, and is not read
    shown: list[int] = []
    found = caption_activations(captioner, paths, decoding, "above", shown.append)
    assert sum(shown) == len(paths)
    captions = captioner.caption(paths, decoding)
    assert [each.tokens for each in found] == [caption.words for caption in captions]
    alone = captioner.backend.encode(captioner.preprocess(open_image(paths[1]))[None])
    with torch.inference_mode():
        ids = torch.tensor([[BOS, *captioner.vocabulary.encode(found[1].tokens)]])
        expected = unit_activations(captioner.backend.model.decoder, ids, alone)["above"][0, 1:]
    assert found[1].units == pytest.approx(expected.numpy(), abs=1e-5)


def test_properties():
    found = {name: property(WORDS).tolist() for name, property in OF_WORDS.items()}
    assert found == {
        "how many words are written": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        "how near the end is": [-10, -9, -8, -7, -6, -5, -4, -3, -2, -1],
        "a colour was just said": [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        "a preposition, up to two words ago": [0, 0, 1, 1, 1, 0, 0, 1, 1, 1],
        "a preposition was just said": [0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
        "an article was just said": [1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        "a plural noun comes next": [0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        "a person was named": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        "an animal was named": [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    }


TEXT = """A "quoted
word" (and b). It's 1.
  Ab: "open
  c

closed" é\td
"""


def marked(name: str) -> str:
    """The characters of TEXT for which a property of 0 and 1 holds."""
    return "".join(character for character, value in zip(TEXT, OF_CHARACTERS[name](list(TEXT)), strict=True) if value)


def test_properties_of_characters():
    assert OF_CHARACTERS["position in the line"](list("ab\n\nc")).tolist() == [1, 2, 0, 0, 1]
    assert OF_CHARACTERS["how near the end of the line is"](list("ab\n\nc")).tolist() == [-2, -1, 0, 0, -1]
    assert OF_CHARACTERS["letters of the word so far"](list("ab'é c")).tolist() == [1, 2, 0, 1, 0, 1]
    assert marked("inside quotation marks") == '"quoted\nword'  # the other marks are in two paragraphs
    assert marked("inside brackets") == "(and b"
    assert marked("in the indentation of a line") == "    "
    assert marked("in an indented line") == '  Ab: "open  c'
    assert marked("a capital letter was just read") == "AIA" and marked("a digit was just read") == "1"
    assert marked("a sentence has just ended") == ". .\n  "
    for name, property in OF_CHARACTERS.items():
        assert property([]).tolist() == [] and len(property(["a"])) == 1, name


def test_an_excerpt_is_where_the_properties_vary():
    lines = ["word word\n"] * 20
    lines[12] = "a (b) c\n"
    text = Activations(list("".join(lines)), np.zeros((0, 0)))
    start, stop = excerpt(text, {"inside brackets": OF_CHARACTERS["inside brackets"]}, 3)
    assert "(" in "".join(text.tokens[start:stop]) and text.tokens[start - 1] == text.tokens[stop - 1] == "\n"
    assert "".join(text.tokens[start:stop]).count("\n") == 3
    short = Activations(list("a (b)"), np.zeros((0, 0)))
    assert excerpt(short, {"inside brackets": OF_CHARACTERS["inside brackets"]}, 3) == (0, 5)
    endless = Activations(list("a (b) " * 200), np.zeros((0, 0)))
    assert excerpt(endless, {"inside brackets": OF_CHARACTERS["inside brackets"]}, 3) == (0, 300)


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """The checkpoint of an untrained model of the characters of TEXT, but for one."""
    torch.manual_seed(0)
    config = RecurrentConfig(embedding_size=6, hidden_size=10, layers_above=0)
    vocabulary = Vocabulary(sorted(set(TEXT) - {"é"}))
    model = LanguageModel(build_language_model(config, len(vocabulary)), vocabulary, config, "character", "file")
    saved = model.to_config() | {"training": None, "scores": None}
    directory = tmp_path_factory.mktemp("characters") / "model"
    save_checkpoint(directory, model.decoder.state_dict(), saved, model_card(saved), half=False)
    return directory


def test_activations_of_a_text(characters):
    model = LanguageModel.load(characters, "cpu")
    found = text_activations(model, TEXT)
    assert found.tokens == list(TEXT) and UNK in model.vocabulary.encode(list(TEXT))
    decoder = model.decoder.double()
    with torch.no_grad():
        inputs = decoder.embedding(torch.tensor([[BOS, *model.vocabulary.encode(list(TEXT))]]))
        _, units = lstm_by_hand(decoder.below, inputs)
    assert found.units == pytest.approx(units[0, 1:].numpy(), abs=1e-5)
    words = LanguageModel(model.decoder, model.vocabulary, model.config, "word", "file")
    with pytest.raises(ValueError, match="this is a word model"):
        text_activations(words, TEXT)


def test_attend_cells_over_a_text(run, characters, tmp_path):
    path, output = tmp_path / "text.txt", tmp_path / "cells.png"
    path.write_text(TEXT * 3)
    common = ("-o", output, "--checkpoint", characters, "--device", "cpu")
    for more, lines in (("--cells",), 4), (("--cell", 5, 2), 2):
        status, out, _ = run("attend", path, *more, *common)
        *units, last = out.splitlines()
        assert status == 0 and len(units) == lines and last == str(output) and output.stat().st_size > 3000
        assert all(line.startswith("unit ") and "by chance up to 0." in line for line in units)
    assert [line.split(":")[0] for line in units] == ["unit 5", "unit 2"]
    status, _, err = run("attend", "--cells", *common)
    assert status == 2 and "no text" in err
    status, _, err = run("attend", path, "--cell", 10, *common)
    assert status == 2 and "units 0 to 9" in err


def test_the_picture_of_units_over_a_text():
    text = "ab\n" + "c" * (COLUMNS + 2)
    values = np.linspace(-0.5, 0.5, len(text))
    assert rows_of(text) == [(0, 3), (3, 3 + COLUMNS), (3 + COLUMNS, 5 + COLUMNS)] and rows_of("") == []
    (axes,) = text_figure(text, [("unit 7", values), ("unit 8", values * 0)]).axes
    first, second = (image.get_array() for image in axes.images if image.get_array().shape[0] == 3)
    assert np.allclose(first[0, :3], [colour(value / 0.5) for value in values[:3]])
    assert np.allclose(first[2, :2], [colour(value / 0.5) for value in values[-2:]])
    assert np.allclose(first[0, 3:], 1) and np.allclose(first[2, 2:], 1) and np.allclose(second, 1)
    written = [each.get_text() for each in axes.texts]
    assert written.count("ab") == written.count("cc") == 2
    with pytest.raises(ValueError, match="one activation for each character"):
        text_figure(text, [("unit 7", values[:1])])


def random_captions(seed=0, captions=12, width=40):
    random = np.random.default_rng(seed)
    words = [random.permutation(WORDS)[: random.integers(5, 11)].tolist() for _ in range(captions)]
    return [Activations(each, random.uniform(-1, 1, (len(each), width))) for each in words]


def test_a_planted_property_is_found():
    planted = random_captions()
    for words, units in planted:
        units[:, 17] = 0.3 - 0.2 * OF_WORDS["a colour was just said"](words)
        units[:, 5] = 0.1 * OF_WORDS["how near the end is"](words) + 0.1 * units[:, 6]
    first, second, *_ = find_matches(planted)
    assert (first.unit, first.property) == (17, "a colour was just said")
    assert first.correlation == pytest.approx(-1) and first.chance < 0.5
    assert (second.unit, second.property) == (5, "how near the end is") and 0.9 < second.correlation < 1
    assert match_units([5, 17], planted) == [second, first]
    for words, units in planted:  # a unit that follows two properties is shown once
        units[:, 17] += 0.001 * OF_WORDS["how many words are written"](words)
    assert len({match.unit for match in find_matches(planted)}) == len(find_matches(planted)) == len(OF_WORDS)
    unit, name = 3, match_units([3], planted)[0].property
    ours = np.concatenate([OF_WORDS[name](words) for words, _ in planted])
    theirs = np.corrcoef(ours, np.concatenate([units[:, unit] for _, units in planted]))[0, 1]
    assert match_units([3], planted)[0].correlation == pytest.approx(theirs)


def test_chance_is_what_noise_reaches():
    found = [match for seed in range(12) for match in find_matches(random_captions(seed))]
    above = np.mean([abs(match.correlation) > match.chance for match in found])
    assert 0 < above < 0.15


def test_a_unit_that_is_not_there():
    with pytest.raises(ValueError, match=r"there is no unit 40; this layer has units 0 to 39\."):
        match_units([40], random_captions())


def test_gradients_by_the_jacobian_written_by_hand():
    """dL/dh of a vanilla network goes back by W_hhᵀ diag(1 - h²) a step, and to the input by W_ihᵀ diag(1 - h²)."""
    model = decoder("rnn", attention="none")
    ids = tokens()
    found = gradient_norms(model, ids).numpy()
    rnn = model.below
    recurrent, inward = (weight.detach().numpy() for weight in (rnn.weight_hh_l0, rnn.weight_ih_l0))
    bias = (rnn.bias_hh_l0 + rnn.bias_ih_l0).detach().numpy()
    out, out_bias = model.output.weight.detach().numpy(), model.output.bias.detach().numpy()
    for row, caption in enumerate(ids.numpy()):
        hidden = [np.zeros(6)]
        for token in caption[:-1]:
            embedded = model.embedding.weight.detach().numpy()[token]
            hidden.append(np.tanh(inward @ embedded + recurrent @ hidden[-1] + bias))
        odds = np.exp(out @ hidden[-1] + out_bias)
        error = odds / odds.sum() - np.eye(12)[caption[-1]]
        gradient, expected = out.T @ error, []
        for h in hidden[:0:-1]:
            expected.insert(0, np.linalg.norm(inward.T @ ((1 - h**2) * gradient)))
            gradient = recurrent.T @ ((1 - h**2) * gradient)
        assert found[row] == pytest.approx(np.array(expected), rel=1e-9)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_by_finite_differences(cell):
    """Of the whole decoder, with attention and a layer above it, the photo's step included."""
    model = decoder(cell, layers_above=1)
    memory, ids = memory_of(model), tokens()
    found = gradient_norms(model, ids, memory)
    assert found.shape == (2, 6)  # the photo, BOS and four words
    embeddings, small = model.embedding.weight, 1e-5

    @torch.no_grad()
    def loss(first):
        logits, _, _ = model(ids[:, :-1], memory._replace(image=first))
        return F.cross_entropy(logits[:, -1], ids[:, -1], reduction="none")

    @torch.no_grad()
    def slope(vector: torch.Tensor, row: int) -> float:
        """Norm of the difference quotients of the caption's loss by each number of this vector, in place."""
        squares = 0.0
        for i in range(len(vector)):
            vector[i] += small
            high = loss(memory.image)[row]
            vector[i] -= 2 * small
            low = loss(memory.image)[row]
            vector[i] += small
            squares += float((high - low) / (2 * small)) ** 2
        return squares**0.5

    for row in range(2):
        expected = [slope(memory.image.data[row], row)]
        expected += [slope(embeddings.data[token], row) for token in ids[row, :-1]]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-4)


def test_gradients_leave_no_trace():
    model = decoder()
    gradient_norms(model, tokens())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.below._forward_pre_hooks


def test_the_vanishing_gradient():
    """A plain network forgets soonest, an LSTM last."""
    left = {cell: untrained_gradients(cell, 12, 2, 4, 32, 64) for cell in ("rnn", "gru", "lstm")}
    assert all(values.shape == (2, 12) for values in left.values())
    rnn, gru, lstm = ((values[:, 0] / values[:, -1]).max() for values in left.values())
    assert rnn < gru < lstm < 1


def test_gradients_of_a_trained_model(tiny, tmp_path):
    """Twenty times one caption: the mean is that caption's."""
    make_toy(tmp_path / "toy", images=10)
    captioner = Captioner.load(tiny, device="cpu")
    record = select(read_dataset(tmp_path / "toy"), "val")[0]
    captions = ["a dog sleeps on the sofa"]
    same = [type(record)(record.id, record.path, captions, record.split)] * 20
    found = trained_gradients(captioner, same)
    memory = captioner.backend.encode(captioner.preprocess(open_image(record.path))[None])
    ids = torch.tensor([[BOS, *captioner.vocabulary.encode(captions[0].split())]])
    expected = gradient_norms(captioner.backend.model.decoder, ids, type(memory)(*(part.clone() for part in memory)))
    assert len(found) == 5 and EOS not in ids
    assert found == pytest.approx(expected[0, 2:].numpy(), rel=1e-4)
    with pytest.raises(ValueError, match="fewer than 20 captions"):
        trained_gradients(captioner, same[:19])


def test_the_picture_of_units():
    captions = [WORDS, ["two", "dogs", "$x"]]
    values = [np.linspace(-0.5, 0.5, 10), np.array([0.25, -0.25, 0.0])]
    figure = units_figure(captions, [("unit 7: a title", values), ("unit 8", [row * 0 for row in values])])
    (axes,) = figure.axes
    boxes = [patch for patch in axes.patches if patch.get_height() > 0.2]
    assert len(boxes) == 2 * (10 + 3)
    faces = [box.get_facecolor()[:3] for box in boxes[:13]]
    expected = [colour(value / 0.5) for value in np.concatenate(values)]
    assert np.allclose(faces, expected)
    assert all(np.allclose(box.get_facecolor()[:3], 1) for box in boxes[13:])
    negative = units_figure([["a", "b"]], [("unit 9", [np.array([-0.5, 0.1])])]).axes[0].patches
    strongest, faint = [patch.get_facecolor()[:3] for patch in negative if patch.get_height() > 0.2]
    assert np.allclose(strongest, colour(-1)) and np.allclose(faint, colour(0.2))
    for first, second in pairwise(boxes[:10]):  # words stand side by side
        assert second.get_x() == pytest.approx(first.get_x() + first.get_width())
    assert max(box.get_x() + box.get_width() for box in boxes) < figure.get_figwidth()
    assert colour(0) == (1, 1, 1) and colour(-1)[2] > colour(-1)[0] and colour(1)[0] > colour(1)[2]
    with pytest.raises(ValueError, match="one activation for each word"):
        units_figure(captions, [("unit 7", values[:1])])


def test_the_picture_of_gradients():
    rnn = np.array([[0.02, 0.2, 2.0], [0.08, 0.4, 2.0]])
    figure = gradients_figure({"rnn": rnn, "lstm, trained": np.array([1.0, 2.0, 4.0, 10.0])})
    lines = [line.get_xydata() for line in figure.axes[0].lines]
    assert lines[0][:, 0].tolist() == [-2, -1, 0]
    assert lines[0][:, 1] == pytest.approx(np.sqrt(rnn[0] * rnn[1]) / 2)
    assert lines[1][:, 1] == pytest.approx([0.1, 0.2, 0.4, 1])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["rnn\n0.02, 2 words back", "lstm, trained\n0.1, 3 words back"]
    tiny = gradients_figure({"rnn": np.array([9.7e-6, 0.1, 1.0]), "gru": np.array([[1e-12, 1.0], [1e-10, 1.0]])})
    texts = [text.get_text() for text in tiny.axes[0].texts]
    assert texts == ["gru\n< 10⁻⁸, 1 words back", "rnn\n9.7·10⁻⁶, 2 words back"]
    assert tiny.axes[0].get_ylim()[0] > 1e-9, "what is not drawn takes no room"


def test_attend_cells(run, tiny, photos, tmp_path):
    common = ("--checkpoint", tiny, "--device", "cpu")
    for more, lines in ((("--cells",), 3), (("--cell", 5, 2, "--layer", "above", "--method", "sample"), 2)):
        output = tmp_path / f"cells{lines}.png"
        status, out, _ = run("attend", photos, "-o", output, *more, *common)
        assert status == 0 and output.stat().st_size > 3000
        *units, last = out.splitlines()
        assert len(units) == lines and last == str(output)
        assert all(line.startswith("unit ") and "by chance up to 0." in line for line in units)
        names = [line.split(":")[0] for line in units]
        assert len(set(names)) == lines, "a unit is shown once"
    assert names == ["unit 5", "unit 2"]
    status, _, err = run("attend", photos, "-o", tmp_path / "a.png", "--cell", 24, *common)
    assert status == 2 and "no unit 24" in err
    status, _, err = run("attend", photos, "-o", tmp_path / "a.gif", "--cells", *common)
    assert status == 2 and "expected a name that ends in .png, .jpg, .svg, .pdf" in err


def test_units_without_a_damaged_photo(run, tiny, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no photo")
    common = ("--cells", "--checkpoint", tiny, "--device", "cpu", "-o", tmp_path / "units.png")
    expected = run("attend", photos, *common)
    status, out, err = run("attend", tmp_path / "bad.png", photos, *common)
    assert (status, out) == (1, expected[1]) and err.count("\n") == 1 and "bad.png: not a photo" in err
    status, out, err = run("attend", tmp_path / "bad.png", *common)
    assert (status, out) == (2, "") and "none of the photos can be read" in err


def test_the_verb_gradients(run, tiny, tmp_path):
    make_toy(tmp_path / "toy", images=80)
    output = tmp_path / "gradients.svg"
    arguments = ("--data", tmp_path / "toy", "--words", 6, "--checkpoint", tiny, "--device", "cpu")
    status, out, _ = run("gradients", "-o", output, *arguments)
    assert status == 0 and output.stat().st_size > 3000
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["rnn", "gru", "lstm", "lstm,"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "toy" / "images").rename(tmp_path / "elsewhere" / "images")
    assert run("gradients", "-o", output, *arguments)[0] == 2
    elsewhere = (*arguments, "--images", tmp_path / "elsewhere")
    assert run("gradients", "-o", output, *elsewhere) == (0, out, "")
    rows = map(json.loads, (tmp_path / "toy" / "captions.jsonl").read_text().splitlines())
    (tmp_path / "elsewhere" / next(row["image"] for row in rows if row["split"] == "val")).write_bytes(b"no photo")
    status, _, err = run("gradients", "-o", output, *elsewhere)
    assert status == 1 and "photos cannot be read and are left out" in err and err.count("\n") == 2
    status, _, err = run("gradients", "-o", output, "--checkpoint", tiny)
    assert status == 2 and "Pass --data" in err
