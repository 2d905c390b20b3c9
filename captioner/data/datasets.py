"""From records to training batches: photos with all their captions, decoded and augmented in worker processes. Every
random choice is a function of (seed, epoch, photo), so it does not depend on the number of workers, a resume or the
order in which photos arrive. Cached features in place of photos are in `cache`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.data.augment import Augmenter
from captioner.data.records import Record
from captioner.data.streams import Purpose, random_stream
from captioner.encoder import Features
from captioner.images import ImageError, Preprocess
from captioner.vocabulary import BOS, EOS, PAD, Vocabulary, tokenize


class Batch(NamedTuple):
    images: Tensor | Features  # photos (B, 3, S, S), or their cached features
    tokens: Tensor  # (N, 1+T): BOS, words, EOS, padding; the C captions of a photo are adjacent rows
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
    """Item i: the preprocessed photo (3, S, S) of record i, its captions as token ids, and its id. An `augmenter`
    changes photo and captions."""

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
        photo, _ = self.preprocess.open(record.path)
        if self.augmenter is not None:
            photo, captions = self.augmenter(photo, captions, index)
        return self.preprocess(photo), captions, record.id


def encode_captions(records: Sequence[Record], vocabulary: Vocabulary, max_length: int) -> list[list[list[int]]]:
    """The captions of each record as token ids: BOS, at most `max_length` words, EOS."""
    return [
        [[BOS, *vocabulary.encode(tokenize(caption)[:max_length]), EOS] for caption in record.captions]
        for record in records
    ]


def collate(items: Sequence[tuple]) -> Batch:
    images, captions, ids = zip(*items, strict=True)
    count = max(len(of_photo) for of_photo in captions)
    length = max((len(caption) for of_photo in captions for caption in of_photo), default=0)
    tokens = torch.full((len(captions), count, length), PAD)  # (B, C, 1+T)
    for photo, of_photo in enumerate(captions):
        for row, caption in enumerate(of_photo):
            tokens[photo, row, : len(caption)] = torch.tensor(caption)
    tokens = tokens.flatten(0, 1)  # (N, 1+T); a photo with fewer than C captions has rows of padding, which cost little
    if isinstance(images[0], tuple):
        pooled, grid = (torch.from_numpy(np.stack(part)).float() for part in zip(*images, strict=True))
        return Batch(Features(pooled, grid), tokens, list(ids))
    return Batch(torch.from_numpy(np.stack(images)), tokens, list(ids))


def epoch_order(photos: Sequence[int], batch_size: int, seed: Sequence[int]) -> list[list[int]]:
    """The batches of an epoch as lists of record numbers: each of `photos` once, shuffled by the seed."""
    order = [photos[place] for place in random_stream(Purpose.ORDER, *seed).permutation(len(photos)).tolist()]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def in_order(photos: int, batch_size: int) -> list[list[int]]:
    """The batches of a validation as lists of record numbers: every record once, in order."""
    return [list(range(start, min(start + batch_size, photos))) for start in range(0, photos, batch_size)]


def batches(dataset: Dataset, order: list[list[int]], workers: int = 0) -> Iterator[Batch]:
    """Load these batches, in this order, in `workers` processes (0: in this one). Raises ImageError for a photo that
    cannot be read."""
    loader = DataLoader(
        dataset, batch_sampler=order, num_workers=workers, collate_fn=collate, pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_main_process,
    )  # fmt: skip
    try:
        yield from loader
    except ImageError as error:
        text = str(error)
        if text.startswith("Caught "):  # a worker's error arrives as a traceback with the message in its last line
            text = text.strip().splitlines()[-1].partition(": ")[2]
        raise ImageError(text) from None


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and `timeout` signal the whole process group. The main process needs the workers to finish its step and
    save; then it stops them itself with SIGTERM. (Only Linux tells who sent a signal.)"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_the_main_process_asks, daemon=True).start()


def _exit_when_the_main_process_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
