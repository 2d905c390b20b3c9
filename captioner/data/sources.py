"""Several data sets as one: a name for each, ids that are unique across them, and the photos that an epoch takes from
each. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from captioner.data.readers import read_dataset
from captioner.data.records import Record
from captioner.data.streams import Purpose, random_stream


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each data set: that of its folder, with as many parent folders in front as are needed to make all
    names unique. Raises ValueError for a path that is given twice."""
    parts = [Path(os.path.abspath(path)).parts[1:] for path in paths]
    if twice := [str(path) for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1]:
        raise ValueError(f"the data set {twice[0]} is given twice; expected each once.")
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]


def read_sources(paths: Sequence[Path], images: Sequence[Path] = ()) -> dict[str, list[Record]]:
    """The records of each data set, by name. If there are several, a record's id begins with the name of its data set.

    images: the folder of the photos of each data set; empty if all are below their data set's folder.
    Raises ValueError or FileNotFoundError with the file, the line and what was expected.
    """
    if images and len(images) != len(paths):
        raise ValueError(
            f"{len(images)} folders of photos (--images) for {len(paths)} data sets (--data); expected one for each. "
            "For a set whose photos are below its own folder, give that folder."
        )
    sources = {}
    for number, (name, path) in enumerate(zip(names_of(paths), paths, strict=True)):
        records = read_dataset(path, images=images[number] if images else None)
        several = len(paths) > 1
        sources[name] = [replace(record, id=f"{name}/{record.id}") for record in records] if several else records
    return sources


def draw_photos(sizes: Sequence[int], shares: Sequence[float], seed: Sequence[int]) -> list[int]:
    """The indices of the photos that an epoch takes, in order, from concatenated data sets of these sizes. The given
    share of each is drawn by the seed without replacement."""
    photos: list[int] = []
    start = 0
    for number, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        own = np.arange(size)
        if share < 1:
            own = random_stream(Purpose.SHARE, *seed, number).permutation(size)[: max(1, round(share * size))]
        photos += (start + np.sort(own)).tolist()
        start += size
    return photos
