"""Exported models: what torch says, the ONNX runtime says, too; and the runtime needs no torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from captioner import Captioner, Decoding
from captioner.backends.choose import choose_backend
from captioner.backends.export import WordGraph, build_on_cpu, export, graphs
from captioner.backends.onnx_backend import OnnxBackend
from captioner.backends.quantize import quantize
from captioner.backends.torch_backend import TorchBackend
from captioner.checkpoint.manifest import CheckpointError, read_json, size_and_hash, write_json
from captioner.checkpoint.tensors import load_checkpoint, save_checkpoint
from captioner.config import ModelConfig
from captioner.images import Preprocess
from captioner.model import build_model
from captioner.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
COCO_MINI = ROOT.parent / "shared" / "data" / "coco_mini" / "train2017"
WORDS = "a the dog cat ball runs sleeps on under grass sofa and".split()  # noqa: SIM905
VARIANTS = {
    "lstm-general": {},
    "gru-concat-float32": {
        "cell": "gru",
        "attention": "concat",
        "layers_below": 2,
        "layers_above": 0,
        "half": False,
    },
    "rnn-dot-tied": {"cell": "rnn", "attention": "dot", "layers_above": 2, "tie_embeddings": True},
    "lstm-none": {"attention": "none"},
}
SEARCHES = {
    "beam": Decoding(beam_size=3, num_captions=3, alternatives=2, max_length=7),
    "greedy": Decoding(beam_size=1, max_length=7),
    "sample": Decoding("sample", num_captions=2, temperature=1.3, top_p=0.9, seed=7, max_length=7),
}


def make_checkpoint(directory: Path, half: bool = True, **settings) -> Path:
    torch.manual_seed(1)
    config = ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24, **settings)
    model = build_model(config, len(Vocabulary(WORDS)))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)  # so that it has opinions
    captioner = Captioner(TorchBackend(model, torch.device("cpu")), Vocabulary(WORDS), Preprocess(64), config)
    save_checkpoint(directory, model.state_dict(), captioner.to_config(), "A card.\n", half=half)
    return directory


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tmp_path_factory) -> Path:
    directory = make_checkpoint(tmp_path_factory.mktemp("exported") / "model", **VARIANTS[request.param])
    export(directory)
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    directory = make_checkpoint(tmp_path_factory.mktemp("plain") / "model")
    export(directory)
    return directory


def write_hashes(directory: Path) -> None:
    hashes = {path.name: size_and_hash(path) for path in directory.glob("*.onnx")}
    write_json(directory / "config.json", {**read_json(directory / "config.json"), "graphs": hashes})


def assert_same(ours, theirs):
    assert ours.text == theirs.text and ours.finished == theirs.finished
    assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-4)
    assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)
    assert (ours.attention is None) == (theirs.attention is None)
    if ours.attention is not None:
        np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-4)
    if ours.alternatives is not None:
        for step, other in zip(ours.alternatives, theirs.alternatives, strict=True):
            assert [word for word, _ in step] == [word for word, _ in other]
    for one, other in zip(ours.other_captions, theirs.other_captions, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_runtime_says_what_torch_says(exported, photos, search):
    paths = sorted(photos.glob("*.*"))
    ours = Captioner.load(exported, backend="onnx").caption(paths, SEARCHES[search])
    theirs = Captioner.load(exported, backend="torch", device="cpu").caption(paths, SEARCHES[search])
    assert len(ours) == len(paths) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs the photos of coco_mini")
def test_the_shipped_model_says_the_same_either_way():
    paths = sorted(COCO_MINI.glob("*.jpg"))
    ours, theirs = (Captioner.load(backend=backend, device="cpu").caption(paths) for backend in ("onnx", "torch"))
    assert len(ours) == 80
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


def test_the_graphs_hold_no_weights(plain):
    _, config = load_checkpoint(plain)
    for name in ("photo", "word"):
        graph = onnx.load(plain / f"{name}.onnx", load_external_data=False)
        places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.graph.initializer]
        assert {place["location"] for place in places if place} == {"model.safetensors"}
        assert sum(len(tensor.raw_data) for tensor in graph.graph.initializer) < 1000
        assert (plain / f"{name}.onnx").stat().st_size < 200_000
        assert graph.metadata_props[0].value == config["weights"]["sha256"]
    assert not list(plain.glob(".*"))


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # as in export
def test_what_is_dropped_in_training_is_not_in_the_graphs():
    programs = []
    for share in (0.0, 0.5):
        model = build_model(ModelConfig("squeezenet1_1", feature_dropout=share), len(Vocabulary(WORDS)))
        photo = graphs(model, 64)[0]
        programs.append(torch.export.export(photo.module, photo.example).graph_module.code)
    assert programs[0] == programs[1]


def test_pt2_says_what_the_modules_say(plain, tmp_path):
    written = export(plain, "pt2", tmp_path / "copy")
    assert [path.name for path in written] == ["photo.pt2", "word.pt2"]
    tensors, saved = load_checkpoint(plain)
    model = build_on_cpu(ModelConfig(**saved["model"]), len(Vocabulary(saved["vocabulary"])), tensors)
    torch.manual_seed(2)
    photo, word = graphs(model, 64)
    loaded = {graph.name: torch.export.load(path).module() for graph, path in zip((photo, word), written, strict=True)}
    for photos, rows in ((3, 4), (3, 1), (1, 4), (1, 1)):  # not the sizes of the examples
        images = torch.randn(photos, 3, 64, 64)
        encoded = photo.module(images)
        given = (*encoded[:2], *(part[:, :, None].repeat(1, 1, rows, 1) for part in encoded[2:]))
        words = torch.randint(4, 10, (photos, rows))
        for graph, inputs in ((photo, (images,)), (word, (words, *given))):
            for ours, theirs in zip(loaded[graph.name](*inputs), graph.module(*inputs), strict=True):
                torch.testing.assert_close(ours, theirs)


def test_the_word_graph_is_the_decoder(plain):
    """Two roads: the state after the photo and then BOS alone, or both at once."""
    tensors, saved = load_checkpoint(plain)
    model = build_on_cpu(ModelConfig(**saved["model"]), len(Vocabulary(saved["vocabulary"])), tensors)
    memory = model.encode(torch.randn(2, 3, 64, 64))
    tokens = torch.tensor([[1, 5, 6], [1, 7, 8]])
    logits, attention, _ = model.decoder(tokens, memory)
    state = [part[:, :, None] for part in model.decoder.initial_state(memory)]
    for t in range(3):
        found, looked, *state = WordGraph(model)(tokens[:, t : t + 1], memory.values, memory.keys, *state)
        torch.testing.assert_close(found[:, 0], logits[:, t])
        torch.testing.assert_close(looked[:, 0], attention[:, t])


def test_no_torch_is_imported(plain, photos):
    code = f"""
