"""A bulk run is killed at random moments, again and again, while photos change, and then left alone. The file is as if
nothing had happened: every photo is in it exactly once.

    pytest -m chaos -s tests/chaos [--kills 200 --photos 5000]
"""

import multiprocessing
import os
import random
import time

import pytest
from chaos.fast_captioner import caption_folder
from test_bulk import TABLES, rows_of

LIFE = 0.3  # seconds that a run has at most before it is killed
BATCH = 8


@pytest.mark.chaos
@pytest.mark.parametrize("ending", TABLES)
def test_killed_at_random_moments(tmp_path, pytestconfig, ending):
    kills, photos = pytestconfig.getoption("kills"), pytestconfig.getoption("photos")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(photos):
        (folder / f"{number:06}{'broken' if number % 50 == 7 else ''}.jpg").touch()
    whole, file = tmp_path / f"whole{ending}", tmp_path / f"captions{ending}"
    caption_folder(whole, folder, BATCH)

    processes = multiprocessing.get_context("fork")  # its processes need not import anything
    pause = min(kills * LIFE / 6 * BATCH / photos, LIFE / 20)  # so that some kills meet the end of the work
    chance = random.Random(ending)
    at_work = 0
    names = sorted(folder.iterdir())
    for number in range(kills):
        os.utime(chance.choice(names), (number, number))  # one photo is to be captioned again
        process = processes.Process(target=caption_folder, args=(file, folder, BATCH, pause))
        process.start()
        time.sleep(chance.uniform(0, LIFE))
        at_work += process.is_alive()
        process.kill()
        process.join()
    counts = caption_folder(file, folder, BATCH)

    print(f"{ending}: {at_work} of {kills} kills met a run at work. The last run: {counts}.")
    assert len(rows_of(whole)) == photos
    assert rows_of(file) == rows_of(whole)
    if ending in (".jsonl", ".csv"):
        assert file.read_bytes() == whole.read_bytes()
    left = {path.name for path in tmp_path.iterdir() if file.name in path.name}
    assert left == {file.name, file.name if ending == ".sqlite" else f"{file.name}.sqlite"}
