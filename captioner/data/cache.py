"""The features that a frozen CNN computes for each photo, in memory-mapped files, so that the decoder's epochs do not
run the CNN again. A cache records what it was made from and is rebuilt when any of it changes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.data.checks import files_digest
from captioner.data.datasets import PhotoDataset, batches, in_order
from captioner.data.records import Record
from captioner.encoder import Encoder
from captioner.images import Preprocess


class FeatureDataset(Dataset):
    """Item i: the cached features of photo i, pooled (D,) and grid (R, D), its captions as token ids, and its id. Only
    the path of the files is pickled: a worker process maps the files itself."""

    def __init__(self, directory: Path, records: Sequence[Record], captions: Sequence[list[list[int]]]):
        self.directory, self.records, self.captions = directory, records, captions
        self._map_files()

    def _map_files(self) -> None:
        self.pooled, self.grid = (np.load(self.directory / f"{name}.npy", mmap_mode="r") for name in ("pooled", "grid"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("pooled", "grid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map_files()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], list[list[int]], int | str]:
        return (self.pooled[index], self.grid[index]), self.captions[index], self.records[index].id


def cached_features(
    directory: Path,
    encoder: Encoder,
    preprocess: Preprocess,
    records: Sequence[Record],
    captions: Sequence[list[list[int]]],
    workers: int = 0,
    batch_size: int = 8,
    title: str = "features",
) -> FeatureDataset:
    """The records' photos as features, read from `directory`, which is built first unless it is current.

    The check reads all weights and asks for the size and time of every photo: call this once per stage, not per epoch.
    The features are float16, or float32 where a value does not fit. Raises ImageError for a photo that cannot be read,
    OSError for a full disk, ValueError for features that are not finite.
    """
    key = cache_key(encoder, preprocess, records)
    if not _is_current(directory, key):
        _build(
            directory, key, encoder, PhotoDataset(records, [[]] * len(records), preprocess), workers, batch_size, title
        )
    return FeatureDataset(directory, records, captions)


def cache_key(encoder: Encoder, preprocess: Preprocess, records: Sequence[Record]) -> dict[str, object]:
    """All that the features depend on: the CNN, every bit of its weights, the preprocessing, the photos' files."""
    weights = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return {
        "encoder": encoder.name,
        "weights": weights.hexdigest(),
        "preprocess": preprocess.to_dict(),
        "photos": files_digest(records),
    }


def _is_current(directory: Path, key: dict[str, object]) -> bool:
    try:
        return json.loads((directory / "key.json").read_text(encoding="utf-8")) == json.loads(json.dumps(key))
    except (OSError, ValueError):
        return False


def _build(
    directory: Path,
    key: dict[str, object],
    encoder: Encoder,
    photos: PhotoDataset,
    workers: int,
    batch_size: int,
    title: str,
) -> None:
    """Write the features and their key into a temporary folder, then rename it."""
    training = encoder.training
    encoder.eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{directory.name}.partial-", dir=directory.parent) as partial:
        for dtype in (np.dtype(np.float16), np.dtype(np.float32)):
            folder = Path(partial, dtype.name)
            folder.mkdir()
            if _write_features(folder, dtype, encoder, photos, workers, batch_size, title):
                break
            shutil.rmtree(folder)
        (folder / "key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        folder.rename(directory)
    encoder.train(training)


@torch.inference_mode()
def _write_features(
    folder: Path,
    dtype: np.dtype,
    encoder: Encoder,
    photos: PhotoDataset,
    workers: int,
    batch_size: int,
    title: str,
) -> bool:
    """Write pooled.npy (n, D) and grid.npy (n, R, D). False as soon as a value is beyond the range of `dtype`."""
    device = next(encoder.parameters()).device
    files: list[np.memmap] = []
    start = 0
    with tqdm(total=len(photos), desc=title, unit="photo", dynamic_ncols=True, disable=None) as progress:
        for batch in batches(photos, in_order(len(photos), batch_size), workers):
            features = encoder(batch.to(device).images)
            for part in features:
                if not part.isfinite().all():
                    names = ", ".join(map(str, batch.ids))
                    raise ValueError(
                        f"{encoder.name} computes features that are not finite for photos among {names}. "
                        "Its weights are damaged or not trained: choose other --weights."
                    )
                if part.abs().max() > np.finfo(dtype).max:
                    return False
            if not files:
                shapes = [(len(photos), *part.shape[1:]) for part in features]
                _check_space(folder, dtype.itemsize * sum(math.prod(shape) for shape in shapes))
                files = [
                    np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
                    for name, shape in zip(("pooled", "grid"), shapes, strict=True)
                ]
            for file, part in zip(files, features, strict=True):
                file[start : start + len(part)] = part.cpu().numpy()
            start += len(batch.ids)
            progress.update(len(batch.ids))
        for file in files:
            file.flush()
    return True


def _check_space(folder: Path, needed: int) -> None:
    """A write to a mapped file on a full disk kills the process without a message."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        cache = folder.parent.parent
        raise OSError(
            f"{cache}: the cached features need {needed / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB left. "
            "Choose a folder on another disk (--cache), or train without a decoder stage."
        )
