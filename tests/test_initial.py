"""A run that begins with a checkpoint: what is kept, word by word, and what is new."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint, save_checkpoint
from captioner.cli import main
from captioner.config import ModelConfig, RecurrentConfig
from captioner.data.readers import read_dataset
from captioner.decoder import Decoder
from captioner.decoding import Decoding
from captioner.language_model import LanguageModel
from captioner.model import build_language_model
from captioner.training.caption_run import build_captioner
from captioner.training.config import PretrainConfig, TrainConfig
from captioner.training.initial import WORDS as OF_WORDS
from captioner.training.initial import Initial
from captioner.training.text_run import build, read_texts
from captioner.vocabulary import SPECIALS, Vocabulary

SIZES = {"embedding_size": 16, "hidden_size": 24}
WORDS = ["the", "dog", "zebra", "a"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = [("train", "a dog sleeps on the moon"), ("train", "the moon"), ("val", "a dog"), ("val", "a cat")]
    for i, (split, caption) in enumerate(rows):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows[i] = {"image": f"{i}.png", "split": split, "captions": [caption]}
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    torch.manual_seed(5)
    vocabulary, config = Vocabulary(WORDS), RecurrentConfig(**SIZES)
    model = LanguageModel(build_language_model(config, len(vocabulary)), vocabulary, config, "word", "line")
    directory = tmp_path_factory.mktemp("text") / "best"
    save_checkpoint(directory, model.decoder.state_dict(), model.to_config(), "A model.\n", half=False)
    return directory


def settings(data, output, init, **changes) -> TrainConfig:
    config = TrainConfig(
        (data,), output, ModelConfig("squeezenet1_1", **SIZES), weights="none", init=init, stages=("decoder:1",),
        min_count=1, image_size=64, workers=0, device="cpu", decoding=Decoding(beam_size=1, max_length=5),
    )  # fmt: skip
    return replace(config, **changes)


def captioner(config: TrainConfig) -> Captioner:
    return build_captioner(config, [record for record in read_dataset(*config.data) if record.split == "train"])


def rows_of(decoder, vocabulary, words) -> list[torch.Tensor]:
    ids = [*range(len(SPECIALS)), *vocabulary.encode(words)]
    return [decoder.embedding.weight[ids], decoder.output.weight[ids], decoder.output.bias[ids]]


def test_a_captioner_from_a_language_model(data, text_model, tmp_path, capsys):
    made, model = captioner(settings(data, tmp_path / "run", text_model)), LanguageModel.load(text_model, "cpu")
    assert set(made.vocabulary.words) == {"a", "dog", "sleeps", "on", "the", "moon"}
    shared = ["the", "dog", "a"]
    kept = rows_of(made.model.decoder, made.vocabulary, shared)
    assert all(map(torch.equal, kept, rows_of(model.decoder, model.vocabulary, shared)))
    for name, tensor in model.decoder.state_dict().items():
        if name.startswith(("below", "above")):
            assert torch.equal(made.model.decoder.get_parameter(name), tensor)
    out = capsys.readouterr().out
    assert f"init    {text_model}, a language model: 3 words kept, 3 new, such as moon, on, sleeps\n" in out
    assert "at random: attention, combine, first\n" in out


def test_a_captioner_from_a_captioner(data, tiny, tmp_path, capsys):
    """All of it is kept, words that the new captions lack included, and its preprocessing."""
    made, old = captioner(settings(data, tmp_path / "run", tiny, image_size=0)), Captioner.load(tiny, "cpu", "torch")
    assert made.preprocess == old.preprocess
    assert set(made.vocabulary.words) == {*old.vocabulary.words, "moon"}
    ours, theirs = made.model.state_dict(), old.model.state_dict()
    for name in theirs:
        if ours[name].shape == theirs[name].shape:
            assert torch.equal(ours[name], theirs[name]), name
    words = old.vocabulary.words
    kept = rows_of(made.model.decoder, made.vocabulary, words)
    assert all(map(torch.equal, kept, rows_of(old.model.decoder, old.vocabulary, words)))
    assert f"init    {tiny}, a captioner: 13 words kept, 1 new, such as moon\n" in capsys.readouterr().out


@pytest.mark.parametrize("tied", [True, False])
def test_new_words_are_no_more_likely_than_those_known(tied):
    """A decoder with small rows and low biases, as training leaves them, and ten new words."""
    torch.manual_seed(0)
    config = ModelConfig("squeezenet1_1", embedding_size=32, hidden_size=32, tie_embeddings=tied)
    old, made = (Decoder(4 + words, 5, 4, embedding_size=32, hidden_size=32, tie_embeddings=tied) for words in (40, 50))
    names = [f"w{number}" for number in range(50)]
    tensors = {name: tensor * 0.1 for name, tensor in old.state_dict().items()}
    bias = "bias" if tied else "output.bias"
    tensors[bias] = torch.linspace(-2, -1, 44)
    tensors["embedding.weight"] += 0.3
    saved = {"model": asdict(config), "vocabulary": names[:40]}
    Initial(Path("old"), tensors, saved).place(made, Vocabulary(names), config)
    for name, tensor in made.state_dict().items():
        if name == bias:
            assert (tensor[44:] == tensor[4:44].min()).all()
        elif name in OF_WORDS:
            known, new = tensor[4:44], tensor[44:]
            assert torch.allclose(new.mean(), known.mean(), atol=0.05)
            assert torch.allclose(new.std(), known.std(), rtol=0.2)
            assert (new != new[0])[1:].any(1).all()  # each word has a row of its own


def test_over_another_cnn_what_reads_photos_is_new(data, tiny, tmp_path, capsys):
    config = settings(data, tmp_path / "run", tiny)
    made = captioner(replace(config, model=replace(config.model, encoder="squeezenet1_0")))
    old = load_checkpoint(tiny)[0]
    assert not torch.equal(made.model.decoder.attention.key.weight, old["decoder.attention.key.weight"])
    assert torch.equal(made.model.decoder.below.weight_hh_l0, old["decoder.below.weight_hh_l0"])
    assert "at random: attention, combine, first\n" in capsys.readouterr().out


def test_a_language_model_from_a_captioner(tiny, tmp_path):
    (tmp_path / "text.txt").write_text("a dog\nthe moon\n" * 20)
    config = PretrainConfig((tmp_path / "text.txt",), tmp_path / "run", init=tiny, model=RecurrentConfig(**SIZES))
    made, old = build(config, read_texts(config)[0]), Captioner.load(tiny, "cpu", "torch")
    assert torch.equal(made.decoder.below.weight_hh_l0, old.model.decoder.below.weight_hh_l0)
    with pytest.raises(ValueError, match="is a word model; expected a character model"):
        build(replace(config, level="character"), read_texts(config)[0])


def test_other_sizes_are_an_error(data, text_model, tmp_path):
    config = settings(data, tmp_path / "run", text_model)
    with pytest.raises(ValueError, match=r"trained with --model.hidden-size 24; here it is 9\. Pass"):
        captioner(replace(config, model=replace(config.model, hidden_size=9)))


def test_the_command_line_takes_the_architecture_of_the_checkpoint(data, tiny, tmp_path, monkeypatch):
    """And what is given beside it."""
    given = ["--init", tiny, "--stages", "decoder:1", "--min-count", "1", "--model.dropout", "0", "--workers", "0"]
    arguments = ["captioner", "train", "--data", data, "--output", tmp_path / "run", "--device", "cpu", *given]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    _, saved = load_checkpoint(tmp_path / "run" / "best")
    old = load_checkpoint(tiny)[1]
    assert saved["model"] == old["model"] | {"dropout": 0.0} and saved["preprocess"] == old["preprocess"]
    assert saved["training"]["settings"]["init"] == "tiny"
