"""The JSON of a checkpoint may come from anyone: wrong types, deep nesting and huge numbers end in one short line."""

import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from captioner import Captioner, Decoding
from captioner.checkpoint.manifest import CheckpointError, find_checkpoint, parse_json
from captioner.config import ModelConfig
from captioner.images import Preprocess
from captioner.vocabulary import Vocabulary

pytest.importorskip("torch")  # so that no test waits for its import
DIGITS = "1" * 400
CONFIDENCE = json.loads((find_checkpoint("everyday") / "config.json").read_text(encoding="utf-8"))["confidence"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    return shutil.copytree(find_checkpoint("flickr8k"), tmp_path_factory.mktemp("bounds") / "model")


def refusal(directory: Path, text: str) -> str:
    """The errors about a checkpoint with this config.json, one per backend."""
    (directory / "config.json").write_text(text, encoding="utf-8")
    found = []
    for backend in ("onnx", "torch"):
        start = time.process_time()
        with pytest.raises(CheckpointError) as caught:
            Captioner.load(directory, backend=backend)
        assert time.process_time() - start < 5  # a tenth of a second on an idle machine
        found.append(str(caught.value))
        assert "model" in found[-1] and "\n" not in found[-1] and len(found[-1]) < 600
    return "\n".join(found)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("[" * 100_000, "more than 100 levels"),
        ('{"model":' * 150 + "1" + "}" * 150, "more than 100 levels"),
        (f'{{"model": {DIGITS}}}', "a number of 400 digits"),
        ('{"model": ' + "1" * 10_000 + "}", "a number of 10000 digits"),
        ('{"model": {}, "model": {}}', "it has 'model' twice"),
        ("[]", "holds a list, expected a JSON object"),
        ('"a"', "holds a str"),
        ("", "is not JSON"),
    ],
)
def test_hostile_json_is_refused(copy, text, complaint):
    assert complaint in refusal(copy, text)


def test_a_huge_json_is_not_read(copy):
    path = copy / "config.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no space on the disk
    with pytest.raises(CheckpointError, match="has 1,000,000,000,000 bytes; expected at most 32,000,000"):
        Captioner.load(copy)


@pytest.mark.parametrize(
    "entry, name, value, complaint",
    [
        ("model", "hidden_size", "512", "hidden_size is '512'; expected a whole number"),
        ("model", "hidden_size", 10**30, "expected 1 to 65,536"),
        ("model", "layers_below", True, "layers_below is True; expected a whole number"),
        ("model", "layers_below", 0, "expected 1 to 100"),
        ("model", "cell", ["lstm"], "expected text"),
        ("model", "attention", "additive", "expected one of: general"),
        ("model", "encoder", None, "encoder is None; expected text"),
        ("model", "dropout", float("nan"), "dropout is nan; expected 0 to 1"),
        ("model", "feature_dropout", 1.5, "feature_dropout is 1.5; expected 0 to 1"),
        ("model", "more", 1, "unexpected keyword argument 'more'"),
        ("preprocess", "size", 10**9, "expected a whole number, 1 to 4,096"),
        ("preprocess", "size", 224.5, "size is 224.5; expected a whole number"),
        ("preprocess", "mean", ["a", "b", "c"], "mean is"),
        ("preprocess", "mean", 5, "mean is 5; expected 3 numbers"),
        ("preprocess", "std", [float("inf")] * 3, "expected 3 numbers"),
        ("preprocess", "std", [10**39] * 3, "expected 3 numbers"),
        ("decoding", "beam_size", 10**30, "expected at least 1 and at most 10,000"),
        ("decoding", "beam_size", "3", "expected a whole number"),
        ("decoding", "max_length", 10**9, "at most 1,000"),
        ("decoding", "length_penalty", 10**39, "at most 10"),
        ("decoding", "length_penalty", float("nan"), "length_penalty is nan"),
        ("decoding", "num_captions", 10**9, "at most 100,000"),
        ("decoding", "seed", 10**39, "at most"),
        *(
            ("confidence", name, value, "the confidence is not made of numbers")
            for name in ("bias", "bar")
            for value in (float("nan"), float("inf"), True, "0", 1e7)
        ),
        ("confidence", "direction", "AADAfw==", "the confidence is not made of numbers"),
        ("confidence", "weights", {"weakest": 1}, "no entry 'total'"),
    ],
)
def test_settings_of_wrong_type_or_size_are_named(copy, entry, name, value, complaint):
    config = json.loads((find_checkpoint("flickr8k") / "config.json").read_text(encoding="utf-8"))
    config.setdefault("confidence", {**CONFIDENCE})
    config[entry][name] = value
    assert complaint in refusal(copy, json.dumps(config))


@pytest.mark.parametrize("name", ["training", "scores"])
@pytest.mark.parametrize("value", [1, "text", [1]], ids=str)
def test_what_is_told_of_a_model_is_an_object(copy, name, value):
    config = json.loads((find_checkpoint("flickr8k") / "config.json").read_text(encoding="utf-8"))
    assert f"{name} is {value!r}; expected a JSON object" in refusal(copy, json.dumps(config | {name: value}))


def test_words_that_are_not_text(copy):
    config = json.loads((find_checkpoint("flickr8k") / "config.json").read_text(encoding="utf-8"))
    config["vocabulary"][0] = "\ud800"
    assert "the vocabulary has a lone surrogate" in refusal(copy, json.dumps(config))


def test_a_confidence_of_another_model(copy):
    confidence = CONFIDENCE | {"direction": "AAAAAA=="}
    config = json.loads((find_checkpoint("flickr8k") / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"confidence": confidence}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"fitted to 1 features, but this model has .* captioner calibrate\.$"):
        Captioner.load(copy, backend="onnx").caption(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize("entry", ["model", "preprocess", "decoding", "vocabulary", "weights"])
@pytest.mark.parametrize("value", [None, 1, "text", [], [[]], [1], {"a": {}}], ids=str)
def test_entries_of_any_type_end_in_one_line(copy, entry, value):
    config = json.loads((find_checkpoint("flickr8k") / "config.json").read_text(encoding="utf-8"))
    refusal(copy, json.dumps(config | {entry: value}))


def test_bounds_hold_in_python_too():
    for settings in ({"max_length": 1001}, {"max_length": 10**9}, {"alternatives": 10**6}, {"no_repeat_ngram": 10**6}):
        with pytest.raises(ValueError, match="at most 1,000"):
            Decoding(**settings)
    for make, value in ((ModelConfig.from_dict, {"cell": 1}), (Preprocess, "224"), (Vocabulary, ["a", 3])):
        with pytest.raises(ValueError, match="expected"):
            make(value)
    assert parse_json('{"a": [1, 2.5, 1e3, null]}') == {"a": [1, 2.5, 1000.0, None]}
    assert parse_json("1" * 39) == int("1" * 39)  # the state of a random generator has 128 bits
