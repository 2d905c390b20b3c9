"""The run of the recipe `train`: captions of photos. Here it is begun, or resumed as `last/` holds it; the steps are in
`loop`, their order in `train`."""

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
from captioner.data.checks import PhotoCheck, check_photos, notes_on, shortened
from captioner.data.datasets import encode_captions
from captioner.data.readers import Record, read_dataset, select
from captioner.data.vectors import read_vectors
from captioner.device import choose_device
from captioner.distributed import is_main
from captioner.encoder import Encoder
from captioner.images import Preprocess
from captioner.model import CaptionModel, build_model
from captioner.training.config import Stage, TrainConfig
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


@dataclass(frozen=True)
class Split:
    name: str
    records: list[Record]
    captions: list[list[list[int]]]  # per photo, per caption: token ids


@dataclass(kw_only=True)
class CaptionRun(Run):
    config: TrainConfig
    model: CaptionModel
    captioner: Captioner
    training: Split
    validation: Split

    def describe(self, scores: Mapping[str, float] | None) -> dict[str, Any]:
        settings = settings_of_model(self.config)
        settings["weights"] = Path(self.config.weights).name
        settings["init"] = self.config.init and self.config.init.name
        training = {
            "data": ", ".join(path.name for path in self.config.data),
            "photos": len(self.training.records),
            "step": self.progress.step,
            "hours": round(self.progress.seconds / 3600, 2),
            "settings": settings,
        }
        return self.captioner.to_config() | {"training": training, "scores": scores}


def open_run(config: TrainConfig, stages: list[Stage]) -> tuple[CaptionRun, dict[str, Any]]:
    """A new run, or with `--resume` the one in `--output`, and the state that its `last/` holds (none of a new run)."""
    if not config.resume:
        check_unused(config.output)
    training, validation, check = read_splits(config)
    digest = _digest([*training, *validation])
    state: dict[str, Any] = {}
    if config.resume:
        state = load_last(config, digest)
        captioner = Captioner.load(config.output / "last", device=config.device, backend="torch")
    else:
        captioner = build_captioner(config, training)
    _check_blocks(captioner.model.encoder, stages)
    write_settings(config, digest)  # of a resumed run, too: stages may have been added
    if is_main():
        check.save(config.output / "photos.json")
    splits = (
        Split(name, chosen, encode_captions(chosen, captioner.vocabulary, config.max_length))
        for name, chosen in (("train", training), ("val", validation))
    )
    run = CaptionRun(
        config=config,
        stages=stages,
        model=captioner.model,
        progress=Progress(**state.get("progress", {})),
        selection=Selection("CIDEr-D"),
        shown=("loss", "BLEU-1", "BLEU-4", "CIDEr-D"),
        captioner=captioner,
        training=next(splits),
        validation=next(splits),
    )
    return run, state


def read_splits(config: TrainConfig) -> tuple[list[Record], list[Record], PhotoCheck]:
    """The photos to train and to validate on, without damaged ones, which are printed; and what was found."""
    records = read_dataset(config.data[0], images=config.images)
    for note in notes_on(records):
        print(f"note    {note}.")
    chosen = [record for name in ("train", "val") for record in select(records, name)[: config.limit or None]]
    check = check_photos(chosen, config.image_size or 224, config.output / "photos.json", config.workers)
    for problem in shortened(list(check.damaged.values()), "photos"):
        print(f"damaged {problem}")
    if check.damaged:
        print(f"note    {len(check.damaged)} of {len(chosen)} photos cannot be read and are left out.")
    sound = [record for number, record in enumerate(chosen) if number not in check.damaged]
    return select(sound, "train"), select(sound, "val"), check


def build_captioner(config: TrainConfig, training: Sequence[Record]) -> Captioner:
    """An untrained model with the words of the training captions. Raises ValueError where nothing can be learned."""
    torch.manual_seed(config.seed)
    initial = Initial.load(config.init) if config.init else None
    captions = (caption for record in training for caption in record.captions)
    vocabulary = Vocabulary.build(map(tokenize, captions), config.min_count)
    if initial:
        vocabulary = initial.vocabulary(vocabulary)
    if not vocabulary.words:
        raise ValueError(
            f"no word occurs {config.min_count} times in the training captions of {config.data[0]}. "
            "Lower --min-count, or add captions."
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
    """Give the words that a file of vectors has their rows of the embedding, and print how many it has."""
    embedding = model.decoder.embedding.weight
    ids, vectors, share = read_vectors(path, vocabulary, embedding.shape[1])
    with torch.no_grad():
        embedding[torch.from_numpy(ids)] = torch.from_numpy(vectors)
    print(f"vectors {path}: {share:.0%} of the words found ({len(ids)} of {len(vocabulary.words)})")


def _check_blocks(encoder: Encoder, stages: Sequence[Stage]) -> None:
    """A wrong name is an error before the first stage, not after it."""
    for stage in stages:
        encoder.check_block(stage.block)


def _digest(records: Sequence[Record]) -> str:
    """Changes with every id, caption, split and with the order, but not with the place of the photos' files."""
    content = [[record.id, record.split, record.captions] for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
