"""What a frozen CNN says of each photo, kept in memory-mapped half-precision files, so that the decoder's epochs do not
run the CNN again. A cache knows what it was made from and is made anew when any of it differs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from captioner.data.datasets import in_order, load
from captioner.data.readers import Record
from captioner.encoder import Encoder
from captioner.images import Preprocess


class _PlainPhotos(Dataset):
    def __init__(self, records: Sequence[Record], preprocess: Preprocess):
        self.records, self.preprocess = records, preprocess

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.preprocess.read(self.records[index].path)[0]


def cache_key(encoder: Encoder, preprocess: Preprocess, records: Sequence[Record]) -> dict[str, object]:
    """All that the features depend on: the CNN, every bit of its weights, the preprocessing, the photos' files."""
    weights = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    photos = hashlib.sha256()
    for record in records:
        status = record.path.stat()
        photos.update(f"{record.path.name}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return {
        "encoder": encoder.name,
        "weights": weights.hexdigest(),
        "preprocess": preprocess.to_dict(),
        "photos": photos.hexdigest(),
    }


def cached_features(
    directory: Path,
    encoder: Encoder,
    preprocess: Preprocess,
    records: Sequence[Record],
    workers: int = 0,
    batch_size: int = 8,
    title: str = "features",
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled (n, D) and grid (n, R, D) features of the records' photos, memory-mapped, float16: read from `directory`
    if they were made by the same CNN, weights, preprocessing and photos, and else made and written there."""
    key = cache_key(encoder, preprocess, records)
    if not _is_current(directory, key):
        _build(directory, key, encoder, preprocess, records, workers, batch_size, title)
    return np.load(directory / "pooled.npy", mmap_mode="r"), np.load(directory / "grid.npy", mmap_mode="r")


def _is_current(directory: Path, key: dict[str, object]) -> bool:
    try:
        return json.loads((directory / "key.json").read_text(encoding="utf-8")) == json.loads(json.dumps(key))
    except (OSError, ValueError):
        return False


@torch.inference_mode()
def _build(
    directory: Path,
    key: dict[str, object],
    encoder: Encoder,
    preprocess: Preprocess,
    records: Sequence[Record],
    workers: int,
    batch_size: int,
    title: str,
) -> None:
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    loaded = load(_PlainPhotos(records, preprocess), in_order(len(records), batch_size), workers, default_collate)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=f"{directory.name}.partial-", dir=directory.parent) as partial,
        tqdm(total=len(records), desc=title, unit="photo", dynamic_ncols=True) as progress,
    ):
        beside = Path(partial, "features")
        beside.mkdir()
        files: list[np.memmap] = []
        start = 0
        for images in loaded:
            features = encoder(images.to(device, memory_format=torch.channels_last))
            if not files:
                shapes = [(len(records), *part.shape[1:]) for part in features]
                _check_space(directory, 2 * sum(math.prod(shape) for shape in shapes))
                files = [
                    np.lib.format.open_memmap(beside / f"{name}.npy", "w+", np.float16, shape)
                    for name, shape in zip(("pooled", "grid"), shapes, strict=True)
                ]
            for file, part in zip(files, features, strict=True):
                file[start : start + len(images)] = part.to(torch.float16).cpu().numpy()
            start += len(images)
            progress.update(len(images))
        for file in files:
            file.flush()
        (beside / "key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        beside.rename(directory)
    encoder.train(training)


def _check_space(directory: Path, needed: int) -> None:
    """A disk that is full kills a process which writes to a mapped file, without a word."""
    free = shutil.disk_usage(directory.parent).free
    if needed > free:
        raise OSError(
            f"{directory}: the features need {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB left. "
            "Keep them on another one (--cache), or train without a decoder stage."
        )
