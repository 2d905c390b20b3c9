"""A training run: what its settings may be, its stages, where it is, and how its folder keeps it. `best/` captions the
validation photos best; `last/` holds all that it takes to go on exactly. The steps themselves are in `train`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from captioner.backends.torch_backend import TorchBackend
from captioner.captioner import Captioner
from captioner.checkpoint.card import model_card
from captioner.checkpoint.manifest import has_checkpoint
from captioner.checkpoint.tensors import load_state, save_checkpoint
from captioner.data.readers import Record
from captioner.device import choose_device
from captioner.images import Preprocess
from captioner.model import CaptionModel, build_model
from captioner.training.config import Stage, TrainConfig
from captioner.training.journal import Journal
from captioner.training.optim import optimizer_state
from captioner.vocabulary import Vocabulary, tokenize

# Settings that may differ when a run is resumed and that a checkpoint does not keep: they change nothing of the model.
ABOUT_THE_MACHINE = ("data", "output", "cache", "device", "workers", "save_every", "resume")


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
    stale: int = 0  # epochs of the stage since the best one
    seconds: float = 0.0


@dataclass
class Run:
    """What the functions of the recipe hand to one another."""

    config: TrainConfig
    stages: list[Stage]
    captioner: Captioner
    training: Split
    validation: Split
    progress: Progress
    journal: Journal
    optimizer: torch.optim.AdamW
    started: float

    @property
    def model(self) -> CaptionModel:
        return self.captioner.model

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    @property
    def title(self) -> str:
        return f"{self.stage.name} {self.progress.epoch + 1}/{self.stage.epochs}"

    def save(self, name: Literal["best", "last"], scores: dict[str, float] | None = None) -> None:
        """Write `best/`, in half precision with its scores, or `last/`, exact, with all that a resume needs."""
        self.progress.seconds = time.monotonic() - self.started
        settings = {key: value for key, value in asdict(self.config).items() if key not in ABOUT_THE_MACHINE}
        settings["weights"] = Path(self.config.weights).name
        training = {
            "data": self.config.data.name,
            "photos": len(self.training.records),
            "step": self.progress.step,
            "hours": round(self.progress.seconds / 3600, 2),
            "settings": _plain(settings),
        }
        saved = self.captioner.to_config() | {"training": training, "scores": scores}
        state = {"progress": asdict(self.progress), "optimizer": optimizer_state(self.optimizer)}
        save_checkpoint(
            self.config.output / name,
            self.model.state_dict(),
            saved,
            model_card(saved),
            half=name == "best",
            state=state if name == "last" else None,
        )


def begin(config: TrainConfig, records: Sequence[Record]) -> tuple[Captioner, Progress, dict]:
    """A new run on these records: its untrained model, where it is, and no optimizer state yet."""
    if has_checkpoint(config.output / "last"):
        raise ValueError(
            f"{config.output} holds a run already. Add --resume to go on with it, or choose another --output."
        )
    torch.manual_seed(config.seed)
    captions = (caption for record in records if record.split == "train" for caption in record.captions)
    vocabulary = Vocabulary.build(map(tokenize, captions), config.min_count)
    if not vocabulary.words:
        raise ValueError(
            f"no word comes {config.min_count} times in the captions of {config.data}, so there is none to learn. "
            "Lower --min-count, or add captions."
        )
    model = build_model(config.model, len(vocabulary), config.weights)
    encoder = model.encoder
    preprocess = Preprocess(config.image_size or encoder.image_size, mean=encoder.mean, std=encoder.std)
    try:
        with torch.inference_mode():
            encoder.eval()(torch.zeros(1, 3, preprocess.size, preprocess.size))
    except RuntimeError as error:
        raise ValueError(
            f"{encoder.name} cannot see images of {preprocess.size} pixels ({error}). Pass a larger --image-size."
        ) from None
    backend = TorchBackend(model, choose_device(config.device))
    config.output.mkdir(parents=True, exist_ok=True)
    settings = _plain(asdict(config) | {"records": _digest(records)})
    (config.output / "train.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return Captioner(backend, vocabulary, preprocess, config.model, config.decoding), Progress(), {}


def resume(config: TrainConfig, records: Sequence[Record]) -> tuple[Captioner, Progress, dict]:
    """A run as `last/` keeps it: its model, where it is, its optimizer's state. Raises ValueError where going on would
    not be exact."""
    last = config.output / "last"
    if not has_checkpoint(last):
        raise FileNotFoundError(f"{last} is not there, so there is nothing to go on with. Leave --resume out to start.")
    before = json.loads((config.output / "train.json").read_text(encoding="utf-8"))
    digest = before.pop("records", None)
    now = _plain(asdict(config))
    for name in sorted(set(before) - set(ABOUT_THE_MACHINE)):
        if before[name] != now.get(name):
            raise ValueError(
                f"{config.output} was begun with {name} = {before[name]}, but now it is {now.get(name)}. "
                "Go on with the settings it was begun with, or start another run in another --output."
            )
    if digest not in (None, _digest(records)):
        raise ValueError(
            f"{config.output} was begun with other photos or captions than {config.data} has. Go on with those "
            "that it was begun with, or start another run in another --output."
        )
    captioner = Captioner.load(last, device=config.device, backend="torch")
    state = load_state(last)
    return captioner, Progress(**state["progress"]), state["optimizer"]


def _digest(records: Sequence[Record]) -> str:
    """Changes with every id, caption, split and with the order, but not with the place where the photos lie."""
    told = [[record.id, record.split, record.captions] for record in records]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: paths are strings, tuples lists."""
    return json.loads(json.dumps(values, default=str))
