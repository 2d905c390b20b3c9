"""The recipe `train`: a CNN and an RNN, trained in stages, the later ones jointly. No random state is saved: the order
of an epoch, the augmentation of a photo and the dropout of a step are functions of the seed and the progress of the
run, so a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset

from captioner import distributed
from captioner.backends.choose import has_graphs
from captioner.checkpoint.manifest import has_checkpoint, read_config
from captioner.data.augment import Augmenter
from captioner.data.cache import FeatureDataset, cached_features
from captioner.data.datasets import PhotoDataset, batches, epoch_order
from captioner.device import has_bfloat16, make_deterministic
from captioner.training.averaging import MovingAverage
from captioner.training.caption_run import CaptionRun, Split, open_run, shares_of
from captioner.training.config import TrainConfig, check_settings, parse_stage
from captioner.training.journal import open_journal, read_log
from captioner.training.loop import counted, finish_epoch, interruptible, run_epoch
from captioner.training.objectives import build_objective, learning_rate_scale
from captioner.training.optim import build_optimizer
from captioner.training.parallel import parallel
from captioner.training.validate import by_name, validate
from captioner.visualize import save_curves


def train(config: TrainConfig) -> Path:
    """Train as the config says and return the folder of the best checkpoint.

    Raises ValueError for settings and data that cannot be used, FloatingPointError when the loss is not finite, and
    `Interrupted` after Ctrl-C or SIGTERM.
    """
    check_settings(config)
    with distributed.joined(config.device) as restarted:
        if restarted:
            config = replace(config, resume=has_checkpoint(config.output / "last"))
        return _train(config)


def _train(config: TrainConfig) -> Path:
    if config.deterministic:
        make_deterministic()
    with distributed.main_first():
        run, state = open_run(config, [parse_stage(text) for text in config.stages])
    progress = run.progress
    if progress.stage == len(run.stages):
        more = f"--stages {' '.join(config.stages)} ..."
        print(f"{config.output} is complete already. To train it further, add stages: --resume {more}")
        return run.best
    print_plan(run)
    journal = open_journal(config.output, progress.step, validated=progress.epoch_step == 0)
    with closing(journal) as run.journal, interruptible(run):
        if state and not state["optimizers"]:
            reopen(run, state)
            state = {}
        while progress.stage < len(run.stages):
            start_stage(run)
            if state:
                run.restore(state)
                state = {}
            else:
                run.save_last()
            training = training_dataset(run)
            validation = {name: split_dataset(run, split) for name, split in run.validation.items()}
            while progress.epoch < run.stage.epochs:
                seed = (config.seed, progress.stage, progress.epoch)
                order = epoch_order(run.photos_of_epoch(seed), config.batch_size, seed)
                dataset = augmented(run, training, seed)
                run_epoch(run, order, partial(batches, dataset, workers=config.workers), unit="photo")
                with run.averaged():
                    scores = validate_all(run, validation)
                run.keep(scores, config.keep_best)
                finish_epoch(run, scores)
            progress.stage, progress.epoch, progress.stale, progress.figures = progress.stage + 1, 0, 0, {}
            if progress.stage < len(run.stages):
                run.load_best()  # the next stage starts from the best epoch, not from the last one
        if distributed.is_main():
            save_curves(config.output / "curves.png", read_log(journal.path))
        run.finish()
    return run.best


def reopen(run: CaptionRun, state: Mapping[str, Any]) -> None:
    """Reopen a finished run to which stages were added. `best/` is stored in full precision again, as in an unfinished
    run, and the last objective is restored, because the next one may reuse its trained parts."""
    made = ["export"] * has_graphs(run.best) + ["calibrate"] * ("confidence" in read_config(run.best))
    if made and distributed.is_main():
        print(f"{run.best} will get new weights. Afterwards, run:")
        print(*(f"  captioner {verb} {run.best}" for verb in made), sep="\n")
    run.store_best(half=False)
    run.progress.stage -= 1
    start_stage(run)
    run.objective.load_state_dict(state["objective"])
    run.progress.stage += 1


def start_stage(run: CaptionRun) -> None:
    """Freeze the parts that do not learn, and set the objective and the optimizers of the stage."""
    config, model, stage = run.config, run.model, run.stage
    model.encoder.unfreeze_from(stage.block, config.train_batch_norm and stage.block is not None)
    model.decoder.embedding.weight.requires_grad_(not config.freeze_embeddings)
    torch.manual_seed(config.seed * 1_000_003 + run.progress.step)  # for objectives with weights of their own
    run.objective = build_objective(stage, run)
    scale = learning_rate_scale(run.objective)
    decoder_rate = scale * (config.learning_rate if stage.block is None else config.joint_learning_rate)
    parts = [(model.decoder, decoder_rate), (model.encoder, scale * config.encoder_learning_rate)]
    run.optimizers = {"model": build_optimizer(parts, config.weight_decay)}
    run.average = MovingAverage(model, config.ema) if config.ema else None
    run.parallel = parallel(model, run.objective)
    if list(run.objective.parameters()):
        run.optimizers["objective"] = build_optimizer([(run.objective, decoder_rate)], config.weight_decay)


def split_dataset(run: CaptionRun, split: Split) -> FeatureDataset | PhotoDataset:
    """The photos of a split or, while the CNN is frozen, their features, which are computed once."""
    config, preprocess = run.config, run.captioner.preprocess
    if run.stage.block is not None:
        return PhotoDataset(split.records, split.captions, preprocess)
    folder, title = (config.cache or config.output / "features") / split.name, f"features of {split.name}"
    encoder = run.model.encoder
    return cached_features(folder, encoder, preprocess, split.records, split.captions, config.workers, title=title)


def training_dataset(run: CaptionRun) -> Dataset:
    """The training photos of all data sets, or their features: item i belongs to record i of `run.training`."""
    if run.stage.block is not None:
        return split_dataset(run, run.training)
    return ConcatDataset([split_dataset(run, part) for part in run.parts.values()])


def augmented(run: CaptionRun, dataset: Dataset, seed: tuple[int, ...]) -> Dataset:
    """The training photos, augmented for one epoch. Cached features stay as they are."""
    if not isinstance(dataset, PhotoDataset):
        return dataset
    augmenter = Augmenter(run.config.augment, run.captioner.vocabulary, seed)
    return PhotoDataset(dataset.records, dataset.captions, dataset.preprocess, augmenter)


def validate_all(run: CaptionRun, datasets: Mapping[str, Dataset]) -> dict[str, float]:
    """The scores on the validation photos; with several data sets, the scores of each and their means."""
    config = run.config
    scores = {
        name: validate(run.captioner, datasets[name], split.records, config.decoding, workers=config.workers)
        for name, split in run.validation.items()
    }
    return by_name(scores) if len(config.data) > 1 else next(iter(scores.values()))


def print_plan(run: CaptionRun) -> None:
    """Print what the run is going to do."""
    config, model = run.config, run.model
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    words = len(run.captioner.vocabulary.words)
    for (name, share), path in zip(shares_of(config).items(), config.data, strict=True):
        counts = [len(splits[name].records) if name in splits else 0 for splits in (run.parts, run.validation)]
        drawn = f", a share of {share:g} per epoch" if 0 < share < 1 else ""
        print(f"data    {path}: {counts[0]} photos to train on{drawn}, {counts[1]} to validate on")
    print(f"        such as {run.training.records[0].path.name}: {run.training.records[0].captions[0]}")
    print(f"model   {config.model.encoder} + {config.model.cell}, {size:.1f} M parameters, {words} words")
    print(f"device  {run.device}, {'bfloat16' if has_bfloat16(run.device) else 'float32'}")
    for stage in run.stages:
        learns = "decoder over the frozen CNN" if stage.block is None else f"decoder, and CNN from {stage.block} up"
        minimised = " + ".join((stage.objective, *stage.terms))
        print(f"stage   {counted(stage.epochs, 'epoch')} of {minimised}: {learns}")
    step = run.progress.step
    print(f"output  {config.output}{f', continued after step {step}' if step else ''}", flush=True)
