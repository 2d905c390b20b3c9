"""scripts/download_data.py, with archives on this disk in place of the network."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "download_data.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return module


def zip_up(path: Path, **files: str) -> str:
    """An archive with these files; its MD5."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def flickr8k(folder: Path) -> dict[str, str]:
    """Addresses and sums of archives laid out like Flickr8k's."""
    texts = {
        "Flickr8k.token.txt": "a.jpg#0\tA cat .\nb.jpg#0\tA dog .\n",
        "Flickr_8k.trainImages.txt": "a.jpg\n",
        "Flickr_8k.testImages.txt": "b.jpg\n",
        "__MACOSX/._Flickr8k.token.txt": "litter",
    }
    photos = {
        "Flicker8k_Dataset/a.jpg": "a",
        "Flicker8k_Dataset/b.jpg": "b",
        "__MACOSX/Flicker8k_Dataset/._a.jpg": "x",
    }
    sums = {
        "text.zip": zip_up(folder / "text.zip", **texts),
        "photos.zip": zip_up(folder / "photos.zip", **photos),
    }
    return {(folder / name).as_uri(): md5 for name, md5 in sums.items()}


def test_it_unpacks_what_the_reader_reads(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(script.ARCHIVES, "flickr8k", flickr8k(tmp_path))
    root = tmp_path / "datasets"
    script.main(["flickr8k", "--root", str(root)])
    assert capsys.readouterr().out == f"{root / 'flickr8k'}: train 1, test 1 photos\n"
    visible = {path.name for path in (root / "flickr8k").iterdir() if not path.name.startswith(".")}
    assert visible == {
        "Flicker8k_Dataset",
        "Flickr8k.token.txt",
        "Flickr_8k.trainImages.txt",
        "Flickr_8k.testImages.txt",
    }
    for archive in tmp_path.glob("*.zip"):
        archive.unlink()
    script.main(["flickr8k", "--root", str(root)])  # all is there: nothing is asked for again


def test_another_content_is_removed(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = dict.fromkeys(flickr8k(tmp_path), "0" * 32)
    monkeypatch.setitem(script.ARCHIVES, "flickr8k", addresses)
    with pytest.raises(SystemExit, match=r"text.zip: expected MD5 000.*found MD5"):
        script.main(["flickr8k", "--root", str(tmp_path / "datasets")])
    assert list((tmp_path / "datasets" / "flickr8k").iterdir()) == []
    (tmp_path / "text.zip").write_text("<html>Sign in</html>")
    monkeypatch.setitem(script.ARCHIVES, "flickr8k", dict.fromkeys(addresses))
    with pytest.raises(SystemExit, match=r"text.zip: expected a zip archive, found something else"):
        script.main(["flickr8k", "--root", str(tmp_path / "datasets")])


def test_without_network(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.ARCHIVES, "karpathy", {"http://127.0.0.1:9/x.zip": None})
    with pytest.raises(SystemExit, match=r"127.0.0.1:9/x.zip: no connection .*\nGive the same command again"):
        script.main(["karpathy", "--root", str(tmp_path)])


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt"])
def test_nothing_is_unpacked_outside_of_the_folder(script: ModuleType, tmp_path: Path, name: str) -> None:
    zip_up(tmp_path / "bad.zip", **{"inside.txt": "in", name: "out"})
    with pytest.raises(ValueError, match="outside"):
        script.unpack(tmp_path / "bad.zip", tmp_path / "folder")
    assert not list(tmp_path.glob("**/*.txt"))


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, breaks off after 3 bytes when asked from the start, and continues at a Range."""

    content = b"0123456789"
    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:] if wanted else self.content[:3])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Ranges.asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Ranges) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/x.zip"
        served.shutdown()
        thread.join()


def test_a_broken_download_goes_on(script: ModuleType, tmp_path: Path, server: str) -> None:
    path = tmp_path / "x.zip"
    script.download_patiently(server, path)
    assert path.read_bytes() == Ranges.content
    assert Ranges.asked == [None, "bytes=2-"]
    path.rename(tmp_path / "x.zip.part")
    script.download_patiently(server, path)
    assert path.read_bytes() == Ranges.content
    assert Ranges.asked[2:] == ["bytes=9-"]


def test_the_addresses_name_their_archives(script: ModuleType) -> None:
    for addresses in script.ARCHIVES.values():
        for address, md5 in addresses.items():
            assert address.startswith("http")
            assert address.endswith(".zip")
            assert md5 is None or len(md5) == 32
