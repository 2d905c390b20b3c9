"""The web service over real sockets: what the API takes, gives and refuses. Its queue is tested in test_web_queue.py,
its page in test_web_browser.py."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from captioner import Captioner, Decoding
from captioner.cli.options import DecodingOptions
from captioner.web.app import FILES, create_app
from captioner.web.guard import HEADERS, Guard
from captioner.web.schema import CaptionReply, ErrorReply, Info
from captioner.web.serve import listen
from captioner.web.service import Limits
from captioner.web.settings import Settings

ROOT = Path(__file__).parents[1]
LIMITS = Limits(max_bytes=200_000, max_pixels=1_000_000, upload_seconds=0.5)


@pytest.fixture(scope="module")
def captioner(tiny):
    return Captioner.load(tiny, device="cpu")


@pytest.fixture(scope="module")
def port(captioner, serve):
    return serve(Guard(create_app(captioner, LIMITS)))


@pytest.fixture(scope="module")
def photo(photos):
    return (photos / "b.jpg").read_bytes()


def ask(port, path, body=None, method=None, **headers):
    """Status, headers and JSON (or bytes) of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, names)
        answer = connection.getresponse()
        content = answer.read()
        return (
            answer.status,
            answer.headers,
            json.loads(content) if "json" in answer.headers["content-type"] else content,
        )
    finally:
        connection.close()


def form(*fields, end=b"--edge--\r\n"):
    """A multipart body of (name, content), and its header."""
    head = '--edge\r\nContent-Disposition: form-data; name="{}"; filename="../../etc/x.jpg"\r\n\r\n'
    body = b"".join(head.format(name).encode() + content + b"\r\n" for name, content in fields) + end
    return {"body": body, "content_type": "multipart/form-data; boundary=edge"}


def error(answer):
    status, headers, body = answer
    problem = ErrorReply.model_validate(body, extra="forbid").error
    assert {name: headers[name] for name in HEADERS} == HEADERS
    return status, problem.code, problem.message


def test_a_caption_is_that_of_the_captioner(port, captioner, photo):
    expected = captioner.caption(photo, alternatives=4)
    status, headers, reply = ask(port, "/api/caption", photo)
    assert status == 200 and headers["cache-control"] == "no-store"
    assert reply["caption"] == expected.text
    assert [word["word"] for word in reply["words"]] == expected.words
    assert reply["attention"]["maps"] == pytest.approx(expected.attention.reshape(len(expected.words), -1), abs=1e-4)
    assert [len(word["alternatives"]) for word in reply["words"]] == [4] * len(expected.words)
    assert reply["photo"] == {"width": 80, "height": 60} and reply["attention"]["box"] == [0, 0, 80, 60]
    CaptionReply.model_validate(reply, extra="forbid", strict=True)
    assert ask(port, "/api/caption", **form(("other", b"1"), ("photo", photo)))[2] == reply


def test_a_turned_photo_has_its_upright_size(port, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    Image.open(io.BytesIO(photo)).save(turned := io.BytesIO(), "JPEG", exif=exif)
    assert ask(port, "/api/caption", turned.getvalue())[2]["photo"] == {"width": 60, "height": 80}


def test_settings(port, captioner, photo):
    reply = ask(port, "/api/caption?num_captions=5&alternatives=0", photo)[2]
    captions = [reply["caption"], *(other["caption"] for other in reply["other_captions"])]
    assert ask(port, "/api/caption?num_captions=5&beam_size=2&alternatives=0", photo)[2] == reply
    best = captioner.caption(photo, num_captions=5)
    assert captions == [best.text, *(other.text for other in best.other_captions)]
    assert all(other["attention"]["maps"] for other in reply["other_captions"])
    every = ask(port, "/api/caption?alternatives=20", photo)  # more than there are words
    assert every[0] == 200 and len(every[2]["words"][0]["alternatives"]) > 10
    sampled = ask(port, "/api/caption?method=sample&temperature=2&top_p=0.9&seed=7", photo)[2]
    assert sampled["caption"] == captioner.caption(photo, method="sample", temperature=2.0, top_p=0.9, seed=7).text
    assert sampled["caption"] != reply["caption"]


SAMPLING = Decoding(method="sample", temperature=0.5, top_k=3, seed=2)


@pytest.mark.parametrize(
    ("saved", "given"),
    [
        (Decoding(), {}),
        (Decoding(beam_size=2), {"num_captions": 5, "alternatives": 0}),
        (SAMPLING, {"method": "beam"}),
        (SAMPLING, {"method": "beam", "num_captions": 2}),
        (SAMPLING, {"top_p": 0.5, "max_length": 3}),
        (Decoding(beam_size=7), {"method": "sample", "temperature": 2.0}),
    ],
)
def test_settings_mean_the_same_on_the_command_line_in_http_and_in_python(saved, given):
    assert DecodingOptions(**given).over(saved) == Settings(**given).over(saved) == saved.override(**given)
    names = [each.name for each in fields(Decoding)]
    assert [each.name for each in fields(DecodingOptions)] == list(Settings.model_fields) == names


def test_settings_of_the_other_method_do_not_stay(tiny, serve, photo):
    captioner = Captioner.load(tiny, device="cpu")
    captioner.decoding = Decoding(method="sample", temperature=0.5, top_k=3)
    port = serve(Guard(create_app(captioner)))
    assert ask(port, "/api/caption?method=beam&num_captions=4", photo)[0] == 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("beam_size=0", "beam_size is '0'; expected greater than or equal to 1."),
        ("beam_size=1000", "beam_size is '1000'; expected less than or equal to 20."),
        ("beam_size=many", "beam_size is 'many'; expected a valid integer"),
        ("temperature=nan&method=sample", "temperature is "),
        ("temperature=2", "temperature is 2.0, but only sampling uses it. Set method to 'sample', too."),
        ("method=luck", "method is 'luck'; expected 'beam' or 'sample'."),
        ("beamsize=3", "unknown setting 'beamsize'; expected: method, beam_size,"),
        ("path=/etc/passwd", "unknown setting 'path'"),
    ],
)
def test_a_wrong_setting(port, photo, query, message):
    status, code, text = error(ask(port, f"/api/caption?{query}", photo))
    assert (status, code) == (422, "wrong_setting") and text.startswith(message)


