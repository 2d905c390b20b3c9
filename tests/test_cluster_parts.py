"""A run in parts without a cluster: a stand-in for Ray calls the workers in this process. Whatever is changed, and
whenever a run is broken off, every photo is there exactly once."""

import io
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from chaos.fast_captioner import FastCaptioner

from captioner.bulk import parts
from captioner.bulk.cluster import caption_on_ray, workers_for
from captioner.bulk.listing import Photo, list_photos
from captioner.bulk.store import Store
from captioner.captioner import Caption
from captioner.decoding import Decoding
from captioner.images import ImageError


class Reader(FastCaptioner):
    """The caption of a file is what is in it; `bad` is an error, unless it has been mended."""

    mended = False

    def caption_many(self, photos, decoding=None, batch_size=32):
        for photo in photos:
            self.seen += 1
            text = (photo.read() if hasattr(photo, "read") else Path(photo).read_bytes()).decode()
            if text == "bad" and not self.mended:
                yield ImageError("bad; expected a photo.")
            else:
                yield Caption(text, [text], [-0.5], -0.5, -0.5, True)


class FakeData:
    """Of Ray Data, what a run calls. Keeps what the worker pool was asked for."""

    ActorPoolStrategy = SimpleNamespace

    def from_items(self, items, override_num_blocks):
        assert override_num_blocks == len(items)
        self.items = items
        return self

    def map_batches(self, worker, fn_constructor_args, **asked):
        self.worker, self.asked = worker(*fn_constructor_args), asked
        return self

    def iter_rows(self):
        for item in self.items:
            found = self.worker({name: [value] for name, value in item.items()})
            yield {name: value for name, (value,) in found.items()}


@pytest.fixture(autouse=True)
def ray(monkeypatch) -> SimpleNamespace:
    fake = SimpleNamespace(
        data=FakeData(), is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 4.0, "GPU": 3.0},
        exceptions=SimpleNamespace(RayError=ZeroDivisionError),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)
    return fake


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_text("bad" if number in (3, 7) else f"photo {number}")
    return folder


def run(folder, place=None, captioner=Reader, paths=None, **options) -> str:
    place = str(folder.parent / "out") if place is None else place
    photos = list_photos([str(folder)] if paths is None else paths)
    counts = str(caption_on_ray(place, photos, captioner, part_size=4, **options))
    return counts.rpartition(", ")[0]


def table(place) -> list[tuple]:
    """(name, caption or error) of all parts, in order."""
    store = Store(str(place))
    found = []
    for name in store.names("parts"):
        found += pq.read_table(io.BytesIO(store.read(f"parts/{name}"))).to_pylist()
    return [(Path(row["path"]).name, row["caption"] or row["error"]) for row in found]


def wanted(folder) -> list[tuple]:
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    return sorted((name, "bad; expected a photo." if text == "bad" else text) for name, text in texts.items())


def test_a_photo_is_known_by_name_size_and_time(folder):
    out = folder.parent / "out"
    assert run(folder) == "8 captioned, 2 failed, 0 skipped"
    assert table(out) == wanted(folder)
    assert run(folder) == "0 captioned, 0 failed, 10 skipped (2 of them failed before)"
    (folder / "1.jpg").write_text("another")
    (folder / "3.jpg").write_text("no longer bad")
    os.utime(folder / "8.jpg", (1, 1))
    for name in ("00", "55", "99"):
        (folder / f"{name}.jpg").write_text("new")
    assert run(folder) == "6 captioned, 0 failed, 7 skipped (1 of them failed before)"
    assert sorted(table(out)) == wanted(folder)
    assert [name for name, _ in table(out)][:10] == [f"{number}.jpg" for number in range(10)]
    assert run(folder) == "0 captioned, 0 failed, 13 skipped (1 of them failed before)"
    names = {path.name for path in (out / "parts").iterdir()}
    assert names == {f"{part}.parquet" for part in ("000000-1", "000001-0", "000002-1", "000003-0")}
    (folder / "2.jpg").unlink()
    assert run(folder) == "0 captioned, 0 failed, 13 skipped (1 of them failed before)"  # its caption stays


def test_errors_are_tried_again(folder):
    class Mended(Reader):
        mended = True

    run(folder)
    assert run(folder, captioner=Mended, retry_errors=True) == "2 captioned, 0 failed, 8 skipped"
    assert dict(table(folder.parent / "out"))["7.jpg"] == "bad"
    assert run(folder, retry_errors=True) == "0 captioned, 0 failed, 10 skipped"


