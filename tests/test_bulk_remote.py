"""Photos behind addresses: a server that is slow, cuts connections and lies about lengths."""

import http.server
import shutil
import threading
import time

import pytest

from captioner.bulk import listing, remote
from captioner.bulk.listing import list_photos
from captioner.images import ImageError, open_image

pytest.importorskip("aiohttp")
fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def server(photos, tmp_path, monkeypatch):
    """The address of a server, and the paths that it was asked for."""
    monkeypatch.setattr(remote, "SECONDS", 0.6)
    monkeypatch.setattr(remote, "LARGEST", 50_000)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)  # between attempts
    photo = (photos / "b.jpg").read_bytes()
    shard = (tmp_path / "00.tar").with_suffix("")
    shutil.make_archive(shard, "tar", photos)
    shard = (tmp_path / "00.tar").read_bytes()
    asked, pause = [], time.sleep

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            attempt = asked.count(self.path)
            how = self.path.strip("/").split(".")[0]
            if how == "absent" or (how == "busy" and attempt < 3):
                return self.send_error(404 if how == "absent" else 503)
            body = shard if self.path.endswith(".tar") else photo
            length = {"longer": 10 * len(body), "shorter": len(body) // 2, "endless": 10**9}.get(how, len(body))
            self.send_response(200)
            self.send_header("Content-Length", length)
            self.end_headers()
            match how:
                case "cut" | "flaky" | "cutshard" if how != "flaky" or attempt < 3:
                    self.wfile.write(body[: len(body) // 2])
                case "slow":
                    for byte in body[:20]:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        pause(0.1)
                case "silent":
                    pause(1)
                case "endless":
                    for _ in range(200):
                        self.wfile.write(bytes(1000))
                case _:
                    self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, address):  # the client hung up
            pass

    server = Quiet(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["good.jpg", "flaky.jpg", "busy.jpg"])
def test_a_photo_arrives(server, photos, name):
    address, asked = server
    (photo,) = list_photos([f"{address}/{name}"])
    assert asked == []  # listing asks nothing
    assert (photo.name, photo.size) == (f"{address}/{name}", None)
    assert open_image(photo.source).tobytes() == open_image(photos / "b.jpg").tobytes()
    assert asked == [f"/{name}"] * (1 if name == "good.jpg" else 3)


@pytest.mark.parametrize(
    ("name", "message", "attempts"),
    [
        ("absent.jpg", "no such file; expected the address of a photo", 1),
        ("cut.jpg", "cannot be fetched .*, in 3 attempts", 3),
        ("longer.jpg", "cannot be fetched .*, in 3 attempts", 3),
        ("slow.jpg", "cannot be fetched .*, in 3 attempts", 3),
        ("silent.jpg", "cannot be fetched .*, in 3 attempts", 3),
        ("shorter.jpg", "cannot be fetched .*, in 3 attempts|damaged", 3),
        ("endless.jpg", r"more than 0.05 MB; expected a photo|cannot be fetched", 3),
    ],
)
def test_a_photo_that_does_not_arrive_is_an_error(server, name, message, attempts):
    address, asked = server
    (photo,) = list_photos([f"{address}/{name}"])
    with pytest.raises(ImageError, match=message):
        open_image(photo.source)
    assert len(asked) <= attempts


def test_a_shard(server, photos):
    address, _ = server
    found = {photo.name.removeprefix(f"{address}/"): photo for photo in list_photos([f"{address}/good.tar"])}
    assert found.keys() == {f"good.tar/{name}" for name in ("a.png", "b.jpg", "c.webp", "deeper/d.jpg")}
    assert open_image(found["good.tar/b.jpg"].source).tobytes() == open_image(photos / "b.jpg").tobytes()
    reports = []
    assert len(list(list_photos([f"{address}/cutshard.tar"], report=reports.append))) < 4
    assert len(reports) == 1 and "cutshard.tar: the shard cannot be read to its end" in reports[0]


def test_a_folder(photos):
    files = fsspec.filesystem("memory")
    files.put(f"{photos}/", "/photos/", recursive=True)
    files.touch("/photos/.hidden.jpg")
    names = [photo.name for photo in list_photos(["memory://photos"])]
    assert names == [f"memory:///photos/{name}" for name in ("a.png", "b.jpg", "c.webp")]
    *others, deeper = list_photos(["memory://photos"], recursive=True)
    assert (len(others), deeper.name) == (3, "memory:///photos/deeper/d.jpg")
    assert deeper.size == (photos / "deeper" / "d.jpg").stat().st_size and deeper.modified is not None
    assert open_image(deeper.source).tobytes() == open_image(photos / "deeper" / "d.jpg").tobytes()


def test_an_address_that_cannot_be_reached_is_reported():
    reports = []
    assert list(list_photos(["nowhere://a.jpg"], report=reports.append)) == []
    assert reports == ["nowhere://a.jpg: cannot be reached (Protocol not known: nowhere); its photos are missing."]


def test_nothing_remote_is_imported_without_an_address(photos, monkeypatch):
    monkeypatch.setattr(remote, "_file_system", None)
    assert len(list(listing.list_photos([str(photos)], recursive=True))) == 4
