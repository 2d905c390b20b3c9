"""The public door: from a checkpoint and photos to captions. Batch = one by one, NumPy's choice = torch's."""

import io
import json
import logging
import math
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import Captioner, Decoding, ImageError, step
from captioner.backends.torch_backend import choose_words
from captioner.checkpoint.manifest import CheckpointError
from captioner.images import find_images, open_image
from captioner.step import Choose
from captioner.vocabulary import BOS, EOS, FUNCTION_WORDS, PAD, UNK


@pytest.fixture(scope="module")
def captioner(tiny):
    return Captioner.load(tiny, device="cpu")


@pytest.fixture(scope="module")
def paths(photos):
    return find_images([photos], recursive=True)


def same(one, other):
    assert one.text == other.text
    assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
    np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)
    assert one.finished == other.finished and one.box == other.box


def test_no_content_word_comes_twice(captioner, paths):
    settings = Decoding(method="sample", num_captions=50, no_repeat_ngram=1)
    [best] = captioner.caption(paths[:1], settings)
    repeated = {
        word for caption in (best, *best.other_captions) for word in caption.words if caption.words.count(word) > 1
    }
    assert repeated and repeated <= FUNCTION_WORDS


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_batch_is_one_by_one(captioner, paths, method):
    settings = Decoding(method=method, max_length=8, seed=3)
    together = captioner.caption(paths, settings)
    assert len({caption.text for caption in together}) > 1
    for path, caption in zip(paths, together, strict=True):
        same(caption, captioner.caption(path, settings))
    for caption, piecemeal in zip(together, captioner.caption_many(iter(paths), settings, batch_size=3), strict=True):
        same(caption, piecemeal)


def test_what_a_caption_says(captioner, paths):
    caption = captioner.caption(paths[1])
    width, height = open_image(paths[1]).size
    assert caption.box == (0, 0, width, height)
    assert caption.text and str(caption) == caption.text
    assert len(caption.words) == len(caption.log_probabilities) == len(caption.attention) <= 8
    np.testing.assert_allclose(caption.attention.sum((1, 2)), 1, atol=1e-5)
    assert caption.finished == (caption.log_probability < sum(caption.log_probabilities))
    n_best = captioner.caption(paths[1], beam_size=4, num_captions=4)
    assert len(n_best.other_captions) == 3
    scores = [n_best.score, *(other.score for other in n_best.other_captions)]
    assert scores == sorted(scores, reverse=True)
    assert len({n_best.text, *(other.text for other in n_best.other_captions)}) == 4
    runners_up = captioner.caption(paths[1], alternatives=3)
    assert [len(step) for step in runners_up.alternatives] == [3] * len(runners_up.words)
    assert captioner.caption(paths[1]).alternatives is not None, "for a notebook to show"
    assert next(captioner.caption_many(paths)).alternatives is None, "many are not looked at one by one"


def test_a_caption_of_someone_else_is_read(captioner, paths):
    """Its own captions read again are the same; of a word that it does not know it has the probability of UNK."""
    best = captioner.caption(paths[1], num_captions=2)
    captions = [best, *best.other_captions]
    for found, read in zip(captions, captioner.read(paths[1], [each.text for each in captions]), strict=True):
        assert read.words == found.words and read.photo == paths[1] and read.box == found.box
        assert read.log_probabilities == pytest.approx(found.log_probabilities, abs=1e-5) and read.finished
        if found.finished:
            assert read.log_probability == pytest.approx(found.log_probability, abs=1e-5)
        np.testing.assert_allclose(read.attention, found.attention, atol=1e-5)
    strange = captioner.read(paths[1], "A dog on a trampoline!")
    assert strange.text == "A dog on a trampoline!" and strange.words == ["a", "dog", "on", "a", "<unk>"]
    other = captioner.read(paths[1], "A dog on a <eos>")
    assert other.words == strange.words and len(repr(other)) < 400
    assert other.log_probabilities == strange.log_probabilities and len(strange.alternatives) == 5
    for wrong in ([], " ... ", ["a dog", "!"]):
        with pytest.raises(ValueError, match="each with words"):
            captioner.read(paths[1], wrong)


def test_log_probabilities_are_those_of_the_model(captioner, paths):
    """Two roads: the search, word by word, and the caption fed whole."""
    caption = captioner.caption(paths[0], beam_size=1)
    model = captioner.backend.model
    memory = captioner.backend.encode(captioner.preprocess(open_image(paths[0]))[None])
    words = captioner.vocabulary.encode(caption.words)
    with torch.inference_mode():
        logits, attention, _ = model.decoder(torch.tensor([[BOS, *words]]), memory)
    steps = logits[0].log_softmax(-1)
    ours = [steps[t, word].item() for t, word in enumerate(words)]
    assert caption.log_probabilities == pytest.approx(ours, abs=1e-5)
    end = steps[len(words), EOS].item() if caption.finished else 0
    assert caption.log_probability == pytest.approx(sum(ours) + end, abs=1e-5)
    np.testing.assert_allclose(caption.attention.reshape(len(words), -1), attention[0, : len(words)], atol=1e-5)


