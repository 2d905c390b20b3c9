"""Whole runs of two processes: they are the run of one, share the work, and end or go on when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint, load_state
from captioner.config import ModelConfig, RecurrentConfig
from captioner.data import cache
from captioner.data.datasets import PhotoDataset, encode_captions
from captioner.data.readers import read_dataset
from captioner.data.toy import make_toy
from captioner.decoding import Decoding
from captioner.training import loop
from captioner.training import validate as validation
from captioner.training.config import PretrainConfig, TrainConfig
from captioner.training.journal import read_log
from captioner.training.pretrain import pretrain
from captioner.training.train import train

LANGUAGE_MODEL = RecurrentConfig(embedding_size=8, hidden_size=12, dropout=0.0)
RUNS = ("photos", "streams", "lines")
PHOTOS = 7  # in batches of two: the last one is smaller, and the processes have different shares
WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


class Noting(PhotoDataset):
    """Notes which photos are read."""

    read: list[int]

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def train_all(toy: Path, tiny: Path, folder: Path) -> dict:
    """Runs of each recipe, a feature cache and a validation; which photos this process read for the last two."""
    (folder / "text.txt").write_text("the dogs run\na cat sleeps here\nbirds fly\n" * 20)
    train(
        TrainConfig(
            (toy,), folder / "photos", ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24, dropout=0.0),
            weights="none", stages=("decoder:1", "features.12:1"), batch_size=5, image_size=64, min_count=1, ema=0.9,
            keep_best=1, accumulate=2, patience=0, workers=0, device="cpu",
        )
    )  # fmt: skip
    text = PretrainConfig(
        (folder / "text.txt",), folder / "streams", model=LANGUAGE_MODEL, epochs=2, batch_size=3,
        bptt=7, min_count=1, device="cpu",
    )  # fmt: skip
    pretrain(text)
    pretrain(replace(text, output=folder / "lines", document="line", batch_size=7))
    captioner = Captioner.load(tiny, device="cpu", backend="torch")
    records = read_dataset(toy)[:PHOTOS]
    captions = encode_captions(records, captioner.vocabulary, 20)
    cache.PhotoDataset, Noting.read = Noting, []
    cache.cached_features(
        folder / "cache", captioner.model.encoder, captioner.preprocess, records, captions, batch_size=2
    )
    cached, Noting.read = Noting.read, []
    scores = validation.validate(
        captioner, Noting(records, captions, captioner.preprocess), records, Decoding(), batch_size=2
    )
    return {"cached": cached, "validated": Noting.read, "scores": scores}


def single_precision() -> None:
    import captioner.device

    captioner.device.has_bfloat16 = lambda device: False


def worker(rank: int, toy: Path, tiny: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    single_precision()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    (folder / "run").mkdir(exist_ok=True)
    written = set()

    def watch(event: str, arguments: tuple) -> None:
        reads = event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"))
        if event in WRITES and not reads and str(folder) in str(arguments[0]):
            written.add(str(arguments[0]).removeprefix(str(folder / "run")))

    sys.addaudithook(watch)
    found = train_all(toy, tiny, folder / "run")
    torch.save({**found, "written": written}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=24, size=64)
    return root


@pytest.fixture(scope="module")
def two(toy, tiny, tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(worker, (toy, tiny, folder), nprocs=2)
    return folder / "run", [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(toy, tiny, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "PhotoDataset", PhotoDataset)  # undone afterwards
        patch.setattr("captioner.device.has_bfloat16", lambda device: False)
        return folder, train_all(toy, tiny, folder)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_processes_is_the_run_of_one(one, two, name):
    """All that is logged, and the weights at the end. (Moments are left out: AdamW forgets them at the end.)"""
    (ours, tensors), (theirs, weights) = (
        (read_log(folder / name / "log.jsonl"), load_checkpoint(folder / name / "last")[0])
        for folder in (two[0], one[0])
    )
    assert len(ours) == len(theirs) > 5
    for row, other in zip(ours, theirs, strict=True):
        numbers = {key: value for key, value in other.items() if isinstance(value, float)}
        assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-6)
        assert row == other | {key: row[key] for key in numbers}
    for each, tensor in weights.items():
        torch.testing.assert_close(tensors[each], tensor, rtol=1e-2, atol=1e-4, msg=each)
    names = [{path.name for path in (folder / name).rglob("*.*[!0-9]")} for folder in (one[0], two[0])]
    assert names[0] == names[1]


def test_the_carried_state_of_all_streams_is_saved(one, two):
    states = [load_state(folder / "streams/last")["objective"]["_extra_state"] for folder in (one[0], two[0])]
    for state, other in zip(*states, strict=True):
        assert state.shape[1] == 3 and state.any()
        torch.testing.assert_close(other, state, rtol=1e-2, atol=1e-4)


def test_each_photo_is_validated_and_computed_once(one, two):
    alone, together = one[1], two[1]
    for work in ("validated", "cached"):
        assert [each[work] for each in together] == [[0, 1, 4, 5], [2, 3, 6]]
        assert alone[work] == list(range(PHOTOS))
    for found in together:
        assert found["scores"] == pytest.approx(alone["scores"], rel=1e-5, nan_ok=True)
    for name in cache.NAMES:
        ours, theirs = (np.load(folder / f"cache/{name}.npy") for folder in (two[0], one[0]))
        assert np.array_equal(ours, theirs) and ours.any()


def test_only_the_main_process_writes(two):
    """The others write their rows of the features, and no other file."""
    main, other = (each["written"] for each in two[1])
    assert any(path.startswith("/photos/last") for path in main)
    assert {Path(path).name for path in other - {"/text.txt", "/streams", "/lines"}} == {"pooled.npy", "grid.npy"}


def settings(toy: Path, output: Path, epochs: int) -> TrainConfig:
    return TrainConfig(
        (toy,), output, ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24, dropout=0.0), weights="none",
        stages=(f"decoder:{epochs}",), batch_size=5, image_size=64, min_count=1, patience=0, workers=0, save_every=2,
        device="cpu",
    )  # fmt: skip


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(toy: Path, output: Path, *torchrun: str, epochs: int) -> subprocess.Popen:
    command = [
        *(*TORCHRUN, *torchrun, "-m", "captioner", "train", "--data", toy, "--output", output, "--weights", "none"),
        *("--stages", f"decoder:{epochs}", "--batch-size", "5", "--image-size", "64", "--min-count", "1"),
        *("--patience", "0", "--workers", "0", "--save-every", "2", "--device", "cpu", "--model.dropout", "0"),
        *("--model.encoder", "squeezenet1_1", "--model.embedding-size", "16", "--model.hidden-size", "24"),
    ]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def kill_one(process: subprocess.Popen, log: Path, rows: int) -> None:
    """Kill the second of two processes when the log has that number of rows."""
    deadline = time.monotonic() + 200
    while not log.exists() or len(read_log(log)) < rows:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


def test_a_process_that_dies(toy, tmp_path, monkeypatch):
    """At the first death, torchrun starts both processes again, and they go on from last/: the log is that of one
    process that did not die. The second death ends the run within a minute, and the reason is told."""
    process, log = start(toy, tmp_path / "run", "--max-restarts", "1", epochs=200), tmp_path / "run/log.jsonl"
    kill_one(process, log, rows=8)
    killed = len(read_log(log))
    kill_one(process, log, rows=killed + 5)
    told, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "SIGKILL" in told and "continued after step" in told

    ours = read_log(log)

    def step(run, batches, step=loop.train_step):
        if run.progress.step == ours[-1]["step"] - 1:
            raise KeyboardInterrupt
        return step(run, batches)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(loop.Interrupted):
        train(settings(toy, tmp_path / "alone", epochs=200))
    theirs = read_log(tmp_path / "alone/log.jsonl")
    assert len(theirs) > killed
    for row, other in zip(ours, theirs, strict=False):
        assert row.keys() == other.keys() and row["step"] == other["step"]
        assert row["loss"] == pytest.approx(other["loss"], rel=3e-4)  # in bfloat16


@pytest.mark.slow
def test_a_run_of_two_processes_that_are_started_again(toy, tmp_path):
    """To the bit the run of no death."""
    logs = []
    for deaths, output in ((1, tmp_path / "cut"), (0, tmp_path / "whole")):
        process = start(toy, output, "--max-restarts", "1", epochs=6)
        if deaths:
            kill_one(process, output / "log.jsonl", rows=9)
        told, _ = process.communicate(timeout=200)
        assert process.returncode == 0, told
        assert ("continued after step" in told) == bool(deaths)
        logs.append((read_log(output / "log.jsonl"), load_checkpoint(output / "last")[0]))
    (ours, tensors), (theirs, weights) = logs
    assert ours == theirs
    assert all(torch.equal(tensors[name], weights[name]) for name in weights)
