"""A run on a local Ray with a captioner that takes no time:  python cluster_run.py DIRECTORY FOLDER PAUSE NOTES"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from chaos.fast_captioner import FastCaptioner

from captioner.bulk.cluster import caption_on_ray
from captioner.bulk.listing import list_photos


class Poisoned(FastCaptioner):
    """Notes its process, and is killed by a photo with `poison` in its name."""

    def caption(self, name):
        if "poison" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().caption(name)


def load(workers: Path, pause: float) -> Poisoned:
    (workers / str(os.getpid())).touch()
    return Poisoned(pause)


if __name__ == "__main__":
    directory, folder, pause, workers = sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
    made = partial(load, workers, pause)
    print(caption_on_ray(directory, list_photos([folder]), made, workers=2, part_size=4, batch_size=4))
