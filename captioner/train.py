"""The training recipe: a CNN and an RNN, jointly, in stages. It reads from top to bottom; what it needs (data, losses,
optimizer, search, scores, files) lives in the rooms below. Nothing here is drawn from a generator that would have
to be saved: the order of an epoch, the variation of a photo and the dropout of a step are functions of the seed and where
the run is, so a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.backend import TorchBackend
from captioner.captioner import Captioner
from captioner.card import model_card
from captioner.checkpoint import load_checkpoint, load_into, load_state, save_checkpoint
from captioner.config import TrainConfig
from captioner.data.cache import cached_features
from captioner.data.datasets import Augmenter, Batch, CachedFeatures, Photos, batches, encode_captions, epoch_order
from captioner.data.readers import Record, read_dataset, select
from captioner.device import autocast, choose_device, has_bfloat16
from captioner.evaluate import validate
from captioner.images import Preprocess
from captioner.journal import Journal, read_log
from captioner.model import CaptionModel, build_model
from captioner.objectives import cross_entropy
from captioner.optim import build_optimizer, optimizer_state, restore_optimizer, schedule, set_learning_rates
from captioner.visualize import save_curves
from captioner.vocabulary import PAD, Vocabulary, tokenize


@dataclass(frozen=True)
class Stage:
    """Some epochs of training; the CNN learns from `block` up, or not at all."""

    block: str | None
    epochs: int

    @property
    def name(self) -> str:
        return self.block or "decoder"


@dataclass(frozen=True)
class Split:
    name: str
    records: list[Record]
    captions: list[list[list[int]]]  # as token ids


@dataclass
class Progress:
    """Where a run is: all that `last/` keeps beside tensors."""

    stage: int = 0
    epoch: int = 0  # of the stage, finished ones
    batch: int = 0  # of the epoch, finished ones
    step: int = 0  # of the run
    best: float = -1.0  # CIDEr-D
    best_step: int = 0
    stale: int = 0  # epochs of the stage since the best one
    seconds: float = 0.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the run has been saved."""


