"""Bulk runs: whatever happens in between, every photo is in the file exactly once."""

import csv
import errno
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chaos.fast_captioner import FastCaptioner

from captioner.bulk import outputs
from captioner.bulk import run as runs
from captioner.bulk.database import Database, database_of
from captioner.bulk.listing import Photo, list_photos
from captioner.bulk.run import caption_into
from captioner.bulk.search import search
from captioner.confidence import Confidence
from captioner.decoding import Decoding
from captioner.metrics.files.rows import read_rows

TABLES = [".jsonl", ".csv", ".parquet", ".sqlite", ".html"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty files, two of them broken; only their names matter here."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}{'broken' if number in (4, 15) else ''}.jpg").write_text(str(number))
    return folder


def caption(file, folder, captioner=None, photos=None, **options):
    captioner = captioner or FastCaptioner()
    photos = list_photos([str(folder)]) if photos is None else photos
    counts = caption_into(file, photos, captioner, batch_size=4, **options)
    assert captioner.seen == counts.captioned + counts.failed
    return counts.captioned, counts.failed, counts.skipped


def rows_of(file):
    """[(path, caption, error)], in order."""
    match file.suffix:
        case ".jsonl":
            found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        case ".csv":
            with file.open(encoding="utf-8", newline="") as lines:
                found = [{key: value or None for key, value in row.items()} for row in csv.DictReader(lines)]
        case ".parquet":
            found = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
        case ".sqlite":
            with closing(sqlite3.connect(file)) as database:
                return database.execute("SELECT path, caption, error FROM captions ORDER BY id").fetchall()
        case ".html":
            with Database(database_of(file)) as database:
                text = file.read_text(encoding="utf-8")
                assert text.count("\n[") == database.last()
                assert text.endswith("</html>\n")
                return [(row.path, row.caption, row.error) for row in database.rows()]
    return [(row["path"], row.get("caption"), row.get("error")) for row in found]


def expected(folder):
    results = {str(path): FastCaptioner().caption(str(path)) for path in sorted(folder.glob("*.jpg"))}
    return [
        (path, None, str(result)) if isinstance(result, ValueError) else (path, result.text, None)
        for path, result in results.items()
    ]


@pytest.fixture(params=TABLES)
def file(request, tmp_path) -> Path:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"captions{request.param}"


def test_a_run_and_the_same_again(file, folder):
    assert caption(file, folder) == (18, 2, 0)
    assert rows_of(file) == expected(folder)
    before, status = file.read_bytes(), file.stat()
    assert caption(file, folder) == (0, 0, 20)
    if file.suffix != ".sqlite":
        assert file.read_bytes() == before
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)  # not written again
    (folder / "20.jpg").touch()
    assert caption(file, folder) == (1, 0, 20)
    assert rows_of(file) == expected(folder)
    assert sorted(file.parent.iterdir()) == sorted({file, database_of(file), folder})  # nothing is left over


def test_interrupted(file, folder, monkeypatch):
    monkeypatch.setattr(runs, "COMMIT", 0)

    def interrupted():
        for number, photo in enumerate(list_photos([str(folder)])):
            if number == 9:
                raise KeyboardInterrupt
            yield photo

    with pytest.raises(KeyboardInterrupt):
        caption(file, folder, photos=interrupted())
    assert rows_of(file) == expected(folder)[:8]
    assert caption(file, folder) == (12 - 1, 1, 8)
    assert rows_of(file) == expected(folder)


def test_another_format_without_captioning_again(file, folder, tmp_path):
    caption(tmp_path / "first.sqlite", folder)
    shutil.copy(tmp_path / "first.sqlite", database_of(file))
    assert caption(file, folder) == (0, 0, 20)
    assert rows_of(file) == expected(folder)


class Upper(FastCaptioner):
    """The same model, as far as a file can tell, with other captions."""

    def caption(self, name):
        result = super().caption(name)
        return result if isinstance(result, ValueError) else replace(result, text=result.text.upper())


def test_a_changed_photo_is_captioned_again_in_its_place(file, folder):
    caption(file, folder)
    for name in ("07.jpg", "15broken.jpg"):
        (folder / name).write_text("changed")
    assert caption(file, folder, Upper()) == (1, 1, 18)
    os.utime(folder / "09.jpg", (1, 1))
    assert caption(file, folder, Upper()) == (1, 0, 19)
    again = [text and text.upper() if path[-6:] in ("07.jpg", "09.jpg") else text for path, text, _ in expected(folder)]
    assert [text for _, text, _ in rows_of(file)] == again
    if file.suffix == ".sqlite":
        assert {hit.path for hit in search(file, "a", 100)} == {path for path, text, _ in expected(folder) if text}


