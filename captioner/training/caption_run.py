"""The run of the recipe `train`, which learns to caption photos. It is started here, or resumed from `last/`; the steps
are in `loop`, their order in `train`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captioner.backends.torch_backend import TorchBackend
from captioner.captioner import Captioner
from captioner.checkpoint.manifest import find_checkpoint
from captioner.data.checks import PhotoCheck, check_photos, note_on_copies, notes_on, shortened
from captioner.data.datasets import encode_captions
from captioner.data.readers import Record, select
from captioner.data.sources import draw_photos, names_of, read_sources
from captioner.data.vectors import read_vectors
from captioner.decoder import EMBEDDING_SCALE
from captioner.device import choose_device
from captioner.distributed import is_main
from captioner.encoder import Encoder
from captioner.images import Preprocess
from captioner.model import CaptionModel, build_model
from captioner.training.config import DistillationConfig, Stage, TrainConfig
from captioner.training.initial import Initial
from captioner.training.run import (
    Progress,
    Run,
    Selection,
    check_unused,
    load_last,
    settings_of_model,
    write_settings,
)
from captioner.vocabulary import Vocabulary, tokenize

SHOWN = ("loss", "BLEU-1", "BLEU-4", "CIDEr-D")


@dataclass(frozen=True)
class Split:
    name: str  # for the cache of its features
    records: list[Record]
    captions: list[list[list[int]]]  # per photo, per caption: token ids


@dataclass(kw_only=True)
class CaptionRun(Run):
    config: TrainConfig
    model: CaptionModel
    captioner: Captioner
    parts: dict[str, Split]  # the training photos of each data set, by name
    training: Split  # all of them, in this order
    validation: dict[str, Split]  # the validation photos of each data set

    def photos_of_epoch(self, seed: Sequence[int]) -> list[int]:
        """The indices of the training photos that an epoch uses."""
        sizes, shares = [len(part.records) for part in self.parts.values()], shares_of(self.config)
        return draw_photos(sizes, [shares[name] for name in self.parts], seed)

    def describe(self, scores: Mapping[str, float] | None) -> dict[str, Any]:
        settings = settings_of_model(self.config)
        settings["weights"] = Path(self.config.weights).name
        settings["init"] = self.config.init and self.config.init.name
        settings["distillation"]["teacher"] = [Path(name).name for name in self.config.distillation.teacher]
        shares = shares_of(self.config).items()
        training = {
            "data": ", ".join(name if share == 1 else f"{name} (share {share:g})" for name, share in shares),
            "photos": len(self.training.records),
            "step": self.progress.step,
            "hours": round(self.progress.seconds / 3600, 2),
            "settings": settings,
        }
        return self.captioner.to_config() | {"training": training, "scores": scores}


def open_run(config: TrainConfig, stages: list[Stage]) -> tuple[CaptionRun, dict[str, Any]]:
    """A new run, or with `--resume` the one in `--output`, and the state from its `last/` (empty for a new run)."""
    _check_blocks(config.model.encoder, stages)
    if not config.resume:
        check_unused(config.output)
    parts, validation, check = read_splits(config)
    training = [record for part in parts.values() for record in part]
    digest = _digest([*training, *(record for split in validation.values() for record in split)])
    state: dict[str, Any] = {}
    if config.resume:
        state = load_last(config, digest)
        captioner = Captioner.load(config.output / "last", device=config.device, backend="torch")
    else:
        captioner = build_captioner(config, training)
    progress = Progress(**state.get("progress", {}))
    _check_teachers(config.distillation, captioner, stages[progress.stage :])
    write_settings(config, digest)  # also for a resumed run, whose stages may have been added to
    if is_main():
        check.save(config.output / "photos.json")

    def split(name: str, records: list[Record]) -> Split:
        return Split(name, records, encode_captions(records, captioner.vocabulary, config.max_length))

    splits = {name: split(f"{name}/train", records) for name, records in parts.items()}
    several = len(config.data) > 1
    run = CaptionRun(
        config=config,
        stages=stages,
        model=captioner.model,
        progress=progress,
        selection=Selection("CIDEr-D" if config.select == "mean" else f"{config.select}/CIDEr-D"),
        shown=("loss", "CIDEr-D", *(f"{name}/CIDEr-D" for name in validation)) if several else SHOWN,
        captioner=captioner,
        parts=splits,
        training=Split("train", training, [captions for part in splits.values() for captions in part.captions]),
        validation={name: split(f"{name}/val", records) for name, records in validation.items()},
    )
    return run, state


def shares_of(config: TrainConfig) -> dict[str, float]:
    """The share of each data set, by name."""
    names = names_of(config.data)
    return dict(zip(names, config.shares or [1.0] * len(names), strict=True))


def read_splits(config: TrainConfig) -> tuple[dict[str, list[Record]], dict[str, list[Record]], PhotoCheck]:
    """The training photos and the validation photos of each data set, without damaged ones, and the check that found
    those. Notes and damaged photos are printed. A data set with share 0 has no training photos. If there are several
    data sets, some may have no validation photos."""
    sources, shares = read_sources(config.data, config.images), shares_of(config)
    notes = [note for name, records in sources.items() for note in notes_on(records, name)]
    chosen: list[tuple[str, Record]] = []
    for name, records in sources.items():
        wanted = ["train", "val"] if shares[name] else ["val"]
        if len(sources) > 1 and not any(record.split == "val" for record in records):
            wanted.remove("val")
            notes.append(f"{name} has no photos to validate on")
        try:
            chosen += [(name, record) for split in wanted for record in select(records, split)[: config.limit or None]]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    validated = {name: None for name, record in chosen if record.split == "val"}
    if config.select not in ("mean", *validated):
        raise ValueError(
            f"--select is {config.select}; expected mean or a data set with validation photos: {', '.join(validated)}."
        )
    everything = [record for records in sources.values() for record in records]
    for note in [*notes, *note_on_copies(everything)]:
        print(f"note    {note}.")
    records = [record for _, record in chosen]
    check = check_photos(records, config.image_size or 224, config.output / "photos.json", config.workers)
    for problem in shortened(list(check.damaged.values()), "photos"):
        print(f"damaged {problem}")
    if check.damaged:
        print(f"note    {len(check.damaged)} of {len(chosen)} photos cannot be read and are left out.")
    training: dict[str, list[Record]] = {}
    validation: dict[str, list[Record]] = {}
    for number, (name, record) in enumerate(chosen):
        if number not in check.damaged:
            (training if record.split == "train" else validation).setdefault(name, []).append(record)
    if not (training and validation):
        what = "validate" if training else "train"
        raise ValueError(f"no photo to {what} on can be read. Copy or download the photos again.")
    return training, validation, check


def build_captioner(config: TrainConfig, training: Sequence[Record]) -> Captioner:
    """An untrained model with the vocabulary of the training captions. Raises ValueError if nothing can be learned from
    them."""
    torch.manual_seed(config.seed)
    initial = Initial.load(config.init) if config.init else None
    captions = (caption for record in training for caption in record.captions)
    vocabulary = Vocabulary.build(map(tokenize, captions), config.min_count)
    if initial:
        vocabulary = initial.vocabulary(vocabulary)
    if not vocabulary.words:
        raise ValueError(
            f"no word occurs {config.min_count} times in the training captions. Lower --min-count, or add captions."
        )
    trained = initial is not None and initial.has_encoder(config.model.encoder)
    weights = str(initial.directory) if initial and trained else config.weights
    model = build_model(config.model, len(vocabulary), weights)
    if initial:
        initial.place(model.decoder, vocabulary, config.model)
    if config.embeddings is not None:
        place_vectors(model, vocabulary, config.embeddings)
    encoder = model.encoder
    preprocess = Preprocess(config.image_size or encoder.image_size, mean=encoder.mean, std=encoder.std)
    if initial and trained:
        preprocess = Preprocess.from_dict(initial.saved["preprocess"])
        preprocess = replace(preprocess, size=config.image_size or preprocess.size)
    try:
        with torch.inference_mode():
            encoder.eval()(torch.zeros(1, 3, preprocess.size, preprocess.size))
    except RuntimeError as error:
        raise ValueError(
            f"{encoder.name} cannot take images of {preprocess.size} pixels ({error}). Choose a larger --image-size."
        ) from None
    backend = TorchBackend(model, choose_device(config.device))
    return Captioner(backend, vocabulary, preprocess, config.model, config.decoding)


def place_vectors(model: CaptionModel, vocabulary: Vocabulary, path: Path) -> None:
    """Copy the word vectors of a file into the embedding, and print how many there are. All are scaled by one factor to
    the root mean square of randomly initialised word vectors, because with small ones training starts slowly."""
    embedding = model.decoder.embedding.weight
    ids, vectors, share = read_vectors(path, vocabulary, embedding.shape[1])
    found = torch.from_numpy(vectors)
    with torch.no_grad():
        embedding[torch.from_numpy(ids)] = found * (EMBEDDING_SCALE / found.square().mean().sqrt().clamp(min=1e-12))
    print(f"vectors {path}: {share:.0%} of the words found ({len(ids)} of {len(vocabulary.words)})")


def _check_blocks(cnn: str, stages: Sequence[Stage]) -> None:
    """Raise ValueError for a wrong block name before any photo is read or weights are downloaded."""
    with torch.device("meta"):
        encoder = Encoder(cnn, None)
    for stage in stages:
        encoder.check_block(stage.block)


def _check_teachers(config: DistillationConfig, captioner: Captioner, stages: Sequence[Stage]) -> None:
    """Raise ValueError, before the first remaining stage, if one of them has a teacher whose preprocessing differs from
    the model's, or that would be given features of another CNN than its own."""
    taught = [number for number, stage in enumerate(stages) if stage.objective == "distillation"]
    frozen = [number for number in taught if stages[number].block is None]
    if frozen and any(stage.block is not None for stage in stages[: frozen[-1]]):
        raise ValueError(
            f"the stage {stages[frozen[-1]].name} comes after one in which the CNN learns, so its teacher cannot use "
            "the features of that CNN. Put it before that stage, or let the CNN learn in it, too, as in "
            "distillation@features.14:3."
        )
    for name in config.teacher if taught else ():
        teacher = Captioner.load(name, device="cpu", backend="torch")
        if teacher.preprocess != captioner.preprocess:
            raise ValueError(
                f"the teacher {name} sees images as {teacher.preprocess}, but this run as {captioner.preprocess}. Pass "
                f"--image-size {teacher.preprocess.size}, or choose another teacher."
            )
        if frozen and not _same_weights(teacher.model.encoder, captioner.model.encoder):
            raise ValueError(
                f"the stage {stages[frozen[0]].name} reads features of the run's frozen CNN, but its teacher {name} "
                f"has another CNN. Start from the teacher's CNN (--weights {find_checkpoint(name)}, without --init), "
                "or let the CNN learn, as in distillation@features.14:3."
            )


def _same_weights(encoder: Encoder, other: Encoder) -> bool:
    """Whether two CNNs have the same weights, up to the rounding of a checkpoint in half precision."""
    ours, theirs = encoder.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[key].shape == theirs[key].shape
        and torch.allclose(ours[key].cpu(), theirs[key].cpu(), rtol=1e-3, atol=1e-6)
        for key in ours
    )


def _digest(records: Sequence[Record]) -> str:
    """A hash of all ids, captions and splits in order, but not of where the photos' files are."""
    content = [[record.id, record.split, record.captions] for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