def train(config: TrainConfig) -> Path:
    """Train as the config says and return the folder of the best checkpoint.

    Raises ValueError for settings and data that cannot be used and FloatingPointError when the loss is no number.
    """
    stages = [parse_stage(text) for text in config.stages]
    records = read_dataset(config.data)
    train_records, val_records = (_limited(select(records, name), config.limit) for name in ("train", "val"))
    captioner, progress, moments = _resume(config) if config.resume else _begin(config, train_records)
    model, device = captioner.backend.model, captioner.backend.device
    for stage in stages:  # a wrong block name is an error now, not after the first stage
        model.encoder.unfreeze_from(stage.block)
    training = Split("train", train_records, encode_captions(train_records, captioner.vocabulary, config.max_length))
    validation = Split("val", val_records, encode_captions(val_records, captioner.vocabulary, config.max_length))
    last, best = config.output / "last", config.output / "best"
    print_plan(config, stages, captioner, training, validation)
    journal = Journal(config.output, progress.step, validated=progress.batch == 0)
    started = time.monotonic() - progress.seconds

    def save() -> None:
        progress.seconds = time.monotonic() - started
        state = {"progress": asdict(progress), "optimizer": optimizer_state(optimizer)}
        save_run(last, captioner, config, progress, state=state)

    try:
        while progress.stage < len(stages):
            stage = stages[progress.stage]
            model.encoder.unfreeze_from(stage.block, config.train_batch_norm and stage.block is not None)
            optimizer = build_optimizer(
                model,
                config.learning_rate if stage.block is None else config.joint_learning_rate,
                config.encoder_learning_rate,
                config.weight_decay,
            )
            if moments:
                restore_optimizer(optimizer, moments)
                moments = {}
            if progress.step == 0:
                save()
            photos = len(training.records)
            epoch_steps = -(-photos // config.batch_size)
            while progress.epoch < stage.epochs:
                seed = (config.seed, progress.stage, progress.epoch)
                remaining = epoch_order(photos, config.batch_size, seed)[progress.batch :]
                train_set = _dataset(config, captioner, training, stage, seed)
                title = f"{stage.name} {progress.epoch + 1}/{stage.epochs}"
                bar = tqdm(total=photos, initial=progress.batch * config.batch_size, desc=title, unit="photo")
                with bar, _signals() as interrupted:
                    model.train()
                    for batch in batches(train_set, remaining, config.workers):
                        share = schedule(
                            progress.epoch * epoch_steps + progress.batch, stage.epochs * epoch_steps, config.warmup
                        )
                        set_learning_rates(optimizer, share)
                        torch.manual_seed(config.seed * 1_000_003 + progress.step)
                        figures = train_step(model, optimizer, batch, config, device, progress.step + 1)
                        progress.step += 1
                        progress.batch += 1
                        bar.update(len(batch.ids))
                        bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
                        journal.write(
                            "step", progress.step, stage=stage.name, epoch=progress.epoch + 1,
                            **figures, learning_rate=optimizer.param_groups[0]["lr"],
                        )  # fmt: skip
                        if interrupted or (config.save_every and progress.step % config.save_every == 0):
                            save()
                        if interrupted:
                            break
                if interrupted:
                    raise KeyboardInterrupt
                save()
                valid_set = _dataset(config, captioner, validation, stage, seed)
                scores = validate(captioner, valid_set, val_records, config.decoding, workers=config.workers)
                journal.write("validation", progress.step, stage=stage.name, epoch=progress.epoch + 1, **scores)
                better = scores["CIDEr-D"] > progress.best
                print_scores(title, scores, better)
                progress.stale += 1
                if better:
                    progress.best, progress.best_step, progress.stale = scores["CIDEr-D"], progress.step, 0
                    progress.seconds = time.monotonic() - started
                    save_run(best, captioner, config, progress, scores=scores)
                progress.epoch, progress.batch = progress.epoch + 1, 0
                if config.patience and progress.stale >= config.patience:
                    print(f"{stage.name}: no better CIDEr-D for {progress.stale} epochs; the stage ends here.")
                    progress.epoch = stage.epochs
                save()
            progress.stage, progress.epoch, progress.stale = progress.stage + 1, 0, 0
            optimizer.state.clear()
            if progress.stage < len(stages):  # the next stage starts from the best epoch, not from the last
                load_into(model, load_checkpoint(best)[0], best)
            save()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after step {progress.step}; {last} is saved. To go on, give the same command and --resume."
        ) from None
    finally:
        journal.close()
    save_curves(config.output / "curves.png", read_log(journal.path))
    return best


def parse_stage(text: str) -> Stage:
    """`decoder:10` or `features.14:5`."""
    name, colon, epochs = text.partition(":")
    if not (name and colon and epochs.isdigit() and int(epochs)):
        raise ValueError(
            f"stage {text!r} is not NAME:EPOCHS, such as decoder:10 (over the frozen CNN) or features.14:5 "
            "(the CNN learns from that block up)."
        )
    return Stage(None if name == "decoder" else name, int(epochs))


def train_step(
    model: CaptionModel, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainConfig, device: torch.device, step: int
) -> dict[str, float]:
    """One step of joint back-propagation. Returns the loss (nats a token) and the gradient's norm before clipping;
    raises FloatingPointError, with nothing changed, if either is no finite number."""
    batch = batch.to(device)
    real = batch.targets != PAD
    with autocast(device):
        logits, _, _ = model(batch.images, batch.inputs, real)
        loss = cross_entropy(logits, batch.targets[real], config.label_smoothing) / real.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise FloatingPointError(
            f"step {step}: the loss is {loss.item()} and its gradient's norm {norm.item()}; photos of the batch: "
            f"{', '.join(map(str, batch.ids))}. The last saved checkpoint is untouched. Try a smaller --learning-rate."
        )
    optimizer.step()
    return {"loss": loss.item(), "gradient_norm": norm.item()}


def _begin(config: TrainConfig, records: list[Record]) -> tuple[Captioner, Progress, dict]:
    if (config.output / "last").exists():
        raise ValueError(f"{config.output} holds a run already. Add --resume to go on with it, or choose another --output.")
    torch.manual_seed(config.seed)
    vocabulary = Vocabulary.build(
        (tokenize(caption) for record in records for caption in record.captions), config.min_count
    )
    model = build_model(config.model, len(vocabulary), config.weights)
    encoder = model.encoder
    preprocess = Preprocess(config.image_size or encoder.image_size, mean=encoder.mean, std=encoder.std)
    backend = TorchBackend(model, choose_device(config.device))
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "train.json").write_text(json.dumps(asdict(config), indent=1, default=str) + "\n", encoding="utf-8")
    return Captioner(backend, vocabulary, preprocess, config.model, config.decoding), Progress(), {}


