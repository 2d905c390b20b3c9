"""Evidence: how much a word's log-probability falls without a region. The product's figures = torch's, computed at once
over a grid from which the region was cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import Captioner
from captioner.backends.export import export
from captioner.cli import main
from captioner.decoder import Memory
from captioner.images import open_image
from captioner.visualize import attention_figure, heat_map
from captioner.vocabulary import BOS


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("evidence") / "model"
    export(tiny, output=directory)
    return directory


def by_hand(captioner: Captioner, photo: Path, words: list[str]) -> np.ndarray:
    """(T, R) with whole sequences, one region after another."""
    model, ids = captioner.model.eval(), captioner.vocabulary.encode(words)
    pixels, _ = captioner.preprocess.read(photo)
    tokens = torch.tensor([[BOS, *ids[:-1]]])
    with torch.no_grad():
        whole = model.encode(torch.from_numpy(pixels)[None])
        state = model.decoder.initial_state(whole)

        def log_probabilities(memory: Memory) -> torch.Tensor:
            logits, _, _ = model.decoder(tokens, memory, state)
            return logits[0].log_softmax(-1)[range(len(ids)), ids]  # (T,)

        columns = []
        for region in range(whole.values.shape[1]):
            values, keys = (
                torch.cat([part[:, :region], part[:, region + 1 :]], dim=1) for part in (whole.values, whole.keys)
            )
            columns.append(log_probabilities(whole) - log_probabilities(Memory(values, keys, whole.image)))
    return torch.stack(columns, dim=1).numpy()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_evidence_is_what_torch_computes_region_by_region(exported, photos, backend):
    captioner = Captioner.load(exported, device="cpu", backend=backend)
    by_torch = Captioner.load(exported, device="cpu", backend="torch")
    photo = photos / "b.jpg"
    captions = [captioner.caption(photo), *captioner.read(photo, ["a dog sleeps", "the cat runs on grass and grass"])]
    for found, caption in zip(captioner.with_evidence(photo, captions), captions, strict=True):
        assert found.text == caption.text and found.evidence.shape == caption.attention.shape
        expected = by_hand(by_torch, photo, caption.words)
        assert np.abs(expected).max() > 0.01 and (expected < -1e-4).any(), "the model has opinions of both signs"
        np.testing.assert_allclose(found.evidence.reshape(expected.shape), expected, atol=2e-5)


def test_evidence_is_shown_in_place_of_attention(exported, photos, tmp_path):
    """In data with its sign; in pictures where it is positive. A map without evidence for the word stays grey."""
    captioner, photo = Captioner.load(exported, backend="onnx"), photos / "b.jpg"
    (caption,) = captioner.with_evidence(photo, [captioner.caption(photo)])
    for name in ("a.json", "a.npz", "a.png", "a.gif", "a.html"):
        caption.save(tmp_path / name)
    view = json.loads((tmp_path / "a.json").read_text())
    assert view["evidence"]["maps"] == pytest.approx(caption.evidence.reshape(len(caption.words), -1), abs=1e-5)
    assert min(map(min, view["evidence"]["maps"])) < 0 and view["attention"]["maps"] != view["evidence"]["maps"]
    assert view["evidence"]["top"] == pytest.approx(max(caption.evidence.max(), 0.1), abs=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["evidence"], caption.evidence)
    figure = attention_figure(open_image(photo), caption.words, caption.evidence, kind="evidence")
    legend = " ".join(text.get_text() for text in figure.texts)
    assert "evidence: fall of log p(word) without the region" in legend and "nats" in legend
    assert not heat_map(-np.ones((2, 2)), 8, 8).any()


def test_attend_shows_the_map_that_is_asked_for(exported, photos, tmp_path, monkeypatch, capsys):
    def attend(*options) -> int:
        command = ["captioner", "attend", photos / "b.jpg", "-o", tmp_path / "a.json", "--checkpoint", exported]
        monkeypatch.setattr("sys.argv", [*map(str, command), *options])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert attend() == 0 and "evidence" not in json.loads((tmp_path / "a.json").read_text())
    assert attend("--map", "evidence") == 0
    assert json.loads((tmp_path / "a.json").read_text())["evidence"]["grid"] == [3, 3]
    assert attend("--map", "evidence", "--cells") == 2 and "Leave --map out" in capsys.readouterr().err
