"""scripts/match_sentences.py, with a bag of words in place of the sentence encoder."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from captioner import Captioner
from captioner.data.readers import read_dataset

WORDS = "a the dog cat ball runs sleeps on under grass sofa and".split()  # noqa: SIM905
CAPTIONS = {
    "a.jpg": ("train", ["a dog runs on grass", "the dog and a ball"]),
    "b.jpg": ("train", ["a cat sleeps on the sofa"]),
    "c.jpg": ("train", ["dog under the sofa"]),
    "d.jpg": ("val", ["a dog on the grass"]),
}
SENTENCES = """The dog runs on the grass.
A dog runs on grass.
A dog and a cat
the cat sleeps under the sofa
A cat sleeps on a sofa.

the ball and the dog
A dog on the grass.
a dog under a sofa
the ball runs under the sofa
the dog sleeps on the sofa
The cat sleeps under the sofa.
"""


def embed(sentences: list[str]) -> np.ndarray:
    counts = np.array([[Counter(each.lower().rstrip(".").split())[word] for word in WORDS] for each in sentences])
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("match_sentences")


@pytest.fixture
def match(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path, photos: Path) -> Any:
    """Runs the script; returns the captions of each photo as the package reads them."""
    monkeypatch.setattr(script, "load_encoder", lambda name: embed)
    data, sentences = tmp_path / "data", tmp_path / "sentences.txt"
    (data / "images").mkdir(parents=True)
    sentences.write_text(SENTENCES, encoding="utf-8")
    rows = [{"image": name, "captions": texts, "split": split} for name, (split, texts) in CAPTIONS.items()]
    for row, photo in zip(rows, sorted(photos.rglob("*.*")), strict=True):
        shutil.copy(photo, data / "images" / str(row["image"]))
    (data / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def match(output: str, **settings: Any) -> dict[str, tuple[str, list[str]]]:
        script.main(script.Arguments(data, sentences, tmp_path / output, checkpoint=str(tiny), **settings))
        records = read_dataset(tmp_path / output)
        assert all(record.path.samefile(data / "images" / record.path.name) for record in records)
        return {record.path.name: (record.split, list(record.captions)) for record in records}

    return match


def by_hand(tiny: Path, folder: Path, similarity: float, gain: float, keep: int) -> dict[str, tuple[str, list[str]]]:
    """The rules, one photo and one sentence at a time. The random photos are all training photos."""
    captioner = Captioner.load(tiny)
    train = [name for name, (split, _) in CAPTIONS.items() if split == "train"]

    @cache
    def log_probability(name: str, sentence: str) -> float:
        return captioner.read(folder / name, sentence).log_probability

    expected = {}
    for name, (split, own) in CAPTIONS.items():
        ranked = []
        for sentence in SENTENCES.splitlines() if split == "train" else ():
            words = sentence.lower().rstrip(".")
            if words in ["", "a dog on the grass", *own] or sentence == "the cat sleeps under the sofa":  # comes twice
                continue
            nearest = max(float(embed([sentence])[0] @ embed([caption])[0]) for caption in own)
            mean = sum(log_probability(other, sentence) for other in train) / len(train)
            gained = (log_probability(name, sentence) - mean) / (len(words.split()) + 1)
            if nearest >= similarity and gained >= gain:
                ranked.append((nearest + 0.35 * gained, sentence))
        expected[name] = split, own + [sentence for _, sentence in sorted(ranked, reverse=True)[:keep]]
    return expected


@pytest.mark.parametrize("similarity, gain, keep", [(0.61, -10.0, 9), (0.0, 0.0, 9), (0.51, -0.02, 2)])
def test_the_rules(match: Any, tiny: Path, tmp_path: Path, similarity: float, gain: float, keep: int) -> None:
    found = match("out", similarity=similarity, gain=gain, keep=keep)
    assert found == by_hand(tiny, tmp_path / "data" / "images", similarity, gain, keep)
    assert found["d.jpg"] == CAPTIONS["d.jpg"]
    assert any(found[name][1] != captions for name, (_, captions) in CAPTIONS.items())


def added(found: dict[str, tuple[str, list[str]]]) -> list[str]:
    return [each for name, (_, captions) in found.items() for each in captions[len(CAPTIONS[name][1]) :]]


def test_candidates_and_uses_are_limited(match: Any, capsys: pytest.CaptureFixture[str]) -> None:
    everything = {"similarity": -1.0, "gain": -10.0, "keep": 4}
    often = added(match("all", **everything))
    assert capsys.readouterr().out.endswith("captions.jsonl: 3 of 3 training photos got 12 sentences\n")
    assert max(Counter(often).values()) > 1
    once = match("once", uses=1, **everything)
    assert set(Counter(added(once)).values()) == {1}
    assert match("again", uses=1, **everything) == once
    assert match("nearest", candidates=1, **everything)["b.jpg"][1][1:] == ["A cat sleeps on a sofa."]


def test_other_data_sets_are_left_out(match: Any, tmp_path: Path) -> None:
    other = tmp_path / "captions.jsonl"
    other.write_text(json.dumps({"image": "x.jpg", "caption": "a dog under a sofa", "split": "test"}), encoding="utf-8")
    assert "a dog under a sofa" in match("with", gain=-10.0)["c.jpg"][1]
    assert "a dog under a sofa" not in match("without", gain=-10.0, exclude=(other,))["c.jpg"][1]


def test_damaged_photos_are_left_out(match: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = match("before", gain=-10.0)
    (tmp_path / "data" / "images" / "a.jpg").write_bytes(b"no photo")
    after = match("after", gain=-10.0)
    assert "a.jpg" in capsys.readouterr().err and set(before) - set(after) == {"a.jpg"}
    assert after["c.jpg"][1][: len(CAPTIONS["c.jpg"][1])] == CAPTIONS["c.jpg"][1]


def test_nothing_is_overwritten(match: Any, tmp_path: Path) -> None:
    before = (tmp_path / "data" / "captions.jsonl").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"captions.jsonl exists and is not overwritten. Remove it or"):
        match("data")
    assert (tmp_path / "data" / "captions.jsonl").read_text(encoding="utf-8") == before


def test_a_missing_package_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed. .*: pip install sentence-transformers"):
        script.load_encoder("any")
