"""A training run of any recipe: its settings, stages, progress and folder. `best/` holds the model with the best score;
`last/` holds everything that an exact resume needs. What a recipe adds (photos, text) is elsewhere."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from captioner.checkpoint.card import model_card
from captioner.checkpoint.manifest import AGAIN, STATE, CheckpointError, has_checkpoint, read_json
from captioner.checkpoint.tensors import load_checkpoint, load_into, load_state, save_checkpoint
from captioner.distributed import is_main, wait
from captioner.training.averaging import MovingAverage
from captioner.training.config import Stage
from captioner.training.journal import Journal
from captioner.training.optim import optimizer_state, restore_optimizer

# Settings that do not change the model. They may differ when a run is resumed, and a checkpoint does not keep them.
ABOUT_THE_MACHINE = (
    *("data", "images", "text", "validation", "init", "output", "cache"),  # where files are; their content is compared
    *("device", "workers", "save_every", "deterministic", "resume"),
)

STATE_PARTS = {"progress", "optimizers", "objective", "average"}  # of state.json


class Settings(Protocol):
    """The settings that the loop reads, which the config of every recipe has."""

    @property
    def output(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def warmup(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def patience(self) -> int: ...
    @property
    def save_every(self) -> int: ...


@dataclass
class Progress:
    """The progress of a run, saved in `last/` beside the tensors."""

    stage: int = 0  # finished stages of the run
    epoch: int = 0  # finished epochs of the stage
    epoch_step: int = 0  # finished steps of the epoch
    step: int = 0  # finished steps of the run
    best: float | None = None  # the score of best/ (see Selection.value); None before the first validation
    stale: int = 0  # epochs of the stage since the best one
    seconds: float = 0.0  # so far
    kept: list[tuple[float, str]] = field(default_factory=list)  # score and folder of the checkpoints in kept/
    figures: dict[str, float] = field(default_factory=dict)  # of the last step, over all its batches and processes


@dataclass(frozen=True)
class Selection:
    """The validation score that selects `best/`."""

    name: str
    larger_is_better: bool = True

    def computed(self, scores: Mapping[str, float]) -> bool:
        return scores[self.name] == scores[self.name]  # NaN differs from itself

    @property
    def loss(self) -> str:
        """The score used if this one cannot be computed: the validation loss of the same data set."""
        return "/".join((*self.name.split("/")[:-1], "loss"))

    def value(self, scores: Mapping[str, float]) -> float:
        """The value to compare; larger is better. If the score cannot be computed (NaN), the validation loss is
        used."""
        if not self.computed(scores):
            return -scores[self.loss]
        return scores[self.name] if self.larger_is_better else -scores[self.name]


@dataclass
class Run:
    """The state that the functions of a recipe share. Each recipe derives a class with its data, whose `describe` gives
    the config.json of its checkpoints. Each stage sets the objective and the optimizers."""

    config: Settings
    stages: list[Stage]
    model: nn.Module
    progress: Progress
    selection: Selection
    shown: tuple[str, ...]  # the validation scores that are printed
    journal: Journal = field(init=False)
    objective: nn.Module = field(init=False)
    parallel: DistributedDataParallel | None = field(init=False, default=None)  # both, on several processes
    optimizers: dict[str, torch.optim.Optimizer] = field(init=False)
    average: MovingAverage | None = field(init=False, default=None)  # of the weights, if the recipe keeps one
    stage_step: int = field(init=False, default=0)  # finished steps of the stage, of
    stage_steps: int = field(init=False, default=1)  # all of them; both are set before each step
    saved: int | None = field(init=False, default=None)  # the step that last/ holds; None if there is no last/ yet
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.monotonic() - self.progress.seconds

    def rate(self, batches: Sequence[Any]) -> float:
        """A factor for the learning rates of the step over these batches."""
        return 1.0

    def describe(self, scores: Mapping[str, float] | None) -> dict[str, Any]:
        """The content of a checkpoint's config.json."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    @property
    def title(self) -> str:
        return f"{self.stage.name} {self.progress.epoch + 1}/{self.stage.epochs}"

    @property
    def best(self) -> Path:
        return self.config.output / "best"

    @property
    def last(self) -> Path:
        return self.config.output / "last"

    def save_last(self) -> None:
        """Write `last/` in full precision, with everything that a resume needs."""
        self.progress.seconds = time.monotonic() - self.started
        state = {
            "progress": asdict(self.progress),
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "objective": self.objective.state_dict(),
            "average": self.average and self.average.state(),
        }
        saved = self.describe(None)
        if is_main():
            save_checkpoint(self.last, self.model.state_dict(), saved, model_card(saved), half=False, state=state)
        self.saved = self.progress.step

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the objective and the optimizers of the stage from the state in `last/`."""
        self.objective.load_state_dict(state["objective"])
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, state["optimizers"].get(name, {}))
        if self.average is not None:
            self.average.restore(**state["average"])
        self.saved = self.progress.step

    def averaged(self) -> AbstractContextManager[None]:
        """Inside this context the model has its averaged weights, if the recipe keeps an average. These are validated
        and saved in `best/`."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def save_best(self, scores: Mapping[str, float]) -> None:
        """Write `best/` in full precision, because the next stage starts from it."""
        self._save_scored(self.best, scores)

    def keep(self, scores: Mapping[str, float], count: int) -> None:
        """Also write the model to `kept/` if it is among the `count` best ones, and remove the one that it
        displaces."""
        value, name = self.selection.value(scores), f"step-{self.progress.step:07d}"
        ranked = sorted([*self.progress.kept, (value, name)], key=lambda each: each[0], reverse=True)
        if (value, name) in ranked[:count]:
            self._save_scored(self.config.output / "kept" / name, scores)
        for _, displaced in ranked[count:]:
            if is_main():
                shutil.rmtree(self.config.output / "kept" / displaced, ignore_errors=True)
        self.progress.kept = ranked[:count]

    def _save_scored(self, directory: Path, scores: Mapping[str, float]) -> None:
        saved = self.describe({name: score for name, score in scores.items() if score == score})  # without NaN
        with self.averaged():
            if is_main():
                save_checkpoint(directory, self.model.state_dict(), saved, model_card(saved), half=False)

    def load_best(self) -> None:
        wait()  # for the main process to have written it
        load_into(self.model, load_checkpoint(self.best)[0], self.best)

    def finish(self) -> None:
        """Complete the run: write `best/` in half precision, and the same model in full precision to `last/`, from
        which a stage that is added later starts."""
        self.load_best()
        self.optimizers.clear()
        self.average = None
        self.save_last()
        self.store_best(half=True)

    def store_best(self, half: bool) -> None:
        """Write `best/` again from the model, which must have its weights."""
        if not is_main():
            return
        _, saved = load_checkpoint(self.best)
        saved = {name: value for name, value in saved.items() if name not in ("format_version", "weights")}
        save_checkpoint(self.best, self.model.state_dict(), saved, model_card(saved), half=half)