def png(width, height):
    Image.new("1", (width, height)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


HAS_HEIF = bool(find_spec("pillow_heif"))
HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"body": b""}, 400, "empty"),
        ({"body": b"no photo"}, 415, "not_a_photo"),
        ({"body": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 415, "not_a_photo"),
        ({"body": HEIC}, 415, "not_a_photo"),
        ({"body": png(1000, 1001)}, 413, "too_many_pixels"),
        ({"body": bytes(200_001)}, 413, "too_many_bytes"),
        ({"body": iter([bytes(150_000)] * 2)}, 413, "too_many_bytes"),  # chunked, of unknown length
        (form(("photo", bytes(200_001))), 413, "too_many_bytes"),
        (form(("photo", b"")), 400, "empty"),
        (form(("other", b"1")), 400, "no_photo"),
        (form(("photo", b"1"), ("photo", b"2")), 400, "no_photo"),
        (form(("photo", b"1"), end=b""), 400, "broken_form"),
        (form(*[("photo", b"1")] * 21), 400, "broken_form"),
        ({"body": b"no form", "content_type": "multipart/form-data; boundary=edge"}, 400, "broken_form"),
        ({"body": b"no form", "content_type": "multipart/form-data"}, 400, "broken_form"),
    ],
)
def test_what_is_no_photo(port, request_, status, code):
    found = error(ask(port, "/api/caption", **request_))
    assert found[:2] == (status, code) and found[2][-1] == "." and "bytes>" not in found[2]