def test_photos_of_every_kind(captioner, paths):
    path = paths[0]
    image = open_image(path)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    first = captioner.caption(path)
    for source in (str(path), image, np.asarray(image), path.read_bytes(), io.BytesIO(path.read_bytes())):
        same(first, captioner.caption(source))
    assert captioner.caption([]) == []


def test_a_bad_photo_spoils_nothing_else(captioner, paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    results = list(captioner.caption_many([paths[0], bad, paths[1], tmp_path / "absent.jpg"], batch_size=2))
    assert [isinstance(result, ImageError) for result in results] == [False, True, False, True]
    same(results[2], captioner.caption(paths[1]))
    assert len(list(captioner.caption_many([bad, bad]))) == 2
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        captioner.caption([paths[0], bad])


def test_a_model_without_attention(captioner, tiny):
    from captioner.backends.torch_backend import TorchBackend
    from captioner.model import build_model

    config = replace(captioner.config, attention="none")
    model = build_model(config, len(captioner.vocabulary), weights=None)
    plain = Captioner(TorchBackend(model, torch.device("cpu")), captioner.vocabulary, captioner.preprocess, config)
    caption = plain.caption(Image.new("RGB", (40, 30), "red"))
    assert caption.attention is None and caption.text


def logits_and_uniforms():
    random = np.random.default_rng(0)
    return (2 * random.standard_normal((6, 40))).astype(np.float32), random.random((6, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"suppressed": (PAD, BOS, UNK, EOS)},
        {"banned": np.array([[5, 6], [7, 0], [0, 0], [1, 2], [30, 31], [39, 38]])},
        {"alternatives": 4},
        {"wanted": np.arange(12).reshape(6, 2)},
        {"uniforms": True},
        {"uniforms": True, "temperature": 0.5},
        {"uniforms": True, "top_k": 3},
        {"uniforms": True, "top_p": 0.6, "temperature": 2.0},
        {"uniforms": True, "suppressed": (PAD, BOS, UNK), "top_k": 10, "top_p": 0.8},
    ],
)
def test_torch_chooses_as_numpy_does(settings):
    logits, uniforms = logits_and_uniforms()
    if settings.get("uniforms"):
        settings = settings | {"uniforms": uniforms}
    choose = Choose(count=5, **settings)
    ours = choose_words(torch.from_numpy(logits.copy()), choose)
    theirs = step.choose_words(logits, choose)
    np.testing.assert_array_equal(ours.words, theirs.words)
    np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=1e-5)
    if "alternatives" in settings:
        for a, b in zip(ours.alternatives, theirs.alternatives, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_sampling_draws_what_the_model_believes(captioner, paths):
    """The first word of 4,000 samples of one photo against the model's own distribution."""
    memory = captioner.backend.encode(captioner.preprocess(open_image(paths[0]))[None])
    uniforms = np.random.default_rng(0).random((1, 4000))
    choose = Choose(uniforms=uniforms)
    first = np.zeros(1, int)
    choices, _ = captioner.backend.step(memory)(np.array([BOS]), first, None, first, choose)
    drawn = choices.words[0]
    with torch.inference_mode():
        logits, _, _ = captioner.backend.model.decoder(torch.tensor([[BOS]]), memory)
    expected = logits[0, 0].softmax(-1).numpy()
    observed = np.bincount(drawn, minlength=len(expected)) / 4000
    assert np.abs(observed - expected).max() < 4 * math.sqrt(0.25 / 4000)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda saved: saved.pop("vocabulary"), "no entry 'vocabulary'"),
        (lambda saved: saved["model"].update(wings=2), "unexpected keyword argument 'wings'"),
        (lambda saved: saved.update(preprocess=None), "NoneType"),
        (lambda saved: saved["decoding"].update(beam_size=0), "beam_size is 0; expected at least 1"),
    ],
)
def test_a_config_that_describes_no_model(tiny, tmp_path, damage, reason):
    directory = shutil.copytree(tiny, tmp_path / "model")
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    damage(saved)
    (directory / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"config\.json describes no model \(.*{reason}"):
        Captioner.load(directory)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_pickled_captioner_captions_as_before(backend, photos, caplog):
    with caplog.at_level(logging.INFO, "captioner"):
        captioner = Captioner.load(backend=backend, device="cpu")
    where = {"torch": "torch on cpu", "onnx": "the ONNX runtime on cpu"}[backend]
    assert caplog.messages == [f"{captioner.provenance} runs with {where}"]
    assert repr(captioner) == f"<Captioner {captioner.provenance}; {where}>"
    again = pickle.loads(pickle.dumps(captioner))
    assert again.caption(photos / "b.jpg").to_dict() == captioner.caption(photos / "b.jpg").to_dict()
