"""The training recipe: a CNN and an RNN, jointly, in stages. It reads from top to bottom; what it needs (data, losses,
optimizer, search, scores, files) lives in the rooms below. Nothing here is drawn from a generator that would have
to be saved: the order of an epoch, the variation of a photo and the dropout of a step are functions of the seed and
of where the run is, so a resumed run is the uninterrupted one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.data.augment import Augmenter
from captioner.data.cache import cached_features
from captioner.data.datasets import PhotoDataset, encode_captions
from captioner.data.readers import Record, read_dataset, select
from captioner.device import has_bfloat16
from captioner.model import CaptionModel
from captioner.training.config import Stage, TrainConfig, check_settings, parse_stage
from captioner.training.journal import Journal, read_log
from captioner.training.loop import Interrupted, run_epoch
from captioner.training.optim import build_optimizer, restore_optimizer
from captioner.training.run import Run, Split, begin, resume
from captioner.training.validate import validate
from captioner.visualize import save_curves


def train(config: TrainConfig) -> Path:
    """Train as the config says and return the folder of the best checkpoint.

    Raises ValueError for settings and data that cannot be used, FloatingPointError when the loss is no number, and
    `Interrupted` after a Ctrl-C.
    """
    check_settings(config)
    stages = [parse_stage(text) for text in config.stages]
    records = read_dataset(config.data)
    train_records, val_records = (_limited(select(records, name), config.limit) for name in ("train", "val"))
    start = resume if config.resume else begin
    captioner, progress, moments = start(config, [*train_records, *val_records])
    for stage in stages:  # a wrong block name is an error now, not after the first stage
        captioner.model.encoder.unfreeze_from(stage.block)
    best = config.output / "best"
    if progress.stage == len(stages):
        print(f"{config.output} is complete already.")
        return best

    vocabulary = captioner.vocabulary
    training = Split("train", train_records, encode_captions(train_records, vocabulary, config.max_length))
    validation = Split("val", val_records, encode_captions(val_records, vocabulary, config.max_length))
    journal = Journal(config.output, progress.step, validated=progress.batch == 0)
    optimizer = _start_stage(config, captioner.model, stages[progress.stage])
    started = time.monotonic() - progress.seconds
    run = Run(config, stages, captioner, training, validation, progress, journal, optimizer, started)
    print_plan(run)
    try:
        if config.resume:
            restore_optimizer(optimizer, moments)
        else:
            run.save("last")
        while True:
            features = _features(run)
            while progress.epoch < run.stage.epochs:
                seed = (config.seed, progress.stage, progress.epoch)
                run_epoch(run, features.get("train") or _photos(run, run.training, seed), seed)
                run_validation(run, features.get("val") or _photos(run, run.validation))
            progress.stage, progress.epoch, progress.stale = progress.stage + 1, 0, 0
            run.optimizer.state.clear()
            if progress.stage == len(stages):
                break
            load_into(run.model, load_checkpoint(best)[0], best)  # go on from the best epoch, not from the last
            run.optimizer = _start_stage(config, run.model, run.stage)
            run.save("last")
        save_curves(config.output / "curves.png", read_log(journal.path))
        run.save("last")
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after step {progress.step}; {config.output / 'last'} is saved. "
            "To go on, give the same command and --resume."
        ) from None
    finally:
        journal.close()
    return best


def run_validation(run: Run, dataset: Dataset) -> None:
    """Caption the validation photos, keep the best model, decide whether the stage goes on."""
    config, progress = run.config, run.progress
    scores = validate(run.captioner, dataset, run.validation.records, config.decoding, workers=config.workers)
    run.journal.write("validation", progress.step, stage=run.stage.name, epoch=progress.epoch + 1, **scores)
    better = scores["CIDEr-D"] > progress.best
    print_scores(run.title, scores, better)
    progress.stale += 1
    if better:
        progress.best, progress.stale = scores["CIDEr-D"], 0
        run.save("best", scores)
    progress.epoch, progress.batch = progress.epoch + 1, 0
    if config.patience and progress.stale >= config.patience:
        print(f"{run.stage.name}: no better CIDEr-D for {progress.stale} epochs; the stage ends here.")
        progress.epoch = run.stage.epochs
    run.save("last")


def _start_stage(config: TrainConfig, model: CaptionModel, stage: Stage) -> torch.optim.AdamW:
    """Freeze and unfreeze, and give what learns a new optimizer."""
    model.encoder.unfreeze_from(stage.block, config.train_batch_norm and stage.block is not None)
    decoder_rate = config.learning_rate if stage.block is None else config.joint_learning_rate
    return build_optimizer(model, decoder_rate, config.encoder_learning_rate, config.weight_decay)


def _features(run: Run) -> dict[str, Dataset]:
    """The cached features of both splits, opened once per stage, or nothing if the CNN learns in this stage."""
    if run.stage.block is not None:
        return {}
    config, encoder, preprocess = run.config, run.model.encoder, run.captioner.preprocess
    opened: dict[str, Dataset] = {}
    for split in (run.training, run.validation):
        folder, title = (config.cache or config.output / "features") / split.name, f"features of {split.name}"
        opened[split.name] = cached_features(
            folder, encoder, preprocess, split.records, split.captions, config.workers, title=title
        )
    return opened


def _photos(run: Run, split: Split, seed: tuple[int, ...] | None = None) -> Dataset:
    """The photos of a split, augmented if there is a seed."""
    augmenter = Augmenter(run.config.augment, run.captioner.vocabulary, seed) if seed else None
    return PhotoDataset(split.records, split.captions, run.captioner.preprocess, augmenter)


def print_plan(run: Run) -> None:
    """What is going to happen, before it happens."""
    config, model, training = run.config, run.model, run.training.records
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    words = len(run.captioner.vocabulary.words)
    print(f"data    {config.data}: {len(training)} photos to train on, {len(run.validation.records)} to validate on")
    print(f"        such as {training[0].path.name}: {training[0].captions[0]}")
    print(f"model   {config.model.encoder} + {config.model.cell}, {size:.1f} M parameters, {words} words")
    print(f"device  {model.device}, {'bfloat16' if has_bfloat16(model.device) else 'float32'}")
    for stage in run.stages:
        learns = "decoder over the frozen CNN" if stage.block is None else f"decoder, and the CNN from {stage.block} up"
        print(f"stage   {stage.epochs:3d} epochs: {learns}")
    step = run.progress.step
    print(f"output  {config.output}{f', going on after step {step}' if step else ''}", flush=True)


def print_scores(title: str, scores: dict[str, float], better: bool) -> None:
    figures = "  ".join(f"{name} {scores[name]:.3f}" for name in ("loss", "BLEU-1", "BLEU-4", "CIDEr-D"))
    tqdm.write(f"{title}: {figures}{'  (best so far)' if better else ''}")
    sys.stdout.flush()


def _limited(records: list[Record], limit: int) -> list[Record]:
    return records[:limit] if limit else records
