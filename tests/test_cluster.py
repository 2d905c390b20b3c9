"""Bulk runs on a real local Ray of two worker processes: whatever is killed, every photo is there exactly once."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from chaos.fast_captioner import FastCaptioner

pytestmark = pytest.mark.ray
pytest.importorskip("ray")
KILLS = int(os.environ.get("CAPTIONER_KILLS", 3))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two hundred files, two of them broken; only their names matter here."""
    (tmp_path / "workers").mkdir()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}{'broken' if number in (4, 115) else ''}.jpg").touch()
    return folder


def start(folder, pause=0.0, place=None, photos=None) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).parent / "chaos/cluster_run.py")]
    arguments = [place or folder.parent / "out", photos or folder, pause, folder.parent / "workers"]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [*command, *map(str, arguments)], env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE
    )


def finish(run) -> str:
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    return output


def parts(folder) -> list[Path]:
    return list((folder.parent / "out/parts").glob("*.parquet"))


def is_worker(process: str) -> bool:
    """Of Ray Data's pool, by the title that Ray gives it."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"MapWorker" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def check(folder, poisoned=()):
    """The results are those of the photos one by one, each exactly once; a poisoned photo is an error."""
    rows = pq.read_table(folder.parent / "out/parts", columns=["path", "caption", "error"]).to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    for row in rows:
        result = FastCaptioner().caption(row["path"])
        if Path(row["path"]) in poisoned:
            assert row["caption"] is None
            assert "killed 3 times" in row["error"]
        elif isinstance(result, ValueError):
            assert row["error"] == str(result)
        else:
            assert (row["caption"], row["error"]) == (result.text, None)
    assert not list((folder.parent / "out/trying").iterdir())


def test_a_run_on_ray_gives_what_one_machine_gives(folder):
    assert "198 captioned, 2 failed, 0 skipped" in finish(start(folder))
    check(folder)
    assert "0 captioned, 0 failed, 200 skipped (2 of them failed before)" in finish(start(folder))
    os.utime(folder / "017.jpg", (1, 1))
    (folder / "200.jpg").touch()
    assert "2 captioned, 0 failed, 199 skipped (2 of them failed before)" in finish(start(folder))
    check(folder)


def kill_workers(run, workers: Path) -> None:
    killed, chance = 0, random.Random(0)
    while killed < KILLS and run.poll() is None:
        time.sleep(chance.uniform(0.2, 1))
        if alive := [int(worker.name) for worker in workers.iterdir() if is_worker(worker.name)]:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(alive), signal.SIGKILL)
                killed += 1
    finish(run)
    assert killed == KILLS


def test_workers_are_killed(folder):
    kill_workers(start(folder, pause=0.5), folder.parent / "workers")
    check(folder)


def test_photos_and_results_in_an_object_store(folder, monkeypatch):
    """Of a stand-in for S3, while workers are killed; then a photo is added."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (("ENDPOINT_URL", address), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    files = fsspec.filesystem("s3")
    files.mkdir("s3://bucket")
    for path in folder.iterdir():
        files.pipe_file(f"s3://bucket/photos/{path.name}", b"")
    try:
        arguments = {"place": "s3://bucket/out", "photos": "s3://bucket/photos"}
        kill_workers(start(folder, pause=0.5, **arguments), folder.parent / "workers")
        files.pipe_file("s3://bucket/photos/new.jpg", b"")
        assert "1 captioned, 0 failed, 200 skipped (2 of them failed before)" in finish(start(folder, **arguments))
        rows = pq.read_table("bucket/out/parts", filesystem=files).to_pylist()
        assert [row["path"] for row in rows] == [
            *(f"s3://bucket/photos/{path.name}" for path in sorted(folder.iterdir())), "s3://bucket/photos/new.jpg"
        ]  # fmt: skip
        assert sum(row["error"] is not None for row in rows) == 2
        assert not files.find("s3://bucket/out/trying")
    finally:
        server.stop()


def test_the_driver_is_killed_and_resumed(folder):
    whole, chance = 0, random.Random(0)
    for _ in range(KILLS):
        run = start(folder, pause=0.5)
        while len(parts(folder)) <= whole and run.poll() is None:
            time.sleep(chance.uniform(0.02, 0.3))
        assert run.poll() is None
        run.kill()
        run.communicate()
        whole = len(parts(folder))
    finish(start(folder))
    check(folder)


def test_a_photo_that_kills_its_worker_is_an_error(folder):
    poisoned = folder / "060poison.jpg", folder / "061poison.jpg"
    for path in poisoned:
        path.touch()
    assert "198 captioned, 4 failed" in finish(start(folder))
    check(folder, poisoned)
