"""A captioner that takes no time, for tests of bulk runs."""

import os
import random
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from captioner.bulk import run
from captioner.bulk.listing import list_photos
from captioner.bulk.progress import Counts
from captioner.captioner import Caption
from captioner.decoding import Decoding
from captioner.images import ImageError


class FastCaptioner:
    """Makes up a caption from a photo's name; a name with `broken` in it is an error."""

    provenance = "fast, SHA-256 0123456789"
    decoding = Decoding()
    confidence = None

    def __init__(self, pause: float = 0):
        self.pause, self.seen = pause, 0

    def caption_many(
        self, photos: Iterable, decoding: Decoding | None = None, batch_size: int = 32
    ) -> Iterator[Caption | ImageError]:
        waiting = iter(photos)
        while batch := list(islice(waiting, batch_size)):
            time.sleep(self.pause)
            for photo in batch:
                self.seen += 1
                yield self.caption(str(getattr(photo, "name", photo)))

    def caption(self, name: str) -> Caption | ImageError:
        if "broken" in name:
            return ImageError(f"{name}: broken; expected a photo.")
        chance = random.Random(os.fsencode(Path(name).name))
        colour, animal = chance.choice("black white brown".split()), chance.choice("dog cat horse".split())  # noqa: SIM905
        words = ["a", colour, animal, "on", "a", chance.choice(["beach", "sofa, asleep", 'field of "grass"', "café"])]
        values = [-chance.random() for _ in words]
        return Caption(" ".join(words), words, values, sum(values), sum(values), True, chance.random())


def caption_folder(file: Path, folder: Path, batch_size: int, pause: float = 0) -> Counts:
    """A run that commits after each batch and pauses before it."""
    run.COMMIT = 0
    return run.caption_into(file, list_photos([str(folder)]), FastCaptioner(pause), batch_size=batch_size)
