"""A bulk run is killed at random moments until it comes to its end. Then every photo is in the file exactly once, and
the file is as if nothing had happened.

    pytest -m chaos -s tests/chaos [--kills 200 --photos 5000]
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_bulk import TABLES, rows_of

PROGRAM = Path(__file__).with_name("fast_captioner.py")


def start(file, folder, seconds):
    command = [sys.executable, PROGRAM, file, folder, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    return out.strip()


@pytest.mark.chaos
@pytest.mark.parametrize("ending", TABLES)
def test_killed_at_random_moments(tmp_path, pytestconfig, ending):
    kills, photos = pytestconfig.getoption("kills"), pytestconfig.getoption("photos")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(photos):
        (folder / f"{number:06}{'broken' if number % 50 == 7 else ''}.jpg").touch()
    whole, file = tmp_path / f"whole{ending}", tmp_path / f"captions{ending}"
    began = time.monotonic()
    finish(start(whole, folder, 0))
    uninterrupted = time.monotonic() - began
    pause = 8 * uninterrupted * kills / photos / 2  # per batch of 8: the kills last about as long as the work
    chance = random.Random(ending)
    at_work = 0
    for _ in range(kills):
        process = start(file, folder, pause)
        time.sleep(chance.uniform(0.2, 1.5) * uninterrupted)
        at_work += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    print(f"{ending}: {at_work} of {kills} kills met a run at work; the last run: {finish(start(file, folder, 0))}")
    assert len(rows_of(whole)) == photos
    assert rows_of(file) == rows_of(whole)
    if ending in (".jsonl", ".csv"):
        assert file.read_bytes() == whole.read_bytes()
    left = {path.name for path in tmp_path.iterdir() if file.name in path.name}
    assert left == {file.name, f"{file.stem}{ending}.sqlite" if ending != ".sqlite" else file.name}
