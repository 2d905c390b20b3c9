"""Every objective and every means beside it in a whole run on the toy world: resumed is uninterrupted, to the bit."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint, load_state
from captioner.cli import main
from captioner.config import ModelConfig, RecurrentConfig
from captioner.data.toy import make_toy
from captioner.decoding import Decoding
from captioner.training import loop
from captioner.training import train as training
from captioner.training.averaging import MovingAverage
from captioner.training.config import DistillationConfig, PretrainConfig, SelfCriticalConfig, TrainConfig
from captioner.training.journal import read_log
from captioner.training.loop import Interrupted
from captioner.training.objectives import self_critical
from captioner.training.pretrain import pretrain

train = training.train


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=30, size=64)
    return root


def config(toy, output, stages: str, **changes) -> TrainConfig:
    model = ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24)
    settings = TrainConfig(
        (toy,), output, model, weights="none", stages=tuple(stages.split()), batch_size=8, image_size=64, min_count=1,
        patience=0, workers=0, save_every=2, device="cpu", decoding=Decoding(max_length=8),
    )  # fmt: skip
    return replace(settings, **changes)


def steps(output) -> list[dict]:
    return [row for row in read_log(output / "log.jsonl") if row["kind"] == "step"]


def tensors(value, name="") -> dict[str, torch.Tensor]:
    """The tensors in nested dicts."""
    if isinstance(value, dict):
        return {key: each for part in value for key, each in tensors(value[part], f"{name}/{part}").items()}
    return {name: value} if isinstance(value, torch.Tensor) else {}


RECIPES = {
    "scheduled-sampling": ("scheduled-sampling@decoder:2", {}, {"rate"}),
    "self-critical": (
        "self-critical@decoder:1 self-critical@features.12:1",
        {},
        {"reward", "distinct", "cross_entropy"},
    ),
    "greedy": (
        "self-critical@decoder:1",
        {"self_critical": SelfCriticalConfig(1, "greedy", bleu=0.5, wrong_object=0.3)},
        {"reward"},
    ),
    "professor-forcing": ("professor-forcing@decoder:2", {}, {"discriminator_accuracy"}),
    "attention-supervision": (
        "self-critical+attention-supervision@decoder:1 cross-entropy+attention-supervision@features.12:1",
        {},
        {"attention-supervision"},
    ),
    "coverage": ("cross-entropy+coverage@decoder:1", {}, {"coverage"}),
    "distillation": ("distillation@decoder:1 distillation+coverage@features.12:1", {}, {"loss"}),
    "average": ("decoder:1 features.12:1", {"ema": 0.9}, set()),
}


@pytest.fixture(scope="module")
def teacher(toy, tmp_path_factory):
    """A complete run: best/ in half precision, last/ exact."""
    run = config(toy, tmp_path_factory.mktemp("teacher") / "run", "decoder:1")
    train(run)
    return run.output


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_is_uninterrupted(toy, teacher, tmp_path, monkeypatch, name):
    stages, settings, figures = RECIPES[name]
    if name == "distillation":
        taught = DistillationConfig((str(teacher / "best"),))
        settings = {"weights": str(teacher / "last"), "distillation": taught}
    whole = config(toy, tmp_path / "whole", stages, **settings)
    train(whole)
    rows = read_log(whole.output / "log.jsonl")
    assert figures <= rows[0].keys()

    parts = config(toy, tmp_path / "parts", stages, **settings)
    stop_before = rows[-1]["step"] - 2  # in the middle of the last epoch

    def step_or_stop(run, batches, step=loop.train_step):
        if run.progress.step == stop_before and not run.config.resume:
            raise KeyboardInterrupt
        return step(run, batches)

    monkeypatch.setattr(loop, "train_step", step_or_stop)
    with pytest.raises(Interrupted):
        train(parts)
    train(replace(parts, resume=True))
    assert read_log(parts.output / "log.jsonl") == rows
    for checkpoint in ("best", "last"):
        ours, theirs = (load_checkpoint(run.output / checkpoint)[0] for run in (whole, parts))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), checkpoint
    ours, theirs = (tensors(load_state(run.output / "last")) for run in (whole, parts))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def test_the_best_model_is_the_average(toy, tmp_path, monkeypatch):
    """best/ holds the average by hand over the weights after each step, which are other weights."""
    settings = config(toy, tmp_path / "run", "decoder:1", ema=0.5)
    name = "decoder.output.bias"  # a vector: best/ keeps it exactly
    averages, weights = [], []

    def update(self, model, update=MovingAverage.update):
        update(self, model)
        averages.append(self.weights[name].clone())
        weights.append(model.get_parameter(name).detach().clone())

    monkeypatch.setattr(MovingAverage, "update", update)
    train(settings)
    assert len(averages) == 3
    best, last = (load_checkpoint(settings.output / folder)[0][name] for folder in ("best", "last"))
    assert torch.equal(best, averages[-1]) and torch.equal(last, best) and not torch.equal(best, weights[-1])


def test_the_best_epochs_are_kept_and_averaged(toy, tmp_path, monkeypatch, capsys):
    """kept/ has the best two of four epochs; their mean is that of the weights by hand."""
    run = config(toy, tmp_path / "run", "decoder:4", keep_best=2, save_every=0)
    scores = iter([0.1, 0.4, 0.2, 0.3])

    def score(*arguments, validate=training.validate, **options):
        return validate(*arguments, **options) | {"CIDEr-D": next(scores)}

    monkeypatch.setattr(training, "validate", score)
    train(run)
    kept = sorted((run.output / "kept").iterdir())
    assert [folder.name for folder in kept] == ["step-0000006", "step-0000012"]
    tensors, saved = load_checkpoint(kept[1])
    assert saved["scores"]["CIDEr-D"] == 0.3

    output = tmp_path / "averaged"
    monkeypatch.setattr(
        "sys.argv", ["captioner", "average", *map(str, kept), "--shares", "0.8", "0.2", "-o", str(output)]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0 and "mean of 2 checkpoints" in capsys.readouterr().out
    means, saved = load_checkpoint(output)
    averaged = [(each["checkpoint"], each["share"]) for each in saved["training"]["averaged"]]
    assert averaged == [("kept/step-0000006", 0.8), ("kept/step-0000012", 0.2)]
    for name, tensor in load_checkpoint(kept[0])[0].items():
        mean = 0.8 * tensor.double() + 0.2 * tensors[name].double()
        torch.testing.assert_close(means[name], mean.to(tensor.dtype), atol=1e-3, rtol=1e-3)  # stored in float16
    Captioner.load(output, "cpu")


def test_no_sampling_is_cross_entropy(toy, tmp_path):
    losses = []
    for stage in ("decoder:1", "scheduled-sampling@decoder:1"):
        run = config(toy, tmp_path / stage[:4], stage)
        train(replace(run, scheduled_sampling=replace(run.scheduled_sampling, rate=0.0)))
        losses.append([row["loss"] for row in steps(run.output)])
    assert losses[0] == losses[1]


def test_an_objective_scales_the_learning_rates_of_its_stages(toy, tmp_path):
    stages = "decoder:1 self-critical@decoder:1 self-critical+coverage@features.12:1"
    scaled = SelfCriticalConfig(learning_rate_scale=0.3)
    run = config(toy, tmp_path / "run", stages, learning_rate=1e-3, joint_learning_rate=2e-3, self_critical=scaled)
    train(run)
    first = {row["stage"]: row["learning_rate"] for row in reversed(steps(run.output))}
    assert list(first.values())[::-1] == pytest.approx([1e-3, 0.3e-3, 0.6e-3])


@pytest.mark.parametrize("frozen", [True, False])
def test_word_vectors(toy, tmp_path, capsys, frozen):
    """Frozen vectors are those of the file, scaled to a root mean square of 0.5, after training, too."""
    path = tmp_path / "vectors.txt"
    vectors = {"red": 0.2, "circle": 1.4, "zebra": 9.0}  # the model knows the first two, of a root mean square of 1
    path.write_text("".join(f"{word} {' '.join([str(number)] * 16)}\n" for word, number in vectors.items()))
    run = config(toy, tmp_path / "run", "decoder:1", embeddings=path, freeze_embeddings=frozen)
    train(run)
    assert f"vectors {path}: 11% of the words found (2 of 19)" in capsys.readouterr().out
    weights, saved = load_checkpoint(run.output / "last")
    for word in ("red", "circle"):
        row = weights["decoder.embedding.weight"][4 + saved["vocabulary"].index(word)]
        away = row.sub(vectors[word] / 2).abs().max()
        assert away < 1e-6 if frozen else 1e-6 < away < 0.1


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_run_that_collapses_says_so(toy, tmp_path, monkeypatch, collapsed):
    """All photos get one caption; it is no collapse if all samples of each photo are the same."""

    def draw_the_same(decoder, memory, samples, max_length, temperature):
        photos = torch.arange(len(memory.image)) * (not collapsed)
        return (4 + photos).repeat_interleave(samples)[:, None].repeat(1, 3)

    monkeypatch.setattr(self_critical, "draw", draw_the_same)
    monkeypatch.setattr(self_critical, "MEMORY", 0.1)
    run = config(toy, tmp_path / "run", "self-critical@decoder:1")
    with pytest.raises(ValueError, match="training has collapsed: only") if collapsed else nullcontext():
        train(run)


def test_coverage_needs_attention(toy, tmp_path):
    settings = config(toy, tmp_path / "run", "cross-entropy+coverage@decoder:1")
    with pytest.raises(ValueError, match="the model has none"):
        train(replace(settings, model=replace(settings.model, attention="none")))


def test_a_checkpoint_keeps_the_name_of_its_teacher_and_not_its_place(toy, teacher, tmp_path):
    run = config(toy, tmp_path / "run", "distillation@decoder:1")
    train(replace(run, distillation=DistillationConfig((str(teacher / "best"), str(teacher / "last")), 1.0)))
    settings = load_checkpoint(run.output / "best")[1]["training"]["settings"]
    assert settings["distillation"] == {"teacher": ["best", "last"], "share": 1.0}


def test_teachers_that_cannot_teach(toy, teacher, tmp_path):
    """Each is told before the first step of the first stage."""
    run = config(toy, tmp_path / "run", "decoder:1 distillation@decoder:1")
    best = str(teacher / "best")
    language = pretrain(
        PretrainConfig(
            (toy,),
            tmp_path / "text",
            model=RecurrentConfig(embedding_size=8, hidden_size=8),
            min_count=1,
            epochs=1,
            device="cpu",
        )
    )
    for taught, message, changes in (
        ((), r"--distillation.teacher is missing; expected one or more teacher checkpoints", {}),
        (("nowhere",), "nowhere does not exist", {}),
        ((str(language),), "is a language model, which sees no photos", {}),
        ((best,), "--image-size 64", {"image_size": 72}),
        ((best,), rf"another CNN\. Start from the teacher's CNN \(--weights {best}, without --init", {"seed": 1}),
        ((str(teacher),), rf"--weights {best}, ", {"seed": 1}),
        (
            (best,),
            "distillation@decoder comes after one in which the CNN learns",
            {"stages": ("features.12:1", "distillation@decoder:1"), "weights": best},
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(run, distillation=DistillationConfig(taught), **changes))
        assert not (run.output / "last").exists()
