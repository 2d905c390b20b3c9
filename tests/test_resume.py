"""A run that goes on: with its own settings, from the command line; with stages that are added when it is finished; and
what is refused. How each objective is resumed is in `test_train_objectives`."""

import json
import random
import signal
import time
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from captioner.checkpoint.tensors import load_checkpoint, load_state
from captioner.config import ModelConfig, RecurrentConfig
from captioner.data.augment import AugmentConfig
from captioner.data.toy import make_toy
from captioner.decoding import Decoding
from captioner.training import loop
from captioner.training import train as training
from captioner.training.config import PretrainConfig, SelfCriticalConfig, TrainConfig, read_settings
from captioner.training.journal import read_log
from captioner.training.pretrain import pretrain
from captioner.training.run import to_json

train = training.train


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=20, size=64)
    return root


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the dogs run\nthe cats sleep\n" * 60)
    return path


def settings(toy, output, *stages: str, **changes) -> TrainConfig:
    """With switches that are on, which the command line must be able to take again."""
    config = TrainConfig(
        (toy,), output, ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=16, tie_embeddings=True),
        weights="none", stages=stages, batch_size=8, image_size=64, min_count=1, patience=0, workers=0, save_every=2,
        device="cpu", decoding=Decoding(beam_size=1, max_length=6), freeze_embeddings=True,
        augment=AugmentConfig(flip=False),
    )  # fmt: skip
    return replace(config, **changes)


def text_settings(text, output) -> PretrainConfig:
    return PretrainConfig(
        (text,), output, model=RecurrentConfig(embedding_size=8, hidden_size=8), epochs=2, batch_size=2, bptt=10,
        vary_bptt=True, save_every=2, device="cpu",
    )  # fmt: skip


def assert_same_run(one: Path, other: Path) -> None:
    """To the bit: the log, the weights, the scores."""
    assert read_log(one / "log.jsonl") == read_log(other / "log.jsonl")
    for folder in ("best", "last"):
        (ours, about), (theirs, about_theirs) = (load_checkpoint(run / folder) for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), folder
        assert about["scores"] == about_theirs["scores"]


def interrupt(monkeypatch, run, config, at: int) -> None:
    def step(run, batches, step=loop.train_step):
        if run.progress.step == at:
            raise KeyboardInterrupt
        return step(run, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"--output {config.output} --resume"):
        patch.setattr(loop, "train_step", step)
        run(config)


