"""The recipe `pretrain`: the decoder is trained as a language model on text alone."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from captioner import distributed
from captioner.checkpoint.manifest import has_checkpoint
from captioner.decoder import Decoder, State
from captioner.device import autocast, has_bfloat16, make_deterministic
from captioner.training.config import PretrainConfig, check_settings
from captioner.training.journal import open_journal, read_log
from captioner.training.loop import finish_epoch, interruptible, load_shares, run_epoch
from captioner.training.objectives import build_objective
from captioner.training.objectives.language_model import segment_loss
from captioner.training.optim import build_optimizer
from captioner.training.parallel import parallel
from captioner.training.text_run import Corpus, TextRun, open_text_run
from captioner.visualize import save_curves
from captioner.vocabulary import PAD


def pretrain(config: PretrainConfig) -> Path:
    """Train a language model as the config says and return the folder of the best checkpoint.

    Raises ValueError for settings and text that cannot be used, FloatingPointError when the loss is not finite, and
    `Interrupted` after Ctrl-C or SIGTERM.
    """
    check_settings(config)
    with distributed.joined(config.device) as restarted:
        if restarted:
            config = replace(config, resume=has_checkpoint(config.output / "last"))
        return _pretrain(config)


def _pretrain(config: PretrainConfig) -> Path:
    if config.deterministic:
        make_deterministic()
    with distributed.main_first():
        run, state = open_text_run(config)
    progress = run.progress
    if progress.stage == len(run.stages):
        print(f"{config.output} is complete already.")
        return run.best
    print_plan(run)
    journal = open_journal(config.output, progress.step, validated=progress.epoch_step == 0)
    with closing(journal) as run.journal, interruptible(run):
        run.optimizers = {"model": build_optimizer([(run.model, config.learning_rate)], config.weight_decay)}
        run.objective = build_objective(run.stage, run)
        run.parallel = parallel(run.model, run.objective)
        if state:
            run.restore(state)
        else:
            run.save_last()
        while progress.epoch < config.epochs:
            seed = (config.seed, progress.epoch)
            order = run.training.order(config.bptt, seed, config.vary_bptt)
            run_epoch(run, order, run.training.load, run.training.unit)
            finish_epoch(run, validate_text(run.model, run.validation, config.bptt, config.level))
        progress.stage, progress.epoch, progress.stale = 1, 0, 0
        if distributed.is_main():
            save_curves(config.output / "curves.png", read_log(journal.path))
        run.finish()
    return run.best


@torch.inference_mode()
def validate_text(decoder: Decoder, corpus: Corpus, bptt: int, level: str) -> dict[str, float]:
    """The `loss` of a text in nats per token, counting the ends of lines and documents, and the `perplexity` per word
    or the `bits per character` that follows from it. With several processes, each validates a share."""
    decoder.eval()
    device = decoder.embedding.weight.device
    total, count = 0.0, 0
    state: State | None = None
    for batch in load_shares(corpus.load, corpus.order(bptt, None)):
        if batch is None:
            continue
        with autocast(device):
            loss, state = segment_loss(decoder, batch.to(device).segment, state if batch.continues else None)
        total += loss.item()
        count += int((batch.segment.targets != PAD).sum())
    totals, counts = zip(*distributed.gather((total, count)), strict=True)
    mean = sum(totals) / sum(counts)
    if level == "character":
        return {"loss": mean, "bits per character": mean / math.log(2)}
    return {"loss": mean, "perplexity": math.exp(min(mean, 700))}


def print_plan(run: TextRun) -> None:
    """Print what the run is going to do."""
    config, training, validation = run.config, run.training, run.validation
    size = sum(parameter.numel() for parameter in run.model.parameters()) / 1e6
    known = f"{len(run.language_model.vocabulary.words):,} {config.level}s"
    held_out = "" if config.validation else ", the end of the text"
    print(f"text    {training.tokens:,} {config.level}s to train on, {validation.tokens:,} to validate on{held_out}")
    print(f"        {validation.unknown:.1%} of the validation text are unknown {config.level}s")
    print(f"model   {config.model.cell} language model, {size:.1f} M parameters, {known}")
    print(f"device  {run.device}, {'bfloat16' if has_bfloat16(run.device) else 'float32'}")
    step = run.progress.step
    print(f"output  {config.output}{f', continued after step {step}' if step else ''}", flush=True)