def settings_of_model(config: Any) -> dict[str, Any]:
    """The settings that a checkpoint keeps, as JSON-ready data."""
    return {name: value for name, value in to_json(asdict(config)).items() if name not in ABOUT_THE_MACHINE}


def check_unused(output: Path) -> None:
    """Raise ValueError if the folder holds a run or the remains of one."""
    if not is_main():
        return
    if has_checkpoint(output / "last"):
        raise ValueError(f"{output} holds a run already. Add --resume to continue it, or choose another --output.")
    if has_checkpoint(output / "best"):
        raise ValueError(f"{output / 'best'} is a checkpoint and would be overwritten. Choose another --output.")


def write_settings(config: Any, data_digest: str) -> None:
    if not is_main():
        return
    config.output.mkdir(parents=True, exist_ok=True)
    settings = to_json(asdict(config) | {"records": data_digest})
    partial = config.output / "train.json.partial"
    partial.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    partial.replace(config.output / "train.json")  # atomically, as a run can be killed here, too


def load_last(config: Any, data_digest: str) -> dict[str, Any]:
    """The state that `last/` holds. Raises FileNotFoundError if there is none, ValueError if the settings or the data
    differ from those that the run was started with, because the resumed run would then differ from an uninterrupted
    one."""
    last = config.output / "last"
    if not has_checkpoint(last):
        raise FileNotFoundError(
            f"{last} does not exist, so there is no run to resume. Leave --resume out to start one."
        )
    before = read_json(config.output / "train.json")
    digest = before.pop("records", None)
    check_same(before, to_json(asdict(config)), config.output)
    if digest != data_digest:
        raise ValueError(
            f"{config.output} was started with other data. Resume with the same data, or start a new run in another "
            "--output."
        )
    state = load_state(last)
    if not isinstance(state, dict) or not state.keys() >= STATE_PARTS:
        raise CheckpointError(
            f"{last / STATE} lacks parts of a run; expected {', '.join(sorted(STATE_PARTS))}. {AGAIN}"
        )
    return state


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], output: Path) -> None:
    """Raise ValueError if settings differ from those that a run was started with. Stages may be added at the end."""
    theirs, ours = _flat(before), _flat(now)
    stages = theirs.get("stages")
    if isinstance(stages, list) and list(ours.get("stages", ()))[: len(stages)] == stages:
        ours["stages"] = stages
    differing = [
        name for name in theirs if name.split(".")[0] not in ABOUT_THE_MACHINE and theirs[name] != ours.get(name)
    ]
    if not differing:
        return
    told = ", ".join(f"{_option(name, theirs[name])} (now {_written(ours.get(name))})" for name in differing)
    more = " (stages can be added after them)" if differing == ["stages"] else ""
    raise ValueError(
        f"{output} was started with {told}. A resumed run keeps its settings{more}: leave out those that differ, or "
        "start a new run in another --output."
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to full names, such as model.hidden_size."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _option(name: str, value: Any) -> str:
    return f"--{name.replace('_', '-')} {_written(value)}"


def _written(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def to_json(values: dict[str, Any]) -> dict[str, Any]:
    """The values after a round trip through JSON: paths become strings, tuples lists."""
    return json.loads(json.dumps(values, default=str))