RECIPES = {
    "scheduled-sampling": ("scheduled-sampling@decoder:2", {}),
    "self-critical": ("self-critical@decoder:2", {}),
    "greedy": ("self-critical@features.12:2", {"self_critical": SelfCriticalConfig(1, "greedy", bleu=0.5)}),
    "professor-forcing": ("professor-forcing@decoder:2", {}),
    "terms": ("cross-entropy+attention-supervision+coverage@features.12:2", {}),
    "average": ("decoder:2", {"ema": 0.9, "keep_best": 2, "accumulate": 2}),
    "streams": ("file", {}),
    "lines": ("line", {"batch_size": 20}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_a_random_step(toy, text, tmp_path, name):
    """By SIGKILL, which nothing can prepare for. The objective's own weights and state are resumed, too. How
    cross-entropy is killed is in `test_train`."""
    kind, changes = RECIPES[name]
    if kind in ("file", "line"):
        run, whole = pretrain, replace(text_settings(text, tmp_path / "whole"), document=kind, **changes)
    else:
        run, whole = train, settings(toy, tmp_path / "whole", kind, **{"batch_size": 2} | changes)
    run(whole)
    cut = replace(whole, output=tmp_path / "cut")
    rows = random.randint(4, read_log(whole.output / "log.jsonl")[-1]["step"] - 2)
    process = get_context("spawn").Process(target=run, args=(cut,))
    process.start()
    while len(read_log(cut.output / "log.jsonl")) < rows:
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run(replace(cut, resume=True))
    assert_same_run(cut.output, whole.output)
    states = [load_state(run.output / "last")["objective"] for run in (cut, whole)]
    ours, theirs = ({name: value for name, value in state.items() if value is not None} for state in states)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_resume_alone(toy, tmp_path, monkeypatch, run):
    whole, cut = (settings(toy, tmp_path / name, "decoder:2", "features.12:1") for name in ("whole", "cut"))
    train(whole)
    interrupt(monkeypatch, train, cut, at=3)
    status, out, err = run("train", "--output", cut.output, "--resume")
    assert status == 0 and "continued after step 2" in out, err
    assert_same_run(cut.output, whole.output)


def test_resume_alone_of_a_language_model(text, tmp_path, monkeypatch, run):
    whole, cut = (text_settings(text, tmp_path / name) for name in ("whole", "cut"))
    pretrain(whole)
    interrupt(monkeypatch, pretrain, cut, at=5)
    status, out, err = run("pretrain", "--output", cut.output, "--resume")
    assert status == 0 and "continued after step 4" in out, err
    assert_same_run(cut.output, whole.output)


def test_settings_may_be_given_again_and_others_are_refused(toy, tmp_path, run):
    config = settings(toy, tmp_path / "run", "decoder:1")
    train(config)
    again = ("train", "--output", config.output, "--resume")
    status, out, _ = run(*again, "--freeze-embeddings", "--augment.no-flip", "--batch-size", 8, "--workers", 1)
    assert status == 0 and f"{config.output} is complete already. To train it further, add stages" in out
    status, _, err = run(*again, "--batch-size", 4, "--deterministic", "--model.hidden-size", 17)
    assert status == 2 and err.count("\n") == 1
    told = "--model.hidden-size 16 (now 17), --batch-size 8 (now 4)"
    assert f"{config.output} was started with {told}. A resumed run keeps its settings: leave out" in err
    status, _, err = run(*again, "--stages", "decoder:2", "--train-batch-norm")
    assert (
        status == 2
        and "--stages decoder:1 (now decoder:2), --train-batch-norm False (now True). A resumed run keeps" in err
    )
    status, _, err = run("train", "--output", tmp_path / "none", "--resume")
    assert status == 2 and "so there is no run to resume. Check --output." in err
    status, _, err = run("train", "--output", tmp_path / "none")
    assert status == 2 and "--data is missing; expected at least one folder" in err


@pytest.mark.parametrize("better", [True, False], ids=["the added stage is better", "it is not"])
def test_stages_added_to_a_finished_run(toy, tmp_path, monkeypatch, run, better):
    """The run is that whose stages were given at once, though its best/ was stored in half precision in between. The
    best epoch of the second stage is not its last one. The classifier of the term is handed on."""
    stages = ("decoder:1", "cross-entropy+attention-supervision@decoder:2")
    more = ("cross-entropy+attention-supervision@features.12:1",)
    scores = {"whole": iter([0.1, 0.3, 0.2, 0.4 * better]), "parts": iter([0.1, 0.3, 0.2, 0.4 * better])}

    def score(captioner, *arguments, validate=training.validate, **options):
        return validate(captioner, *arguments, **options) | {"CIDEr-D": next(scores[running])}

    monkeypatch.setattr(training, "validate", score)
    running, whole = "whole", settings(toy, tmp_path / "whole", *stages, *more)
    train(whole)
    running, parts = "parts", settings(toy, tmp_path / "parts", *stages)
    train(parts)
    best = parts.output / "best"
    for graph in ("photo.onnx", "word.onnx"):
        (best / graph).touch()
    status, out, err = run("train", "--output", parts.output, "--resume", "--stages", *stages, *more)
    assert status == 0, err
    assert f"Afterwards, run:\n  captioner export {best}\n" in out and not (best / "word.onnx").exists()
    assert_same_run(parts.output, whole.output)
    saved = [json.loads((run.output / "train.json").read_text())["stages"] for run in (parts, whole)]
    assert saved[0] == saved[1] == [*stages, *more]


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(
            (Path("a"), Path("b=c")), Path("run"), ModelConfig("resnet18", hidden_size=9), (Path("x"), Path("z")),
            stages=("decoder:3",), shares=(1.0, 0.5), clip=float("inf"), init=Path("y"), augment=AugmentConfig(0.5),
            decoding=Decoding(beam_size=2), freeze_embeddings=True,
        ),
        PretrainConfig((Path("a"),), Path("run"), (Path("v"), Path("w")), model=RecurrentConfig(cell="gru"), epochs=3),
    ],
    ids=["train", "pretrain"],
)  # fmt: skip
def test_settings_are_read_as_they_were_written(config):
    saved = json.loads(json.dumps(to_json(asdict(config))))
    assert read_settings(type(config), saved, Path("train.json")) == config
    assert read_settings(
        type(config), {name: saved[name] for name in ("data", "text", "output") if name in saved}, Path()
    )
    with pytest.raises(
        ValueError, match=r"train\.json does not hold the settings of this kind of run \(unknown: colour\)"
    ):
        read_settings(type(config), saved | {"colour": 1}, Path("train.json"))
