"""The verb calibrate: teach a model how sure it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from captioner.cli.options import app, leave_out_damaged, load_captioner


@app.command
def calibrate(
    checkpoint: tyro.conf.Positional[Path],
    /,
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...", help_behavior_hint="(required)")] = (),
    bar: float = 0.4,
    device: str = "auto",
) -> int:
    """Calibrate the confidence of a model: the probability that a caption is right. The result is stored in the
    checkpoint's config.json. Run it after training.

    Args:
        checkpoint: Directory of the model.
        data: Folders of data sets with train and val photos. The model must not have been trained on the val photos.
            They should have several captions each: a right caption often differs from a single reference.
        bar: A caption counts as right if its CIDEr-D is at least this. People find most captions below 0.4 wrong.
        device: auto, cpu, cuda, mps.
    """
    from captioner.calibrate import DataSet, save_confidence
    from captioner.calibrate import calibrate as run
    from captioner.checkpoint.manifest import find_own_checkpoint
    from captioner.data.sources import read_sources

    if not data:
        raise ValueError("no data sets. Pass --data FOLDER, with photos that the model was not trained on.")
    find_own_checkpoint(checkpoint)  # before the work
    sets = {}
    for name, records in read_sources(data).items():
        readable = leave_out_damaged([record for record in records if record.split in ("train", "val")])
        parts = ([record for record in readable if record.split == split] for split in ("train", "val"))
        sets[name] = DataSet(*parts)
    confidence, figures = run(load_captioner(checkpoint, device), sets, bar)
    photos = {name: len(each.validation) for name, each in sets.items()}
    save_confidence(checkpoint, confidence, {"fitted_on": photos})
    for name, calibration in figures.items():
        single = len(sets[name].validation[0].captions) == 1
        note = "; one reference per photo, which right captions often miss" if single else ""
        print(f"{name}, {photos[name]:,} photos that it was fitted on{note}:\n{calibration}\n")
    print(checkpoint)
    return 0