def test_redo_starts_over(folder):
    run(folder)
    with pytest.raises(ValueError, match=r"was written with beam_size 3, not 1.* or start over: --redo"):
        run(folder, decode=lambda saved: Decoding(beam_size=1))
    (folder / "0.jpg").unlink()
    assert run(folder, decode=lambda saved: Decoding(beam_size=1), redo=True) == "7 captioned, 2 failed, 0 skipped"
    assert table(folder.parent / "out") == wanted(folder)


def test_a_photo_that_is_given_twice_is_captioned_once(folder):
    paths = [str(folder / "1.jpg"), str(folder), str(folder / "1.jpg")]
    assert run(folder, paths=paths) == "8 captioned, 2 failed, 0 skipped"
    (folder / "1.jpg").write_text("changed")
    (folder / "new.jpg").write_text("new")
    assert run(folder, paths=[*paths, str(folder / "new.jpg")]).startswith("2 captioned")
    assert sorted(table(folder.parent / "out")) == wanted(folder)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("redo", [False, True])
def test_a_run_may_be_broken_off_anywhere(folder, monkeypatch, redo):
    """After each of its writes and removals, at the first run and at one that finds changes; then it is run again."""
    out, before = folder.parent / "out", folder.parent / "before"
    run(folder)
    (folder / "1.jpg").write_text("another")
    (folder / "3.jpg").write_text("mended")
    (folder / "99.jpg").write_text("new")
    out.rename(before)
    lives = {}

    def breaking(method):
        def call(self, *arguments):
            if lives["left"] == 0:
                raise Killed
            lives["left"] -= 1
            return method(self, *arguments)

        return call

    for name in ("write", "remove"):
        monkeypatch.setattr(Store, name, breaking(getattr(Store, name)))
    for state in (None, before):
        steps = 0
        while True:
            shutil.rmtree(out, ignore_errors=True)
            if state is not None:
                shutil.copytree(state, out)
            lives["left"] = steps
            try:
                run(folder, redo=redo)
            except Killed:
                lives["left"] = 1000
                run(folder)
                assert sorted(table(out)) == wanted(folder), f"broken off after {steps} steps"
                assert not list((out / "trying").iterdir())
                steps += 1
            else:
                break
        assert steps > 9


def test_photos_and_results_in_an_object_store(folder):
    import fsspec

    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    address, place = "memory://bucket", "memory://out/captions"
    assert run(folder, place, paths=[address]) == "8 captioned, 2 failed, 0 skipped"
    assert run(folder, place, paths=[address]).startswith("0 captioned, 0 failed, 10 skipped")
    assert table(place) == wanted(folder)
    assert {path for path in files.find("/out") if "photos/" in path} == {
        f"/out/captions/photos/00000{number}-0.jsonl" for number in range(3)
    }


def test_bytes_cannot_be_sent_to_a_cluster(folder):
    with pytest.raises(ValueError, match=r"-: a cluster captions files, addresses and local \.tar shards"):
        caption_on_ray(folder.parent / "out", [Photo("-", b"photo", 5, 0)], Reader)


def test_gpus_are_asked_for(folder, ray):
    run(folder, gpus=0.5)
    assert ray.data.asked["num_gpus"] == 0.5 and ray.data.asked["compute"].size == 3  # parts; there is room for six
    run(folder, folder.parent / "cpu", workers=2)
    assert ray.data.asked["num_gpus"] is None and ray.data.asked["compute"].size == 2
    assert workers_for({"CPU": 8, "GPU": 3}, 0.5) == 6 and workers_for({"CPU": 8, "GPU": 3}, 2) == 1
    assert workers_for({"CPU": 8}, 0) == 8
    with pytest.raises(ValueError, match="--gpus is 2, but the cluster has 1 GPUs"):
        workers_for({"CPU": 8, "GPU": 1}, 2)


def test_no_part_without_photos(folder):
    with pytest.raises(ValueError, match="--part-size is 0; expected 1 or more"):
        caption_on_ray(folder.parent / "out", [], Reader, part_size=0)


def test_two_runs_at_once(folder, monkeypatch):
    def list_slowly(*arguments, **named):
        with pytest.raises(BlockingIOError, match="out: another run is writing to it"):
            run(folder)
        raise Killed

    monkeypatch.setattr(parts.Parts, "_list", list_slowly)
    with pytest.raises(Killed):
        run(folder)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://[::1]:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_listens_is_told_at_once(tmp_path, address):
    with pytest.raises(OSError, match=f"Ray cannot be reached at {re.escape(address)}: .* Expected the address that"):
        caption_on_ray(tmp_path / "out", [], Reader, address=address)
    assert not list(tmp_path.iterdir())
