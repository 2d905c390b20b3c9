"""A cache of the features that a frozen CNN computes for each photo, in memory-mapped files, so that the epochs of the
decoder do not run the CNN again. A cache records what it was made from and is rebuilt when any of it changes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner import distributed
from captioner.data.checks import files_digest
from captioner.data.datasets import PhotoDataset, batches, in_order
from captioner.data.records import Record
from captioner.encoder import Encoder
from captioner.images import Preprocess
from captioner.lock import lock

NAMES = ("pooled", "grid")


class FeatureDataset(Dataset):
    """Item i: the cached features of photo i, pooled (D,) and grid (R, D), its captions as token ids, and its id. Only
    the path of the files is pickled; each worker process maps the files itself."""

    def __init__(self, directory: Path, records: Sequence[Record], captions: Sequence[list[list[int]]]):
        self.directory, self.records, self.captions = directory, records, captions
        self._map_files()

    def _map_files(self) -> None:
        self.pooled, self.grid = (np.load(self.directory / f"{name}.npy", mmap_mode="r") for name in NAMES)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in NAMES}

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
    """The features of the records' photos, read from `directory`, which is built first unless it is current. If there
    are several processes, each builds a share.

    Checking whether it is current reads all weights and the size and time of every photo file: call this once per
    stage, not per epoch. The features are float16, or float32 if a value does not fit. Raises ImageError for a photo
    that cannot be read, OSError for a full disk, ValueError for features that are not finite.
    """
    key = cache_key(encoder, preprocess, records)
    if not _is_current(directory, key):
        with _turn(directory):
            if not _is_current(directory, key):  # another run may have built it meanwhile
                photos = PhotoDataset(records, [[]] * len(records), preprocess)
                _build(directory, key, encoder, photos, workers, batch_size, title)
    return FeatureDataset(directory, records, captions)


def cache_key(encoder: Encoder, preprocess: Preprocess, records: Sequence[Record]) -> dict[str, object]:
    """Everything that the features depend on: the CNN, its exact weights, the preprocessing, the photos' files."""
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
    """Whether the cache is current, as decided by the main process for all processes."""
    try:
        found = json.loads((directory / "key.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return distributed.gather(found == json.loads(json.dumps(key)))[0]


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """A context for building the cache. Other runs that want to build it wait."""
    if not distributed.is_main():
        yield
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with lock(directory.with_name(f"{directory.name}.lock"), wait=True):
        yield


def _build(
    directory: Path,
    key: dict[str, object],
    encoder: Encoder,
    photos: PhotoDataset,
    workers: int,
    batch_size: int,
    title: str,
) -> None:
    """Write the features and their key into a folder beside `directory`, then rename it. Remains of a killed run are
    removed."""
    training, partial = encoder.training, directory.with_name(f"{directory.name}.partial")
    encoder.eval()
    try:
        for dtype in (np.dtype(np.float16), np.dtype(np.float32)):
            if distributed.is_main():
                shutil.rmtree(partial, ignore_errors=True)
                _make_files(partial, dtype, encoder, photos)
            distributed.wait()
            fits = _write_share(partial, encoder, photos, workers, batch_size, title)
            if all(distributed.gather(fits)):
                break
        if distributed.is_main():
            (partial / "key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
            shutil.rmtree(directory, ignore_errors=True)
            partial.rename(directory)
        distributed.wait()
    finally:
        if distributed.is_main():
            shutil.rmtree(partial, ignore_errors=True)
    encoder.train(training)


@torch.inference_mode()
def _make_files(folder: Path, dtype: np.dtype, encoder: Encoder, photos: PhotoDataset) -> None:
    """Empty pooled.npy (n, D) and grid.npy (n, R, D). D and R come from the features of a blank photo."""
    side = photos.preprocess.size
    blank = torch.zeros(1, 3, side, side, device=next(encoder.parameters()).device)
    shapes = [(len(photos), *part.shape[1:]) for part in encoder(blank)]
    folder.mkdir()
    _check_space(folder, dtype.itemsize * sum(math.prod(shape) for shape in shapes))
    for name, shape in zip(NAMES, shapes, strict=True):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


@torch.inference_mode()
def _write_share(
    folder: Path, encoder: Encoder, photos: PhotoDataset, workers: int, batch_size: int, title: str
) -> bool:
    """Fill this process's rows of the files. Returns False as soon as a value is beyond the range of their dtype."""
    device = next(encoder.parameters()).device
    order = distributed.share(in_order(len(photos), batch_size))
    total = sum(map(len, order))
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=total, desc=title, unit="photo", dynamic_ncols=True, disable=None))
        files = [stack.enter_context(_Rows(folder / f"{name}.npy")) for name in NAMES]
        for indices, batch in zip(order, batches(photos, order, workers), strict=True):
            for file, part in zip(files, encoder(batch.to(device).images), strict=True):
                if not part.isfinite().all():
                    names = ", ".join(map(str, batch.ids))
                    raise ValueError(
                        f"{encoder.name} computes features that are not finite for photos among {names}. "
                        "Its weights are damaged or not trained: choose other --weights."
                    )
                if part.abs().max() > np.finfo(file.dtype).max:
                    return False
                file.write(indices[0], part.cpu().numpy())
            progress.update(len(indices))
    return True


class _Rows:
    """An array file whose rows are written with ordinary writes. With memory mapping on a shared file system, two
    machines would overwrite each other's rows that lie in the same page."""

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r")
        self.dtype, self._offset, self._row = array.dtype, array.offset, array.strides[0]
        self._file = path.open("r+b")

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, start: int, rows: np.ndarray) -> None:
        self._file.seek(self._offset + start * self._row)
        self._file.write(rows.astype(self.dtype).tobytes())


def _check_space(folder: Path, needed: int) -> None:
    """Raise OSError now if the disk has too little space, rather than after hours."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder.parent}: the cached features need {needed / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB "
            "left. Choose a folder on another disk (--cache), or train without a decoder stage."
        )