def _resume(config: TrainConfig) -> tuple[Captioner, Progress, dict]:
    last = config.output / "last"
    if not last.exists():
        raise FileNotFoundError(f"{last} is not there, so there is nothing to go on with. Leave --resume out to start.")
    before = json.loads((config.output / "train.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(config), default=str))
    free = {"resume", "workers", "device", "save_every", "cache", "data", "output"}
    for name in sorted(set(before) - free):
        if before[name] != now.get(name):
            raise ValueError(
                f"{config.output} was begun with {name} = {before[name]}, but now it is {now.get(name)}. "
                "Go on with the settings it was begun with, or start another run in another --output."
            )
    captioner = Captioner.load(last, device=config.device)
    state = load_state(last)
    return captioner, Progress(**state["progress"]), state["optimizer"]


def _dataset(config: TrainConfig, captioner: Captioner, split: Split, stage: Stage, seed: tuple[int, ...]) -> Dataset:
    """A stage's photos: cached features while the CNN is frozen, and else the photos, varied in training."""
    if stage.block is None:
        folder = (config.cache or config.output / "features") / split.name
        encoder, preprocess, title = captioner.backend.model.encoder, captioner.preprocess, f"features of {split.name}"
        features = cached_features(folder, encoder, preprocess, split.records, config.workers, title=title)
        return CachedFeatures(split.records, split.captions, features)
    augmenter = Augmenter(config.augment, captioner.vocabulary, seed) if split.name == "train" else None
    return Photos(split.records, split.captions, captioner.preprocess, augmenter)


def save_run(
    directory: Path,
    captioner: Captioner,
    config: TrainConfig,
    progress: Progress,
    scores: dict[str, float] | None = None,
    state: dict | None = None,
) -> None:
    """Write a checkpoint: `best/`, in half precision with its scores, or `last/`, exact and with the `state` to resume."""
    saved = captioner.to_config() | {
        "training": {
            "data": config.data.name,
            "settings": json.loads(json.dumps(asdict(config), default=str)),
            "step": progress.step,
            "hours": round(progress.seconds / 3600, 2),
        },
        "scores": scores,
    }
    tensors = captioner.backend.model.state_dict()
    save_checkpoint(directory, tensors, saved, model_card(saved), half=state is None, state=state)


def print_plan(
    config: TrainConfig, stages: list[Stage], captioner: Captioner, training: Split, validation: Split
) -> None:
    """What is going to happen, before it happens."""
    backend = captioner.backend
    size = sum(parameter.numel() for parameter in backend.model.parameters()) / 1e6
    precision = "bfloat16" if has_bfloat16(backend.device) else "float32"
    print(f"data    {config.data}: {len(training.records)} photos to train on, {len(validation.records)} to validate on")
    example = training.records[0]
    print(f"        such as {example.path.name}: {example.captions[0]}")
    print(f"model   {config.model.encoder} + {config.model.cell}, {size:.1f} M parameters, {len(captioner.vocabulary)} words")
    print(f"device  {backend.device}, {precision}")
    for stage in stages:
        learns = "decoder over the frozen CNN" if stage.block is None else f"decoder, and the CNN from {stage.block} up"
        print(f"stage   {stage.epochs:3d} epochs: {learns}")
    print(f"output  {config.output}", flush=True)


def print_scores(title: str, scores: dict[str, float], better: bool) -> None:
    figures = "  ".join(f"{name} {scores[name]:.3f}" for name in ("loss", "BLEU-1", "BLEU-4", "CIDEr-D"))
    tqdm.write(f"{title}: {figures}{'  (best so far)' if better else ''}")
    sys.stdout.flush()


def _limited(records: list[Record], limit: int) -> list[Record]:
    return records[:limit] if limit else records


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that a first Ctrl-C (or SIGTERM) fills, so that a step is never cut in two; a second one does its usual work."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])
        print("\nfinishing the step, then saving ...", file=sys.stderr)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