import sys
from captioner import Captioner
caption = Captioner.load({str(plain)!r}, backend="onnx").caption({str(photos / "b.jpg")!r})
assert caption.words
caption._repr_html_()
found = {{"torch", "torchvision", "safetensors", "onnx", "matplotlib"}} & set(sys.modules)
assert not found, found
"""
    run(code)


def run(code: str, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr


def test_who_runs_a_checkpoint(plain, tiny, monkeypatch):
    monkeypatch.setattr("captioner.backends.choose.has_nvidia_gpu", lambda: False)
    assert isinstance(Captioner.load(plain).backend, OnnxBackend)
    assert isinstance(Captioner.load(plain, device="cpu").backend, OnnxBackend)
    assert isinstance(Captioner.load(tiny).backend, TorchBackend)  # it has no graphs
    monkeypatch.setattr("captioner.backends.choose.has_nvidia_gpu", lambda: True)
    assert choose_backend(plain) == "torch" and choose_backend(plain, "cpu") == "onnx"
    assert choose_backend(plain, "cuda") == choose_backend(plain, "mps") == "torch"
    monkeypatch.setattr("captioner.backends.choose.find_spec", lambda name: None)  # without torch
    assert choose_backend(plain) == choose_backend(tiny) == "onnx"


def test_what_is_wrong_is_said(plain, tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"photo\.onnx does not exist; .* captioner export"):
        Captioner.load(tiny, backend="onnx")
    with pytest.raises(ValueError, match="runs on the CPU only, not on 'cuda'"):
        Captioner.load(plain, "cuda", "onnx")
    with pytest.raises(ValueError, match="unknown backend 'tflite'; expected one of: auto, onnx, torch"):
        Captioner.load(plain, backend="tflite")
    with pytest.raises(ValueError, match="Load it with backend='torch'"):
        _ = Captioner.load(plain, backend="onnx").model

    damaged = shutil.copytree(plain, tmp_path / "damaged")
    content = bytearray((damaged / "word.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "word.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"word\.onnx is damaged or belongs to another checkpoint"):
        Captioner.load(damaged, backend="onnx")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut short"):
        Captioner.load(damaged, backend="onnx")

    other = make_checkpoint(tmp_path / "other", half=False)
    for name in ("photo.onnx", "word.onnx"):
        shutil.copyfile(plain / name, other / name)
    with pytest.raises(CheckpointError, match=r"config\.json has no hashes of the graphs\. Make them again"):
        Captioner.load(other, backend="onnx")
    write_hashes(other)
    with pytest.raises(CheckpointError, match=r"photo\.onnx (was exported from weights other than|is not a graph)"):
        Captioner.load(other, backend="onnx")


def test_a_copy_is_a_checkpoint_too(plain, photos, tmp_path, capsys, monkeypatch):
    from captioner.cli import main

    bare = shutil.copytree(plain, tmp_path / "bare", ignore=shutil.ignore_patterns("*.onnx"))
    copy = tmp_path / "copy"
    monkeypatch.setattr(sys, "argv", ["captioner", "export", str(bare), "-o", str(copy)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in printed] == [str(copy / "photo.onnx"), str(copy / "word.onnx")]
    assert not list(bare.glob("*.onnx"))
    photo = photos / "b.jpg"
    assert_same(Captioner.load(copy, backend="onnx").caption(photo), Captioner.load(bare).caption(photo))


def test_another_checkpoint_is_not_replaced_unless_asked(tiny, tmp_path):
    other = shutil.copytree(tiny, tmp_path / "other")
    with pytest.raises(ValueError, match="other holds a checkpoint already"):
        export(tiny, output=other, int8=[])


def test_eight_bits_are_nearly_as_good(plain, photos, tmp_path):
    """Of the decoder; then calibrated on photos, of the CNN, too."""
    paths = sorted(photos.glob("*.*"))
    whole = Captioner.load(plain, backend="onnx")
    preprocess, size = whole.preprocess, {name: (plain / f"{name}.onnx").stat().st_size for name in ("photo", "word")}
    copy = shutil.copytree(plain, tmp_path / "copy")
    pixels = np.stack([preprocess.read(path)[0] for path in paths])
    expected = whole.backend.encode(pixels)
    for given in ([], paths):
        for name in ("photo", "word"):
            shutil.copyfile(plain / f"{name}.onnx", copy / f"{name}.onnx")
        quantize(copy, preprocess, given)
        write_hashes(copy)
        assert not [name for name in size if (copy / f"{name}.onnx").stat().st_size == size[name]]
        assert not list(copy.glob(".*"))
        captioner = Captioner.load(copy, backend="onnx")
        found = captioner.backend.encode(pixels)
        parts, exact_parts = (*found.memory, *found.recurrent), (*expected.memory, *expected.recurrent)
        for ours, theirs in zip(parts, exact_parts, strict=True):
            assert np.abs(ours - theirs).mean() < 0.1 * np.abs(theirs).mean()
        greedy = SEARCHES["greedy"]
        for ours, theirs in zip(captioner.caption(paths, greedy), whole.caption(paths, greedy), strict=True):
            assert ours.log_probabilities[0] == pytest.approx(theirs.log_probabilities[0], abs=0.3)
    with pytest.raises(ValueError, match="as onnx only, not as pt2"):
        export(plain, "pt2", int8=[])


def test_an_eight_bit_copy_holds_only_its_graphs(plain, photos, tmp_path, monkeypatch):
    """It is smaller than the model that it comes from, says what the graphs in place say, and torch refuses it."""
    place, copy = shutil.copytree(plain, tmp_path / "place"), tmp_path / "copy"
    export(place, int8=[])
    export(plain, output=copy, int8=[])
    assert (copy / "model.safetensors").stat().st_size < 500 < (place / "model.safetensors").stat().st_size
    folder, whole = (sum(path.stat().st_size for path in directory.iterdir()) for directory in (copy, plain))
    assert folder < whole
    ours, theirs = (Captioner.load(directory, backend="onnx") for directory in (copy, place))
    assert_same(ours.caption(photos / "b.jpg"), theirs.caption(photos / "b.jpg"))
    assert ours.provenance != theirs.provenance
    for refused in (lambda: Captioner.load(copy, backend="torch"), lambda: export(copy), lambda: load_checkpoint(copy)):
        with pytest.raises(CheckpointError, match=r"copy has its weights in eight-bit graphs only, .*\.$") as caught:
            refused()
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("captioner.backends.choose.has_nvidia_gpu", lambda: True)
    assert choose_backend(copy) == "onnx" and choose_backend(place) == "torch"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("in_place", [True, False])
def test_a_killed_export_leaves_a_whole_checkpoint(tmp_path, monkeypatch, in_place):
    """It dies at its n-th copy or rename, for each n. The weights and the settings found are those of one model."""
    monkeypatch.setattr("captioner.backends.export.graphs", lambda *_: [])  # to be quick
    old = make_checkpoint(tmp_path / "old", half=False)
    new = make_checkpoint(tmp_path / "new", cell="gru")
    output, calls, dies_at = tmp_path / "output", 0, 0

    def mortal(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise Killed
            return function(*arguments, **options)

        return call

    for owner, name in ((shutil, "copyfile"), (os, "replace")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    while True:
        calls, dies_at = -100, dies_at + 1
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(new if in_place else old, output)
        calls = 0
        try:
            export(output if in_place else new, output=None if in_place else output, force=True)
        except Killed:
            load_checkpoint(output)  # checks the hash of the weights
        else:
            break
    assert dies_at > 4 and load_checkpoint(output)[1]["model"]["cell"] == "gru"
    assert load_checkpoint(output)[1]["graphs"] == {}
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new", "output"}


def test_an_export_keeps_the_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.backends.export.graphs", lambda *_: [])
    checkpoint = make_checkpoint(tmp_path / "model")
    for name in ("curves.png", "state.json", "word.pt2"):
        (checkpoint / name).write_text(name)
    names = {path.name for path in checkpoint.iterdir()}
    export(checkpoint)
    assert {path.name for path in checkpoint.iterdir()} == names
    export(checkpoint, output=tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names - {"state.json", "word.pt2"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(CheckpointError, match="exists but is not a checkpoint"):
        export(checkpoint, output=tmp_path / "photos")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
