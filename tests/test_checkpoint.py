"""Checkpoints: what is saved comes back, a kill leaves a whole one, and each fault is one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.checkpoint.card import model_card
from captioner.checkpoint.manifest import CheckpointError, find_checkpoint, has_checkpoint, sha256_of
from captioner.checkpoint.tensors import halve, load_checkpoint, load_into, load_state, save_checkpoint
from captioner.decoding import Decoding

CONFIG = {
    "model": {"encoder": "mobilenet_v2"},
    "vocabulary": ["a", "café", "狗"],
    "scores": {"CIDEr-D": 0.1 + 0.2},
}


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "norm.running_var": torch.tensor([1e-9, 1.0, 1e9]),
        "norm.num_batches_tracked": torch.tensor(7),
        "bias": torch.randn(8, generator=generator),
        "wild": torch.tensor([[1e6, 1.0]]),  # overflows float16
        "faint": torch.tensor([[1e-9, 3e-9]]),  # vanishes in float16
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "best", some_tensors(), CONFIG, "# card\n", state={"step": 1})
    return tmp_path / "best"


# Round trips


def test_what_is_saved_comes_back(saved: Path) -> None:
    tensors, config = load_checkpoint(saved)
    weights = saved / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert config == {**CONFIG, "weights": {"sha256": digest, "bytes": weights.stat().st_size}}
    assert weights.stat().st_mode == (saved / "config.json").stat().st_mode
    assert (saved / "README.md").read_text() == "# card\n"
    assert tensors.keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        assert tensors[name].dtype == tensor.dtype
        if name == "conv.weight":
            assert torch.equal(tensors[name], tensor.half().float())
        else:
            assert torch.equal(tensors[name], tensor)
    assert os.listdir(saved.parent) == ["best"]


def test_matrices_take_half_the_space_on_disk(saved: Path, tmp_path: Path) -> None:
    kinds = {name: tensor.dtype for name, tensor in load_file(saved / "model.safetensors").items()}
    assert {name for name, kind in kinds.items() if kind == torch.float16} == {"conv.weight", "empty"}
    save_checkpoint(tmp_path / "exact", some_tensors(), CONFIG, "", half=False)
    tensors, _ = load_checkpoint(tmp_path / "exact")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in some_tensors().items())


@pytest.mark.parametrize("power, halved", [(-15, True), (-16, False), (-22, False)])
def test_a_matrix_is_halved_only_if_it_hardly_changes(power: int, halved: bool) -> None:
    """2^-25 becomes 0 in float16: beside 2^-15 a relative change of 0.00098, beside 2^-16 of 0.002, 2^-22 of 0.12."""
    kind = halve(torch.tensor([[2.0**power, 2.0**-25]])).dtype
    assert kind == (torch.float16 if halved else torch.float32)


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tensors = some_tensors()
        save_checkpoint(tmp_path / name, tensors | {"tied": tensors["conv.weight"]}, CONFIG, "card")
    for file in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_shared_memory(tmp_path: Path) -> None:
    base = torch.randn(6, 6)
    tensors = {"a": base, "b": base, "turned": base.T, "part": base[:2], "same": base.clone()}
    save_checkpoint(tmp_path / "shared", tensors, {}, "", half=False)
    loaded, _ = load_checkpoint(tmp_path / "shared")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert loaded["b"] is loaded["a"]
    assert load_file(tmp_path / "shared/model.safetensors").keys() == tensors.keys() - {"b"}


def test_a_training_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.98))
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    mersenne, philox = np.random.RandomState(3), np.random.Generator(np.random.Philox(4))
    pcg = np.random.default_rng(5)
    mersenne.normal(), philox.normal(), pcg.integers(9)
    state: dict[str, Any] = {
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": mersenne.get_state(),
        "generators": [pcg.bit_generator.state, philox.bit_generator.state],
        "numbers": [
            0.1,
            -0.0,
            1e-320,
            float("inf"),
            float("-inf"),
            2**200,
            True,
            None,
            np.float32(0.1),
            np.int64(3),
        ],
        "halves": torch.tensor([1.0], dtype=torch.bfloat16),
        "nothing": {},
        "keys": {"<tuple>": [1], "a.b": torch.zeros(1), "a": {"b": torch.ones(1)}},
    }
    save_checkpoint(tmp_path / "last", model.state_dict(), {}, "", half=False, state=state)
    loaded = load_state(tmp_path / "last")

    other = torch.optim.AdamW(model.parameters())
    other.load_state_dict(loaded["optimizer"])
    assert repr(other.state_dict()) == repr(optimizer.state_dict())
    for ours, theirs in zip(loaded["optimizer"]["state"].values(), state["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert loaded["torch"].dtype == torch.uint8 and torch.equal(loaded["torch"], state["torch"])
    assert loaded["python"] == state["python"] and random.setstate(loaded["python"]) is None
    again = np.random.RandomState()
    again.set_state(loaded["numpy"])
    assert again.normal() == mersenne.normal()
    for kind, generator, content in zip(
        (np.random.PCG64, np.random.Philox), (pcg, philox), loaded["generators"], strict=True
    ):
        restored = np.random.Generator(kind())
        restored.bit_generator.state = content
        assert restored.integers(1 << 62) == generator.integers(1 << 62)
    assert repr(loaded["numbers"]) == repr([*state["numbers"][:-2], float(np.float32(0.1)), 3])
    assert loaded["halves"].dtype == torch.bfloat16
    assert loaded["nothing"] == {} and repr(loaded["keys"]) == repr(state["keys"])
    json.loads((tmp_path / "last/state.json").read_text(), parse_constant=pytest.fail)  # JSON knows no Infinity


def test_a_state_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.a\.1 is a bytes"):
        save_checkpoint(tmp_path / "x", {}, {}, "", state={"a": [1, b"bytes"]})


# Killed writers


def version(number: int) -> dict[str, Any]:
    return {
        "tensors": {"w": torch.full((50, 50), float(number))},
        "config": {"version": number},
        "card": str(number),
        "state": {"version": number, "w": torch.full((9,), number)},
    }


def whole_version(directory: Path) -> int:
    """The number of the checkpoint there, all of whose parts must say the same."""
    assert has_checkpoint(directory)
    tensors, config = load_checkpoint(directory)
    state = load_state(directory)
    seen = {
        config["version"],
        state["version"],
        *tensors["w"].unique().tolist(),
        *state["w"].unique().tolist(),
    }
    assert len(seen) == 1
    return int(seen.pop())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True])
def test_a_writer_that_dies_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Die before, or right after, the n-th call that changes the disk, for every n."""
    directory = tmp_path / "last"
    save_checkpoint(directory, **version(0))
    calls, dies_at, seen = 0, 0, []

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == dies_at and not after:
                raise Killed
            result = function(*args, **kwargs)
            if calls == dies_at:
                raise Killed
            return result

        return call

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # waiting for the disk proves nothing here
    steps = [
        (os, "replace"),
        (os, "fsync"),
        (os, "unlink"),
        (os, "rmdir"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (Path, "write_bytes"),
    ]
    for owner, name in steps:
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    while True:
        dies_at, calls = dies_at + 1, 0
        before = whole_version(directory)
        try:
            save_checkpoint(directory, **version(before + 1))
        except Killed:
            number = whole_version(directory)
            assert number in (before, before + 1)
            seen.append(number - before)
        else:
            break
    assert dies_at > 15
    assert set(seen) == {0, 1}
    assert whole_version(directory) == before + 1
    assert os.listdir(tmp_path) == ["last"]  # what the dead left is cleared away


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """A process that saves without end is killed at a random moment, again and again."""
    script = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tests.test_checkpoint import save_checkpoint, version, whole_version
directory, number = Path(sys.argv[1]), 0
start = time.monotonic()
save_checkpoint(directory, **version(0))
one_save = time.monotonic() - start
for _ in range(10):
    child = os.fork()
    if not child:
        while True:
            number += 1
            save_checkpoint(directory, **version(number))
    time.sleep(random.random() * 3 * one_save)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = whole_version(directory)
    assert found >= number
    number = found
"""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "last"), str(root)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_reader_does_not_disturb_a_writer(tmp_path: Path) -> None:
    """Between two renamings only the new one is there, under another name; reading leaves it to the writer."""
    save_checkpoint(tmp_path / "last", **version(3))
    os.rename(tmp_path / "last", tmp_path / ".last.new")
    assert whole_version(tmp_path / "last") == 3
    assert os.listdir(tmp_path) == [".last.new"]
    save_checkpoint(tmp_path / "last", **version(4))
    assert whole_version(tmp_path / "last") == 4 and os.listdir(tmp_path) == ["last"]


def test_the_folder_of_a_run_stands_for_its_best(saved: Path, tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) == find_checkpoint(saved) == saved
    (tmp_path / "config.json").touch()
    assert find_checkpoint(tmp_path) == tmp_path


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    save_checkpoint(photos, **version(1))  # empty: nothing is lost
    shutil.rmtree(photos)
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear")
    for place in (photos, photos / "holiday.jpg"):
        with pytest.raises(CheckpointError, match=r"exists but is not a checkpoint \(it has no config.json\)"):
            save_checkpoint(place, **version(1))
    assert (photos / "holiday.jpg").read_bytes() == b"dear"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "real", **version(1))
    (tmp_path / "link").symlink_to("real")
    save_checkpoint(tmp_path / "link", **version(2))
    assert (tmp_path / "link").is_symlink() and whole_version(tmp_path / "real") == 2


# Each fault is one line that names the file


def fault(directory: Path, load: Callable[[Path], Any] = load_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    message = str(caught.value)
    assert str(directory) in message and "\n" not in message and message.endswith(".")
    return message


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_missing_directory(tmp_path: Path) -> None:
    assert "does not exist; expected a checkpoint: a directory" in fault(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is a file; expected a checkpoint: a directory" in fault(tmp_path / "file")
    assert not has_checkpoint(tmp_path / "nowhere") and not has_checkpoint(tmp_path / "file")


def test_a_missing_file(saved: Path) -> None:
    (saved / "state.json").unlink()
    message = fault(saved, load_state)
    assert "state.json does not exist; the directory has: README.md, config.json, model.safetensors and 1" in message
    assert "Only last/ of a training run has it" in message
    (saved / "model.safetensors").unlink()
    assert "model.safetensors does not exist; the directory has: README.md, config.json, state." in fault(saved)
    (saved / "config.json").unlink()
    assert "config.json does not exist" in fault(saved)
    assert not has_checkpoint(saved)


@pytest.mark.parametrize("version", [2, "1.0", None])
def test_another_format_version(saved: Path, version: object) -> None:
    edit(saved / "config.json", format_version=version)
    assert f"config.json has format version {version}, but this captioner reads version 1. Use" in fault(saved)


def test_a_config_that_is_no_json(saved: Path) -> None:
    path = saved / "config.json"
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    assert "config.json is not JSON (" in fault(saved)
    path.write_bytes(b"\xff\xfe\x00")
    assert "config.json is not JSON (" in fault(saved)
    path.write_text("[1]")
    assert "config.json holds a list, expected a JSON object" in fault(saved)


@pytest.mark.parametrize("weights", [None, "abc", {}, {"sha256": 3, "bytes": 4}, {"sha256": "ab"}])
def test_a_config_without_the_hash(saved: Path, weights: object) -> None:
    edit(saved / "config.json", weights=weights)
    assert "config.json does not give the size and sha256 of model.safetensors" in fault(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors"])
def test_damaged_tensors(saved: Path, file: str) -> None:
    load = load_checkpoint if file.startswith("model") else load_state
    path, says = saved / file, {"model": "config.json", "state": "state.json"}[file.split(".")[0]]
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    message = fault(saved, load)
    assert f"{file} is cut short: it has {len(content) - 10} bytes, {says} says {len(content)}. Copy" in message
    path.write_bytes(content + b" ")
    assert f"{file} is too long" in fault(saved, load)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{file} is damaged or belongs to another checkpoint: its sha256 is" in fault(saved, load)


def test_no_safetensors_file(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(b"\x80\x04 a pickle, say")
    edit(saved / "config.json", weights={"sha256": sha256_of(path), "bytes": path.stat().st_size})
    assert "model.safetensors is not a safetensors file (" in fault(saved)


# Into a module


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.recurrent = nn.LSTM(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.norm(self.recurrent(self.embedding(tokens))[0]))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_into_a_module(tmp_path: Path, device: str) -> None:
    model, tokens = Tied().eval(), torch.tensor([1, 4, 2])
    save_checkpoint(tmp_path / "m", model.state_dict(), {}, "", half=False)
    with torch.device(device):
        other = Tied().eval()
    other.norm.weight.requires_grad_(False)
    load_into(other, load_checkpoint(tmp_path / "m")[0])
    assert torch.equal(other(tokens), model(tokens))
    assert other.output.weight is other.embedding.weight
    assert len([*other.parameters()]) == len([*model.parameters()])
    assert other.embedding.weight.requires_grad and not other.norm.weight.requires_grad


def test_tensors_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    good = {name: torch.zeros_like(tensor) for name, tensor in before.items()}

    def error(tensors: dict[str, Tensor]) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_into(model, tensors, "runs/best")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        return str(caught.value)

    assert "runs/best does not fit the model: it lacks 0.bias, 1.weight, 1.bias. Was" in error(
        {"0.weight": good["0.weight"]}
    )
    assert "it holds the unknown new." in error(good | {"new": torch.zeros(1)})
    assert "it lacks 0.weight, 0.bias, 1.weight and 1 more and holds" in error({"x": torch.zeros(1)})
    wrong = error(good | {"1.bias": torch.zeros(3)})
    assert "1.bias has shape [3], the model expects [2]. Was it made by another model" in wrong
    load_into(model, good)
    assert all(tensor.eq(0).all() for tensor in model.state_dict().values())


def test_the_card_names_only_the_settings_that_were_used() -> None:
    saved: dict[str, Any] = {
        "model": {"encoder": "resnet50", "cell": "gru", "attention": "none"},
        "vocabulary": ["a"] * 1234,
        "scores": {"CIDEr-D": 0.5},
        "training": {"photos": 6000, "step": 10, "hours": 1.5, "settings": {"stages": ["decoder:2"]}},
        "decoding": asdict(Decoding("beam", beam_size=3, length_penalty=0.7)),
    }
    card = model_card(saved)
    assert "1,234 words" in card and "no attention" in card and "| CIDEr-D | 0.5000 |" in card
    assert "beam search, beam size 3, length penalty 0.7. Tokenization" in card
    assert "Stages: decoder:2\n- Duration: 10 steps, 1.5 hours" in card and "Data: unknown, 6,000 photos" in card
    saved["decoding"] = asdict(Decoding("sample", beam_size=3, temperature=0.8, top_p=0.9, seed=4))
    assert "sampling, temperature 0.8, top-p 0.9, seed 4. Tokenization" in model_card(saved)
    for n, told in (
        (1, "no repeated content word or pair of words"),
        (2, "no repeated pair of words"),
        (3, "no repeated sequence of 3 words"),
    ):
        saved["decoding"] = asdict(Decoding(no_repeat_ngram=n))
        assert f"length penalty 0.7, {told}. Tokenization" in model_card(saved)
    assert "Scores" not in model_card(saved | {"scores": None})


def test_shipped_models_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = find_checkpoint("flickr8k-mobilenet_v2")
    assert (whole / "config.json").is_file() and find_checkpoint("flickr8k") == whole
    (tmp_path / "flickr8k").mkdir()  # a path of one's own comes first
    assert find_checkpoint("flickr8k") == Path("flickr8k")
    with pytest.raises(CheckpointError, match=r"flickr8 does not exist.*shipped model: .*Did you mean flickr8k"):
        find_checkpoint("flickr8")
