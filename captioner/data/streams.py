"""Random streams: one per purpose, so that no two purposes ever draw the same numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    ORDER = 1  # of the photos in an epoch
    AUGMENTATION = 2  # of one photo
    SHARE = 3  # of a data set, in an epoch


def random_stream(purpose: Purpose, *seed: int) -> np.random.Generator:
    """The generator of a purpose and a seed. The purpose comes first: NumPy treats (1, 2) and (1, 2, 0) as the same
    seed, so a number at the end would not separate the streams."""
    return np.random.default_rng((purpose, *seed))