def test_errors_are_tried_again_on_demand(file, folder):
    caption(file, folder)
    assert caption(file, folder, retry_errors=True) == (0, 2, 18)
    assert rows_of(file) == expected(folder)


def test_redo(file, folder):
    caption(file, folder)
    (folder / "00.jpg").unlink()
    assert caption(file, folder, redo=True, decoding=Decoding(max_length=5)) == (17, 2, 0)
    assert rows_of(file) == expected(folder)
    if file.suffix == ".sqlite":
        assert len(search(file, "dog OR a", limit=100, some=True)) == 17


@pytest.mark.parametrize("first", [0, 0.3, 0.7])
def test_captions_of_low_confidence_are_left_out(file, folder, first):
    """Whatever a former run asked for."""
    caption(file, folder, min_confidence=first)
    (folder / "20.jpg").touch()
    counts = caption_into(file, list_photos([str(folder)]), FastCaptioner(), min_confidence=0.5)
    confidences = {path: FastCaptioner().caption(path).confidence for path, text, _ in expected(folder) if text}
    low = {path for path, confidence in confidences.items() if confidence < 0.5}
    assert 3 < len(low) < 16
    assert (counts.captioned, counts.left_out) == (1, len(low))
    assert rows_of(file) == [(path, None if path in low else text, error) for path, text, error in expected(folder)]
    assert {hit.path for hit in search(file, "a", 100)} == confidences.keys() - low
    whole = file.with_stem("whole")
    caption(whole, folder, min_confidence=0.5)
    if file.suffix != ".sqlite":
        assert file.read_bytes() == whole.read_bytes()
    caption(file, folder)
    assert rows_of(file) == expected(folder)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_what_is_left_out_is_not_scored(tmp_path, folder, ending):
    file = tmp_path / f"captions{ending}"
    caption(file, folder, min_confidence=0.5)
    assert [(row.name, row.caption, row.problem) for row in read_rows(file)] == [
        (path, text, "") for path, text, _ in rows_of(file) if text
    ]


def test_a_table_says_why_a_caption_is_left_out(tmp_path, folder):
    file = tmp_path / "captions.csv"
    caption(file, folder, min_confidence=0.99)
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            assert bool(row["error"]) != bool(row["confidence"])
            if row["confidence"]:
                digits = row["confidence"][:4]
                assert (row["caption"], row["left_out"]) == ("", f"confidence {digits:0<4} is below 0.99")


def test_another_calibration_is_another_model(file, folder):
    caption(file, folder)
    other = FastCaptioner()
    other.confidence = Confidence(np.ones(4), 1.0, np.zeros(0), 0.0, 0.4)
    with pytest.raises(ValueError, match=r"written with calibration None, not \w{12}\. Use the same settings"):
        caption(file, folder, other)


def test_an_ensemble_is_another_model(tmp_path, folder):
    both = FastCaptioner()
    both.provenance = f"other, SHA-256 aaaa + {both.provenance}"
    caption(tmp_path / "captions.csv", folder)
    with pytest.raises(ValueError, match=r"written with model 0123456789, not aaaa\+0123456789"):
        caption(tmp_path / "captions.csv", folder, both)


def test_a_file_of_an_older_format_can_be_written_anew(file, folder):
    with closing(sqlite3.connect(database_of(file))) as database:
        database.execute("CREATE TABLE captions (path)")
        database.execute("CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO run VALUES ('settings', '{\"format\": 1}')")
        database.commit()
    with pytest.raises(ValueError, match=r"written with format 1, not 2, .* or start over: --redo"):
        caption(file, folder)
    assert caption(file, folder, redo=True) == (18, 2, 0)
    assert rows_of(file) == expected(folder)


def test_other_captions_are_in_parquet(tmp_path, folder):
    class Two(FastCaptioner):
        def caption(self, name):
            result = super().caption(name)
            return result if isinstance(result, ValueError) else replace(result, other_captions=(result,))

    table = pytest.importorskip("pyarrow.parquet")
    caption(tmp_path / "a.parquet", folder, Two())
    found = table.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["other_captions"] for row in found] == [text and [text] for _, text, _ in expected(folder)]


def test_other_settings_are_refused(file, folder):
    caption(file, folder)
    with pytest.raises(
        ValueError, match=r"written with beam_size 3, not 5, max_length 20, not 9\. Use the same settings"
    ):
        caption(file, folder, decoding=Decoding(beam_size=5, max_length=9))
    other = FastCaptioner()
    other.provenance = "fast, SHA-256 9876543210"
    with pytest.raises(ValueError, match="written with model 0123456789, not 9876543210"):
        caption(file, folder, other)
    assert rows_of(file) == expected(folder)


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_file_that_is_cut_off_is_completed(tmp_path, folder, ending, keep):
    file = tmp_path / f"captions{ending}"
    caption(file, folder)
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    caption(file, folder)
    assert file.read_bytes() == whole


