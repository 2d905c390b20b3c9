"""The time of a training step of each objective over cached features, relative to cross-entropy's:

    python scripts/benchmark_objectives.py DATA [--init flickr8k]

The steps are those of `captioner train`: 16 photos with all their captions. The learning rate is 0, so that each
objective meets the same model. Objectives take turns; the table has medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from captioner.checkpoint.manifest import find_checkpoint, read_config
from captioner.config import ModelConfig
from captioner.data.datasets import batches
from captioner.training.caption_run import open_run
from captioner.training.config import DistillationConfig, TrainConfig, parse_stage
from captioner.training.loop import train_step
from captioner.training.optim import set_learning_rates
from captioner.training.train import start_stage, training_dataset

STAGES = (
    "decoder:1",
    "cross-entropy+coverage@decoder:1",
    "cross-entropy+attention-supervision@decoder:1",
    "scheduled-sampling@decoder:1",
    "professor-forcing@decoder:1",
    "self-critical@decoder:1",
    "distillation@decoder:1",
)
ROUNDS, BATCHES = 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data set, as captioner train reads it")
    parser.add_argument(
        "--init", type=Path, default=Path("flickr8k"), help="a captioner that cross-entropy has trained"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig.from_dict(read_config(find_checkpoint(arguments.init))["model"])
        config = TrainConfig(
            (arguments.data,), Path(folder), replace(model, dropout=0.4), init=arguments.init, stages=STAGES,
            limit=16 * BATCHES, device="cpu", workers=0, distillation=DistillationConfig((str(arguments.init),)),
        )  # fmt: skip
        run, _ = open_run(config, [parse_stage(text) for text in STAGES])
        parts = []
        for number in range(len(STAGES)):
            run.progress.stage = number
            start_stage(run)
            parts.append((run.objective.train(), run.optimizers))
        order = [list(range(start, start + 16)) for start in range(0, config.limit, 16)]
        loaded = list(batches(training_dataset(run), order, 0))
        run.model.train()
        run.stage_step, run.stage_steps = 1, 2
        times: list[list[float]] = [[] for _ in STAGES]
        for round in range(1 + ROUNDS):
            for number, (run.objective, run.optimizers) in enumerate(parts):
                for optimizer in run.optimizers.values():
                    set_learning_rates(optimizer, 0.0)
                start = time.process_time()
                for batch in loaded:
                    train_step(run, [batch])
                if round:
                    times[number].append((time.process_time() - start) / len(loaded))
    base = statistics.median(times[0])
    print("| stage | ms per step | cross-entropy's |\n|---|---|---|")
    for stage, measured in zip(STAGES, times, strict=True):
        middle = statistics.median(measured)
        print(f"| {stage} | {1000 * middle:.0f} ({1000 * min(measured):.0f} to {1000 * max(measured):.0f}) "
              f"| {middle / base:.2f} times |")  # fmt: skip


if __name__ == "__main__":
    main()
