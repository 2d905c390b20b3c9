"""Ensembles against their members: one member is the model, several are the mean of their probabilities."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from captioner import Captioner, Decoding
from captioner.backends.export import export
from captioner.checkpoint.tensors import load_checkpoint, save_checkpoint
from captioner.cli import main
from captioner.vocabulary import Vocabulary

TEXT = "the dog 's ball sleeps under a sofa"


@pytest.fixture(scope="module")
def other(tiny, tmp_path_factory):
    """A checkpoint like `tiny`, with a decoder of other weights."""
    directory = tmp_path_factory.mktemp("ensemble") / "other"
    tensors, saved = load_checkpoint(tiny)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if name.startswith("decoder."):
            tensors[name] = tensor[torch.randperm(len(tensor), generator=generator)]
    saved = {name: value for name, value in saved.items() if name not in ("format_version", "weights")}
    save_checkpoint(directory, tensors, saved, "Another tiny model.\n", half=False)
    return directory


@pytest.fixture(scope="module")
def members(tiny, other):
    return [Captioner.load(directory, "cpu", "torch") for directory in (tiny, other)]


@pytest.mark.parametrize(
    "decoding", [Decoding(max_length=8, alternatives=3), Decoding("sample", max_length=8, num_captions=3, seed=2)]
)
def test_an_ensemble_of_one_is_the_model(members, photos, decoding):
    paths = [photos / "b.jpg", photos / "a.png"]
    ensembles = [Captioner.ensemble(members[:1]), Captioner.ensemble(members[:1] * 3)]
    for ensemble in ensembles:
        for ours, theirs in zip(ensemble.caption(paths, decoding), members[0].caption(paths, decoding), strict=True):
            assert ours.text == theirs.text
            assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-5)
            np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-6)


def test_each_word_has_the_mean_of_the_probabilities(members, photos):
    """Forced decoding of one caption, by the members and by the ensemble."""
    ensemble = Captioner.ensemble(members)
    ours = ensemble.read(photos / "b.jpg", TEXT)
    theirs = [np.exp(member.read(photos / "b.jpg", TEXT).log_probabilities) for member in members]
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01
    np.testing.assert_allclose(np.exp(ours.log_probabilities), np.mean(theirs, axis=0), atol=1e-6)
    maps = [member.read(photos / "b.jpg", TEXT).attention for member in members]
    np.testing.assert_allclose(ours.attention, np.mean(maps, axis=0), atol=1e-6)


def test_torch_and_the_onnx_runtime_side_by_side(tiny, members, photos, tmp_path):
    directory = shutil.copytree(tiny, tmp_path / "exported")
    export(directory)
    ensemble = Captioner.ensemble([members[0], Captioner.load(directory, "cpu", "onnx")])
    ours, theirs = (captioner.caption(photos / "a.png") for captioner in (ensemble, members[0]))
    assert ours.text == theirs.text
    assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-4)


def test_models_that_cannot_be_one(members):
    for name, value in (("vocabulary", Vocabulary(["a"])), ("preprocess", replace(members[0].preprocess, size=32))):
        different = Captioner(members[1].backend, members[1].vocabulary, members[1].preprocess, members[1].config)
        setattr(different, name, value)
        with pytest.raises(ValueError, match=f"tiny and in memory differ in their {name}"):
            Captioner.ensemble([members[0], different])
    with pytest.raises(ValueError, match="an ensemble has no single torch module"):
        _ = Captioner.ensemble(members).model


def test_the_command_line(tiny, other, photos, members, capsys, monkeypatch):
    photo = str(photos / "b.jpg")
    arguments = ["captioner", "caption", "--checkpoint", str(tiny), "--checkpoint", str(other), photo]
    monkeypatch.setattr("sys.argv", [*arguments, "--device", "cpu", "--backend", "torch"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert Captioner.ensemble(members).caption(photo).text in capsys.readouterr().out
