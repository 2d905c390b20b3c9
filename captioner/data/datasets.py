"""From records to training batches: photos with all their captions, decoded and varied in worker processes, or their
cached features. Every random choice is a function of (seed, epoch, photo), so that the number of workers, a resume
or a different order of arrival change nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.data.augment import Augmenter
from captioner.data.readers import Record
from captioner.encoder import Features
from captioner.images import ImageError, Preprocess, open_reduced
from captioner.vocabulary import BOS, EOS, PAD, Vocabulary, tokenize


class Batch(NamedTuple):
    images: Tensor | Features  # photos (B, 3, S, S), or what a frozen CNN made of them
    tokens: Tensor  # (B·C, 1+T): BOS, words, EOS, padding; the C captions of a photo side by side
    ids: list[int | str]  # (B,) of the records

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:]

    def to(self, device: torch.device) -> Batch:
        images: Tensor | Features
        if isinstance(self.images, Features):
            images = Features(*(part.to(device, non_blocking=True) for part in self.images))
        else:
            images = self.images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return Batch(images, self.tokens.to(device, non_blocking=True), self.ids)


class PhotoDataset(Dataset):
    """Record i -> its preprocessed photo (3, S, S), its captions as token ids, its id; varied by an `augmenter`."""

    def __init__(
        self,
        records: Sequence[Record],
        captions: Sequence[list[list[int]]],
        preprocess: Preprocess,
        augmenter: Augmenter | None = None,
    ):
        self.records, self.captions, self.preprocess, self.augmenter = records, captions, preprocess, augmenter

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[list[int]], int | str]:
        record, captions = self.records[index], self.captions[index]
        photo, _ = open_reduced(record.path, 2 * self.preprocess.size)
        if self.augmenter is not None:
            photo, captions = self.augmenter(photo, captions, index)
        return self.preprocess(photo), captions, record.id


class CachedFeatures(Dataset):
    """Record i -> the features that a frozen CNN made of its photo, its captions, its id."""

    def __init__(self, records: Sequence[Record], captions: Sequence[list[list[int]]], features: tuple):
        self.records, self.captions, (self.pooled, self.grid) = records, captions, features

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], list[list[int]], int | str]:
        return (self.pooled[index], self.grid[index]), self.captions[index], self.records[index].id


def encode_captions(records: Sequence[Record], vocabulary: Vocabulary, max_length: int) -> list[list[list[int]]]:
    """Each record's captions as BOS, ids of at most `max_length` words, EOS."""
    return [
        [[BOS, *vocabulary.encode(tokenize(caption)[:max_length]), EOS] for caption in record.captions]
        for record in records
    ]


def collate(items: Sequence[tuple]) -> Batch:
    images, captions, ids = zip(*items, strict=True)
    count = max(len(of_photo) for of_photo in captions)
    length = max(len(caption) for of_photo in captions for caption in of_photo)
    tokens = torch.full((len(captions), count, length), PAD)
    for photo, of_photo in enumerate(captions):
        for row, caption in enumerate(of_photo):
            tokens[photo, row, : len(caption)] = torch.tensor(caption)
    tokens = tokens.flatten(0, 1)  # (B·C, 1+T); a photo with fewer captions has rows of padding, which cost little
    if isinstance(images[0], tuple):
        pooled, grid = (torch.from_numpy(np.stack(part)).float() for part in zip(*images, strict=True))
        return Batch(Features(pooled, grid), tokens, list(ids))
    return Batch(torch.from_numpy(np.stack(images)), tokens, list(ids))


def epoch_order(photos: int, batch_size: int, seed: Sequence[int]) -> list[list[int]]:
    """The batches of an epoch as lists of record numbers: all records once, shuffled by the seed."""
    order = np.random.default_rng(seed).permutation(photos).tolist()
    return [order[start : start + batch_size] for start in range(0, photos, batch_size)]


def in_order(photos: int, batch_size: int) -> list[list[int]]:
    """The batches of a validation: all records once, as they come."""
    return [list(range(start, min(start + batch_size, photos))) for start in range(0, photos, batch_size)]


def batches(dataset: Dataset, order: list[list[int]], workers: int = 0) -> Iterator[Batch]:
    """Load these batches, in this order. Raises ImageError for a photo that cannot be read."""
    return load(dataset, order, workers, collate)


def load(dataset: Dataset, order: list[list[int]], workers: int, collate_fn: Callable) -> Iterator[Any]:
    """What `collate_fn` makes of these items, in this order, read by so many processes (0: by this one)."""
    pinned = torch.cuda.is_available()
    loader = DataLoader(
        dataset, batch_sampler=order, num_workers=workers, collate_fn=collate_fn, pin_memory=pinned,
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
    )  # fmt: skip
    try:
        yield from loader
    except ImageError as error:
        text = str(error)
        if text.startswith("Caught "):  # from another process it comes with a traceback, and ends in its own line
            text = text.strip().splitlines()[-1].partition(": ")[2]
        raise ImageError(text) from None


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
