"""Finding photos for a bulk run: one at a time, wherever they are."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from captioner.bulk import listing
from captioner.bulk.listing import count_photos, is_photo, list_photos, path_of, read_list
from captioner.images import ImageError, open_image


def names(*paths, **options):
    return [photo.name for photo in list_photos(map(str, paths), **options)]


def test_folders_and_files(photos, tmp_path):
    own = ["a.png", "b.jpg", "c.webp"]
    (tmp_path / ".hidden.jpg").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b.JPG").touch()
    assert names(photos) == [f"{photos}/{name}" for name in own]
    assert names(f"{photos}//./") == names(photos)
    assert names(photos, recursive=True) == [*names(photos), f"{photos}/deeper/d.jpg"]
    assert names(tmp_path, tmp_path / "notes.txt") == [f"{tmp_path}/b.JPG", f"{tmp_path}/notes.txt"]
    (photo,) = list_photos([str(photos / "b.jpg")])
    status = (photos / "b.jpg").stat()
    assert photo[1:] == (str(photos / "b.jpg"), status.st_size, status.st_mtime_ns)
    (absent,) = list_photos([str(tmp_path / "absent.jpg")])
    assert absent[1:] == (absent.name, None, None)
    assert count_photos([str(photos), str(tmp_path)], recursive=True) == 5


def test_a_folder_is_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "CHUNK", 3)
    for number in range(10):
        (tmp_path / f"{number}.jpg").touch()
    seen = []
    scandir = os.scandir

    class Counted:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                seen.append(entry)
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    coming = list_photos([str(tmp_path)])
    first = next(coming)
    assert len(seen) == 3
    assert sorted([first.name, *(photo.name for photo in coming)]) == [f"{tmp_path}/{n}.jpg" for n in range(10)]


def test_a_folder_that_cannot_be_listed_is_reported(photos, unlistable):
    unlistable("deeper")
    reports = []
    assert len(names(photos, recursive=True, report=reports.append)) == 3
    assert reports == [f"{photos}/deeper: the folder cannot be listed (Permission denied); its photos are missing."]


def test_links_to_folders_are_followed_only_on_demand(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "d.jpg").symlink_to(photos / "deeper" / "d.jpg")
    own = [f"{tmp_path}/d.jpg"]
    assert names(tmp_path, recursive=True) == own
    reports = []
    followed = names(tmp_path, recursive=True, follow_links=True, report=reports.append)
    assert followed == own + [f"{tmp_path}/link/{name}" for name in ("a.png", "b.jpg", "c.webp", "deeper/d.jpg")]
    assert reports == [f"{tmp_path}/circle: a link to a folder that contains it; skipped."]


@pytest.fixture
def shard(photos, tmp_path) -> Path:
    path = tmp_path / "00.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("b.jpg", "a.png"):
            tar.add(photos / name, name)
            tar.addfile(tarfile.TarInfo(f"{name}.txt"))
    return path


def test_a_shard(shard, photos):
    found = list(list_photos([str(shard)]))
    assert [photo.name for photo in found] == [f"{shard}/b.jpg", f"{shard}/a.png"]
    assert count_photos([str(shard)]) == 2
    for photo, path in zip(found, (photos / "b.jpg", photos / "a.png"), strict=True):
        assert photo.size == path.stat().st_size
        assert open_image(photo.source).tobytes() == open_image(path).tobytes()
        assert open_image(photo.source).size == open_image(path).size  # once more
    shard.unlink()
    with pytest.raises(ImageError, match=r"00.tar/b.jpg: cannot be read \(No such file"):
        open_image(found[0].source)


def test_a_compressed_shard_is_reported(tmp_path):
    (tmp_path / "00.tar.gz").touch()
    reports = []
    assert names(tmp_path / "00.tar.gz", report=reports.append) == [] and "Decompress it first" in reports[0]


def test_a_shard_that_is_cut_off_is_reported(shard):
    shard.write_bytes(shard.read_bytes()[: 512 + 100])
    reports = []
    list(list_photos([str(shard)], report=reports.append))
    assert len(reports) == 1 and "cannot be read to its end" in reports[0]


@pytest.mark.parametrize(
    ("stream", "separator", "paths"),
    [
        (b"a.jpg\n\nb c.jpg\r\n", b"\n", ["a.jpg", "b c.jpg"]),
        (b"a\n.jpg\0b.jpg", b"\0", ["a\n.jpg", "b.jpg"]),
        (b"\xef\xbb\xbfa.jpg\ncaf\xe9.jpg", b"\n", ["a.jpg", os.fsdecode(b"caf\xe9.jpg")]),
        (b"", b"\n", []),
    ],
)
def test_lists(stream, separator, paths, monkeypatch):
    for block in (1 << 16, 1):
        monkeypatch.setattr(listing, "BLOCK", block)
        assert list(read_list(io.BufferedReader(io.BytesIO(stream)), separator)) == paths


def test_a_list_of_lines_that_has_nul_is_refused():
    with pytest.raises(ValueError, match=r"separated by NUL, not by line ends. Add --null \(-0\)"):
        list(read_list(io.BufferedReader(io.BytesIO(b"a.jpg\0b.jpg"))))


def test_a_folder_that_does_not_exist_is_reported(tmp_path):
    reports = []
    assert names(tmp_path / "absent", tmp_path / "absent.jpg", report=reports.append) == [f"{tmp_path}/absent.jpg"]
    assert reports == [f"{tmp_path}/absent: no such file or folder; skipped."]


def test_a_name_that_is_no_utf8_has_a_name_that_is(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    (photo,) = list_photos([path])
    assert (photo.name, photo.source) == (f"{tmp_path}/caf\\xe9.jpg", path)
    assert path_of(photo.name) == path
    Path(photo.name).touch()
    assert path_of(photo.name) == photo.name


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_photo_bytes_are_told_from_lists(format):
    Image.new("RGB", (8, 8)).save(buffer := io.BytesIO(), format)
    assert is_photo(buffer.getvalue()[:16])
    assert not is_photo(f"{format}/BM/RIFF.jpg\n".encode())