def test_a_photo_that_is_listed_twice_has_one_row(file, folder):
    twice = [photo for photo in list_photos([str(folder)]) for _ in range(2)]
    assert caption(file, folder, photos=twice) == (18, 2, 20)
    assert rows_of(file) == expected(folder)


def test_a_second_run_is_refused_while_the_first_is_at_work(file, folder):
    def intruder():
        with pytest.raises(BlockingIOError, match="another run is writing to it"):
            caption(file, folder)
        yield from list_photos([str(folder)])

    assert caption(file, folder, photos=intruder()) == (18, 2, 0)
    lock = database_of(file).with_name(f"{database_of(file).name}.lock")
    lock.touch()  # as a killed run leaves it
    assert caption(file, folder) == (0, 0, 20)
    assert not lock.exists()


def test_what_no_run_wrote_is_not_overwritten(file, folder):
    file.write_text("precious")
    with pytest.raises(ValueError, match=r"exists but|is not an SQLite database"):
        caption(file, folder)
    assert file.read_text() == "precious"
    if file.suffix != ".sqlite":
        caption(file, folder, redo=True)
        assert rows_of(file) == expected(folder)


def test_a_database_of_something_else(tmp_path, folder):
    file = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE precious (a)")
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"other.sqlite is a database, but not of captions"):
        caption(file, folder, redo=True)
    assert file.read_bytes() == before


def test_a_full_disk_under_the_database(file, folder, monkeypatch):
    monkeypatch.setattr(runs, "COMMIT", 0)
    photos = list(list_photos([str(folder)]))

    def filling():
        for number, photo in enumerate(photos):
            if number == 12:
                databases[0]._sqlite.execute("PRAGMA max_page_count = 1")  # as large as it is, and no larger
            yield photo._replace(name=f"{'x' * 3000}{photo.name}")

    databases = []
    enter = Database.__enter__
    monkeypatch.setattr(Database, "__enter__", lambda self: databases.append(self) or enter(self))
    with pytest.raises(OSError, match=r"captions\..*: database or disk is full. What was written before is kept."):
        caption(file, folder, photos=filling())
    monkeypatch.setattr(Database, "__enter__", enter)
    with Database(database_of(file)) as database:
        kept = database.last()
    assert 8 <= kept < 20
    photos = [photo._replace(name=f"{'x' * 3000}{photo.name}") for photo in photos]
    captioned, failed, skipped = caption(file, folder, photos=photos)
    assert (captioned + failed, skipped) == (20 - kept, kept)
    assert [row[1:] for row in rows_of(file)] == [row[1:] for row in expected(folder)]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".html"])
def test_a_full_disk_under_the_table(tmp_path, folder, monkeypatch, ending):
    file = tmp_path / f"captions{ending}"
    monkeypatch.setattr(runs, "COMMIT", 0)
    write = outputs.WRITE[ending]

    def full(path, rows, **options):
        with path.open("ab") as table:
            table.write(b"half a l")
        if len(list(rows)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(outputs.WRITE, ending, full)
    with pytest.raises(
        OSError, match=r"captions.* cannot be written: No space left on device. All captions so far are"
    ):
        caption(file, folder)
    monkeypatch.setitem(outputs.WRITE, ending, write)
    caption(file, folder)
    assert rows_of(file) == expected(folder)


def test_names_and_options_that_do_not_fit(tmp_path, folder):
    with pytest.raises(
        ValueError, match=r"unknown ending '.xlsx'; expected one of .jsonl, .csv, .parquet, .html, .sqlite"
    ):
        caption(tmp_path / "captions.xlsx", folder)
    with pytest.raises(ValueError, match="one caption per photo, not 2"):
        caption(tmp_path / "captions.csv", folder, decoding=Decoding(num_captions=2))
    with pytest.raises(IsADirectoryError, match=r"tables.csv is a folder; expected the name of a file"):
        (tmp_path / "tables.csv").mkdir()
        caption(tmp_path / "tables.csv", folder, redo=True)
    with pytest.raises(FileNotFoundError, match="create it first"):
        caption(tmp_path / "absent" / "captions.csv", folder)


def test_sidecars(tmp_path, folder):
    texts = {
        path.with_suffix(".txt"): text for path, text, _ in ((Path(p), t, e) for p, t, e in expected(folder)) if text
    }
    own = folder / "03.txt"
    own.write_text("mine")
    assert caption(None, folder, sidecars=True) == (17, 2, 1)
    assert own.read_text() == "mine"
    assert {path: path.read_text(encoding="utf-8") for path in folder.glob("*.txt") if path != own} == {
        path: f"{text}\n" for path, text in texts.items() if path != own
    }
    assert caption(None, folder, sidecars=True) == (0, 2, 18)
    assert caption(None, folder, sidecars=True, overwrite=True) == (18, 2, 0)
    assert own.read_text(encoding="utf-8") == f"{texts[own]}\n"


def test_sidecars_are_for_files_that_are_there(tmp_path, folder):
    with pytest.raises(ValueError, match=r"-: no file, so no text file can be put beside it. Leave --sidecar out"):
        caption(None, None, photos=[Photo("-", b"photo")], sidecars=True)
    file = tmp_path / "captions.jsonl"
    caption(file, folder)
    folder.rename(tmp_path / "moved")
    assert caption(file, tmp_path / "moved", sidecars=True) == (18, 2, 0)
    assert not folder.exists() and len(list((tmp_path / "moved").glob("*.txt"))) == 18


def test_sidecars_of_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    Path(name).touch()
    assert caption(None, tmp_path, sidecars=True) == (1, 0, 0)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"caf\xe9.jpg", b"caf\xe9.txt"]
    assert caption(None, tmp_path, sidecars=True) == (0, 0, 1)


