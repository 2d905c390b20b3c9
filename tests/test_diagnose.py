"""The diagnosis: a healthy model passes, and a model that is broken on purpose is told what is wrong with it. The
healthy one learns the toy world, over the CNN of the shipped model, in some seconds."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from captioner.captioner import Captioner
from captioner.checkpoint.manifest import find_checkpoint
from captioner.cli import main
from captioner.config import ModelConfig
from captioner.data.datasets import collate, encode_captions
from captioner.data.readers import read_dataset, select
from captioner.data.toy import make_toy
from captioner.diagnose import checks, diagnose, measure
from captioner.metrics.attention import attention_statistics
from captioner.metrics.habits import repeats
from captioner.training.config import TrainConfig
from captioner.training.train import train
from captioner.vocabulary import EOS, PAD, Vocabulary, tokenize

FLICKR8K = str(find_checkpoint("flickr8k"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("diagnose") / "toy"
    make_toy(root, images=300)
    return root


@pytest.fixture(scope="module")
def records(data):
    return select(read_dataset(data), "val")


@pytest.fixture(scope="module")
def checkpoint(data):
    model = ModelConfig(hidden_size=96, embedding_size=64, layers_above=0, dropout=0)
    settings = TrainConfig(
        (data,), data.parent / "run", model, weights=FLICKR8K, stages=("decoder:5",), learning_rate=4e-3,
        batch_size=8, image_size=96, workers=0, device="cpu", label_smoothing=0.0,
    )  # fmt: skip
    return train(settings)


@pytest.fixture(scope="module")
def healthy(checkpoint):
    return Captioner.load(checkpoint, device="cpu")


@pytest.fixture
def patient(healthy):
    """A copy, to be broken."""
    return copy.deepcopy(healthy)


def encoded(captioner, records):
    with torch.inference_mode():
        return measure.encode(captioner, records, "photos")


def captions_of(captioner, records):
    with torch.inference_mode():
        return measure.free_captions(captioner, encoded(captioner, records))


@torch.inference_mode()
def look_at_photo(captioner, records):
    features = measure.encode(captioner, records, "photos")
    losses = measure.teacher_forced(captioner, records, features)
    return checks.looks_at_photo(*measure.shuffled_losses(captioner, records, features), losses)


@torch.inference_mode()
def look_at_preprocessing(captioner, records):
    records = records[:10]
    encoder = captioner.backend.model.encoder
    return checks.preprocessing(captioner.preprocess, encoder, measure.losses_of_views(captioner, records))


@torch.inference_mode()
def look_at_batch_norm(captioner, records):
    return checks.batch_norm(*measure.batch_norm_drift(captioner, records))


def test_a_healthy_model_passes(checkpoint, data, monkeypatch, capsys):
    arguments = ["--data", str(data), "--limit", "20", "--json", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["captioner", "diagnose", str(checkpoint), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    entry = json.loads(capsys.readouterr().out)
    verdicts = {finding["name"]: finding["verdict"] for finding in entry["findings"]}
    assert set(verdicts.values()) == {"good"} and len(verdicts) == 12, entry
    assert entry["photos"] == 20 and not any(finding["advice"] for finding in entry["findings"])


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [([9, 3, 8, 4], "skipped"), ([3], "skipped"), ([6, 6, 6, 6.5], "good"), ([3.1, 3, 3, 3.1], "bad")],
)
def test_too_few_photos_to_tell_whether_it_looks(wrong, verdict):
    def losses(nats):
        return measure.Losses(np.array(nats, float), np.full(len(nats), 10))

    right = losses([3] * len(wrong))
    assert checks.looks_at_photo(losses(wrong), right, right).verdict == verdict


def test_photos_elsewhere_one_of_them_damaged(tiny, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data, tmp_path / "photos", ignore=shutil.ignore_patterns("*.jsonl"))
    (tmp_path / "data").mkdir()
    shutil.copy(data / "captions.jsonl", tmp_path / "data")
    rows = map(json.loads, (data / "captions.jsonl").read_text().splitlines())
    (tmp_path / "photos" / next(row["image"] for row in rows if row["split"] == "val")).write_bytes(b"no photo")
    given = []
    monkeypatch.setattr("captioner.diagnose.diagnose", lambda _, *records: given.extend(records) or [GOOD])
    arguments = ["--data", str(tmp_path / "data"), "--images", str(tmp_path / "photos"), "--limit", "8"]
    monkeypatch.setattr("sys.argv", ["captioner", "diagnose", str(tiny), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1 and [len(records) for records in given] == [7, 8]
    assert capsys.readouterr().err.endswith("captioner: 1 of 8 photos cannot be read and are left out.\n")


GOOD = checks.Finding("one", "1 %", "good")


def test_the_table(tiny, data, monkeypatch, capsys):
    found = [checks.Finding("one", "1 %", "good"), checks.Finding("another", "2 %", "bad", "Try this.")]
    monkeypatch.setattr("captioner.diagnose.diagnose", lambda *_: found)
    monkeypatch.setattr("sys.argv", ["captioner", "diagnose", str(tiny), "--data", str(data)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    _, _, one, another, advice, _, counts = capsys.readouterr().out.splitlines()
    assert one == "good    one      1 %" and another == "BAD     another  2 %"
    assert advice.strip() == "-> Try this." and counts == "1 bad, 0 to look at, 1 good."


def test_an_untrained_model(tiny, records):
    found = {finding.name: finding for finding in diagnose(Captioner.load(tiny, device="cpu"), records)}
    assert found["has learned"].verdict == "bad" and "Train longer" in found["has learned"].advice
    assert found["unknown words"].verdict == "bad" and "circle" in found["unknown words"].figure
    assert found["looks at the photo"].verdict == "bad"
    assert found["over-fitting"].verdict == found["batch norm"].verdict == "skipped"  # no training photos; SqueezeNet


def test_one_that_does_not_look(patient, records):
    decoder = patient.backend.model.decoder
    for parameter in (*decoder.first.parameters(), decoder.combine.weight[:, : decoder.attention.value_size]):
        parameter.data.zero_()
    assert look_at_photo(patient, records).verdict == "bad"
    words = [caption.words for caption in captions_of(patient, records)]
    assert checks.distinct(words).verdict == checks.same_caption(words).verdict == "bad"
    assert f"for {len(records)} of {len(records)} photos" in checks.same_caption(words).figure


def test_photos_of_other_captions(patient, records):
    """Nothing is wrong with the model: its data pairs each photo with another's captions."""
    wrong = [replace(record, path=other.path) for record, other in zip(records, records[1:] + records[:1], strict=True)]
    assert look_at_photo(patient, wrong).verdict == "bad"