def test_a_cut_photo(port, photo):
    status, code, message = error(ask(port, "/api/caption", photo[: len(photo) // 2]))
    assert (status, code) == (400, "broken_photo") and message.startswith("the photo: truncated or damaged")


def raw(port, head, body=b""):
    """The first line of the answer to what no library would send."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /api/caption HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + body)
        return connection.makefile("rb").readline().decode()


def test_the_length_may_be_a_lie(port, photo):
    assert " 400 " in raw(port, b"Content-Length: 300", photo)  # the rest is no photo
    assert " 408 " in raw(port, b"Content-Length: 100000", photo[:100])  # and then nothing comes
    assert " 413 " in raw(port, b"Content-Length: 99999999999")  # told before it is sent
    assert " 400 " in raw(port, b"Content-Length: -1")
    assert " 413 " in raw(port, b"Transfer-Encoding: chunked", b"493e0\r\n" + bytes(300_000))  # before its end
    assert ask(port, "/health")[2] == {"status": "ok", "requests": 0}


def test_what_it_says_of_itself(port, captioner):
    _, _, info = ask(port, "/api/info")
    assert Info.model_validate(info).model == captioner.provenance
    assert info["limits"]["max_bytes"] == 200_000 and ("HEIF" in info["formats"]) == HAS_HEIF
    assert info["decoding"]["max_length"] == 8
    _, _, api = ask(port, "/openapi.json")
    route = api["paths"]["/api/caption"]["post"]
    assert {each["name"] for each in route["parameters"]} >= {"method", "beam_size", "temperature", "seed"}
    assert {"200", "400", "413", "415", "422", "503"} <= route["responses"].keys()
    assert "image/*" in route["requestBody"]["content"]


def test_no_page_asks_a_foreign_host(port):
    for path, (file, kind) in FILES.items():
        status, headers, content = ask(port, path)
        assert status == 200 and headers["content-type"].startswith(kind) and content == file.read_bytes()
        assert set(re.findall(rb"(?:https?:)?//[\w.]+\.\w+", content)) <= {b"http://www.w3.org"}, path
    assert error(ask(port, "/static/../app.py"))[:2] == (404, "no_such_route")
    refused = ask(port, "/api/caption", method="PUT")
    assert error(refused) == (405, "wrong_method", "Method Not Allowed; expected POST: see /docs.")


@pytest.mark.parametrize("path", ["/", "/health", "/openapi.json", "/static/web.js", "/nothing"])
def test_security_headers(port, path):
    headers = ask(port, path)[1]
    assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "server" not in headers


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "[::1]:80"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "192.168.0.2"}, False),
        ({"host": ""}, False),
        ({"host": "localhost:8000", "origin": "http://localhost:8000", "sec_fetch_site": "same-origin"}, True),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
    ],
)
def test_who_may_ask(port, photo, headers, allowed):
    answer = ask(port, "/api/caption", photo, **headers)
    if allowed:
        assert answer[0] == 200
    else:
        assert error(answer)[:2] in {(403, "unknown_host"), (403, "foreign_origin")}
    assert ask(port, "/", **headers)[0] == (
        403 if "host" in headers and not allowed and "origin" not in headers else 200
    )


def test_further_hosts(captioner, serve):
    named = serve(Guard(create_app(captioner), "127.0.0.1", ["photos.example:8000"]))
    assert ask(named, "/", host="Photos.example:80")[0] == 200 and ask(named, "/", host="a.photos.example")[0] == 403
    everywhere = serve(Guard(create_app(captioner), "0.0.0.0"))
    assert ask(everywhere, "/", host="192.168.0.2:80")[0] == 200 and ask(everywhere, "/", host="evil.example")[0] == 403


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 99999, "port is 99999; expected 1 to 65535"),
        ("127.0.0.1", -1, "port is -1"),
        ("no.such.invalid", 0, r"cannot listen on no.such.invalid \(.*\)\. Pass another --host\."),
    ],
)
def test_where_it_cannot_listen(host, port, message):
    with pytest.raises(ValueError, match=message):
        listen(host, port)


opened: list[tuple] | None = None
sys.addaudithook(lambda event, args: opened.append(args) if event == "open" and opened is not None else None)


def test_no_file_is_written_and_no_path_taken(captioner, serve, photos):
    global opened
    port = serve(Guard(create_app(captioner)))
    padded = (photos / "b.jpg").read_bytes() + bytes(3_000_000)  # so large that a form parser would make a file
    for request in ({"body": padded}, form(("photo", padded)), form(("photo", str(photos / "b.jpg").encode()))):
        opened = []
        status = ask(port, "/api/caption", **request)[0]
        seen, opened = opened, None
        assert status == (200 if len(request["body"]) > 3_000_000 else 415)
        assert [args for args in seen if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)] == []
        assert [args for args in seen if "b.jpg" in str(args[0]) or "x.jpg" in str(args[0])] == []


def run(code_or_verb, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *code_or_verb, "web", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


VERB = ("-m", "captioner")


def test_the_verb(tiny, photo):
    with run(VERB, "--port", 0, "--checkpoint", tiny, "--device", "cpu", "--max-megabytes", 0.1) as process:
        line = process.stdout.readline()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C to stop\)\n", line)[1])
        assert ask(port, "/api/caption", photo)[2]["caption"]
        assert error(ask(port, "/api/caption", bytes(100_001)))[:2] == (413, "too_many_bytes")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "captioner: interrupted\n")


def test_a_port_in_use_is_one_line(tiny):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with run(VERB, "--port", port, "--checkpoint", tiny) as process:
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"captioner: cannot listen on 127.0.0.1, port {port} (") and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--max-megabytes", "--max-megapixels", "--max-requests"])
def test_a_limit_of_nothing_is_one_line(tiny, option):
    with run(VERB, option, "0", "--checkpoint", tiny) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (2, f"captioner: {option} is 0; expected more than 0.\n")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "python_multipart"])
def test_without_the_extra_it_is_named(tiny, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from captioner.cli import main; main()"
    with run(("-c", code), "--checkpoint", tiny) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        2,
        f"captioner: {missing} is needed here but is not installed. Install it with: pip install 'captioner[web]'\n",
    )