def test_sidecars_of_a_table(tmp_path, folder):
    """They are written from the table, also for photos that were captioned before."""
    file = tmp_path / "captions.jsonl"
    caption(file, folder)
    assert caption(file, folder, sidecars=True) == (0, 0, 20)
    assert len(list(folder.glob("*.txt"))) == 18
    (folder / "00.jpg").write_text("changed")
    (folder / "00.txt").write_text("mine")
    assert caption(file, folder, sidecars=True) == (1, 0, 19)
    assert (folder / "00.txt").read_text() == "mine"
    (folder / "00.jpg").write_text("changed again")
    assert caption(file, folder, Upper(), sidecars=True, overwrite=True) == (1, 0, 19)
    assert (folder / "00.txt").read_text(encoding="utf-8") == f"{expected(folder)[0][1].upper()}\n"


def test_names_that_are_no_utf8(file):
    names = [os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"broken\xe9.jpg")]
    assert caption(file, None, photos=list_photos(names)) == (1, 1, 0)
    (path, _, _), (other, _, error) = rows_of(file)
    assert (path, other, error) == ("caf\\xe9.jpg", "broken\\xe9.jpg", "broken\\xe9.jpg: broken; expected a photo.")


def test_search(tmp_path):
    texts = {
        "1.jpg": "a dog runs along the beach",
        "2.jpg": "two dogs on a beach",
        "3.jpg": "a surfer on a wave",
        "4.jpg": "a beach, and a dog on a long leash that is held by a man",
    }

    class Told(FastCaptioner):
        def caption(self, name):
            return runs.Caption(texts[name], [], [], -1.0, -1.0, True)

    file = tmp_path / "captions.csv"
    caption(file, None, Told(), list_photos(texts))

    def found(query, **options):
        return [hit.path for hit in search(file, query, **options)]

    assert found("dog beach") == ["2.jpg", "1.jpg", "4.jpg"]
    assert found("dog beach", limit=1) == ["2.jpg"]
    assert found('"on a beach"') == ["2.jpg"]
    assert found("surf*") == ["3.jpg"]
    assert found('"on a w"*') == ["3.jpg"]
    assert found("dog AND (") == [] and found("long (dog)") == ["4.jpg"]  # no operators
    assert found("cat") == []
    assert found("cat wave") == [] and found("cat wave", some=True) == ["3.jpg"]
    with pytest.raises(ValueError, match="the limit is 0; expected at least 1"):
        found("dog", limit=0)
    with pytest.raises(ValueError, match="query is empty"):
        found(' "')
    with pytest.raises(FileNotFoundError, match=r"captions.jsonl.sqlite. Write it with: captioner caption"):
        search(tmp_path / "captions.jsonl", "dog")
    (tmp_path / "x.sqlite").write_text("no database")
    with pytest.raises(ValueError, match="cannot be searched"):
        search(tmp_path / "x.sqlite", "dog")


def test_a_database_is_one_file_that_can_be_read_where_nothing_may_be_written(tmp_path, folder):
    file = tmp_path / "captions.sqlite"
    caption(file, folder)
    assert file.read_bytes()[18:20] == b"\x01\x01"  # https://www.sqlite.org/fileformat.html: no write-ahead log