def test_preprocessing_unlike_training(patient, records):
    assert look_at_preprocessing(patient, records).verdict == "good"
    patient.preprocess = replace(patient.preprocess, mean=(0, 0, 0), std=(1, 1, 1))
    finding = look_at_preprocessing(patient, records)
    assert finding.verdict == "bad" and "as the CNN's weights expect" in finding.figure


def test_channels_the_other_way_round(patient, records):
    first = patient.backend.model.encoder.features[0][0].weight
    first.data = first.data.flip(1)
    finding = look_at_preprocessing(patient, records)
    assert finding.verdict == "bad" and "red and blue swapped" in finding.figure


def test_another_mean_that_does_no_harm(patient, records):
    """It does not look at the photo, so no way of seeing is better; but the checkpoint says what the CNN does not."""
    decoder = patient.backend.model.decoder
    decoder.first.weight.data.zero_()
    decoder.combine.weight.data[:, : decoder.attention.value_size] = 0
    patient.preprocess = replace(patient.preprocess, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert look_at_preprocessing(patient, records).verdict in ("look", "skipped")


def test_batch_norm_that_drifted(patient, records):
    before = copy.deepcopy(patient.backend.model.state_dict())
    assert look_at_batch_norm(patient, records).verdict == "good"
    for name, tensor in patient.backend.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"the diagnosis changed {name}"
    layers = [m for m in patient.backend.model.encoder.modules() if isinstance(m, _BatchNorm)]
    for layer in layers:
        layer.running_mean.zero_()
        layer.running_var.fill_(1)
    finding = look_at_batch_norm(patient, records)
    assert finding.verdict == "bad" and "pretrained" in finding.advice


def test_words_that_it_cannot_say(patient, records):
    references = [tokenize(text) for record in records for text in record.captions]
    assert checks.unknown_words(references, patient.vocabulary).verdict == "good"
    words = [word if word != "circle" else "disk" for word in patient.vocabulary.words]
    finding = checks.unknown_words(references, Vocabulary(words))
    assert finding.verdict != "good" and "circle" in finding.figure


def test_captions_that_are_cut(patient, records):
    patient.decoding = replace(patient.decoding, max_length=4)
    captions = captions_of(patient, records)
    assert checks.unfinished(captions).verdict == "bad"
    references = [tokenize(text) for record in records for text in record.captions]
    assert checks.endings([caption.words for caption in captions], references).verdict == "bad"


def test_one_that_repeats_itself(patient, records):
    patient.backend.model.decoder.output.bias.data[patient.vocabulary.encode(["red"])[0]] += 30
    words = [caption.words for caption in captions_of(patient, records)]
    references = [tokenize(text) for record in records for text in record.captions]
    finding = checks.repetition(words, references)
    assert finding.verdict == "bad" and "--no-repeat-ngram 3" in finding.advice
    assert repeats(["a", "dog", "and", "a", "dog", "and", "a", "cat"]) and not repeats(["a", "dog", "on", "a", "dog"])


def test_attention_that_looks_at_nothing(patient, records):
    patient.backend.model.decoder.attention.key.weight.data.zero_()
    finding = checks.attention([caption.attention_statistics for caption in captions_of(patient, records)])
    assert finding.verdict == "bad" and "the attention is uniform" in finding.advice


def test_attention_that_looks_at_one_thing(patient, records):
    """The layer below forgets at each step whatever it was told, so that all words ask alike."""
    decoder = patient.backend.model.decoder
    for name, parameter in decoder.below.named_parameters():
        if name.startswith("weight"):
            parameter.data.zero_()
        else:
            parameter.data.chunk(4)[1].fill_(-30)  # the forget gate
    decoder.attention.key.weight.data *= 100
    finding = checks.attention([caption.attention_statistics for caption in captions_of(patient, records)])
    assert finding.verdict == "bad" and "the attention has collapsed" in finding.advice, finding


def test_of_two_warnings_the_more_frequent_is_told_with_its_share():
    looks = [
        attention_statistics(maps) for maps in (np.full((2, 4), 0.25), np.tile([1.0, 0, 0, 0], (2, 1)), np.eye(4)[:2])
    ]
    finding = checks.attention([looks[i] for i in (0, 0, 0, 1, 1, 2, 2, 2, 2, 2)])
    assert "In 30% of captions the attention is uniform" in finding.advice and finding.values["warnings"] == 0.5


def test_captions_known_by_heart(patient, records, data):
    """Trained on with a dozen photos, under captions of others, until it knows them."""
    training = select(read_dataset(data), "train")[:12]
    training = [replace(record, captions=other.captions) for record, other in zip(training, records, strict=False)]
    decoder = patient.backend.model.decoder
    tokens = encode_captions(training, patient.vocabulary, 40)
    features = [(pooled.numpy(), grid.numpy()) for pooled, grid in zip(*encoded(patient, training), strict=True)]
    batch = collate([(seen, said, 0) for seen, said in zip(features, tokens, strict=True)])
    real = batch.targets != PAD
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(100):
        logits, _, _ = decoder(batch.inputs, decoder.prepare(batch.images), real=real)
        loss = torch.nn.functional.cross_entropy(logits, batch.targets[real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        known, new = (measure.teacher_forced(patient, rows, encoded(patient, rows)) for rows in (training, records))
    references = [tokenize(text) for record in records for text in record.captions]
    finding = checks.overfitting(new, known, checks.unigram_entropy(references, patient.vocabulary))
    assert finding.verdict == "bad" and "best/" in finding.advice, finding


def test_one_fault_in_a_few_dozen_proves_nothing():
    good, bad = ["a", "dog", "runs"], ["a", "dog", "with"]
    assert checks.endings([bad] + [good] * 39, [good]).verdict == "good"
    assert checks.endings([bad] * 40 + [good] * 960, [good]).verdict == "look"
    assert checks.endings([bad] * 40 + [good] * 960, [bad] * 4 + [good] * 96).verdict == "good", "people end so, too"


def test_too_few_photos(healthy, records):
    with pytest.raises(ValueError, match="1 photos; expected at least two"):
        diagnose(healthy, records[:1])


def test_unigram_entropy():
    """Of two words as frequent as the end: log 3."""
    assert checks.unigram_entropy([["a", "b"]] * 5, Vocabulary(["a", "b"])) == pytest.approx(1.0986, abs=1e-4)
    assert EOS not in Vocabulary(["a", "b"]).encode(["a", "b"])
