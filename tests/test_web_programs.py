"""What other programs use of the web service: several photos in one request, health, metrics, and pages of other
sites that are allowed."""

import http.client
import json
import re
from contextlib import closing

import pytest

from captioner import Captioner
from captioner.web.app import create_app
from captioner.web.guard import Guard
from captioner.web.metrics import Metrics
from captioner.web.schema import CaptionReplies
from captioner.web.service import Limits

ORIGIN = "https://photos.example"


@pytest.fixture(scope="module")
def captioner(tiny):
    return Captioner.load(tiny, device="cpu")


@pytest.fixture
def port(captioner, serve):
    return serve(Guard(create_app(captioner, Limits(max_bytes=100_000, batch_size=3)), origins=[ORIGIN]))


@pytest.fixture(scope="module")
def photo(photos):
    return (photos / "b.jpg").read_bytes()


def ask(port, path, body=None, method=None, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def send(port, path, *fields):
    head = '--edge\r\nContent-Disposition: form-data; name="{}"; filename="x.jpg"\r\n\r\n'
    body = b"".join(head.format(name).encode() + content + b"\r\n" for name, content in fields) + b"--edge--\r\n"
    status, _, reply = ask(port, path, body, content_type="multipart/form-data; boundary=edge")
    return status, json.loads(reply)


def test_several_photos_are_captioned_as_one_by_one(port, photos):
    files = [path.read_bytes() for path in sorted(photos.glob("*.*"))][:3]
    status, reply = send(port, "/api/captions?beam_size=2", *(("photo", file) for file in files))
    assert status == 200
    CaptionReplies.model_validate(reply, extra="forbid")
    alone = [send(port, "/api/caption?beam_size=2", ("file", file))[1] for file in files]
    assert [each["caption"] for each in reply["results"]] == [each["caption"] for each in alone]
    assert [each["photo"] for each in reply["results"]] == [each["photo"] for each in alone]


def test_a_broken_photo_does_not_affect_the_others(port, photo):
    status, reply = send(port, "/api/captions", ("photo", b"no photo"), ("file", photo), ("photo", b""))
    assert status == 200
    codes = [each["error"]["code"] if "error" in each else each["caption"] for each in reply["results"]]
    assert codes == ["not_a_photo", send(port, "/api/caption", ("photo", photo))[1]["caption"], "empty"]


def test_limits_hold_for_all_photos_together(port, photo):
    def refusal(*fields, query=""):
        status, reply = send(port, f"/api/captions{query}", *fields)
        return status, reply["error"]["code"], reply["error"]["message"]

    status, code, message = refusal(*[("photo", photo)] * 4)
    assert (status, code) == (413, "too_many_photos") and "has 4 photos; this server takes at most 3" in message
    status, code, message = refusal(*[("photo", bytes(40_000))] * 3)
    assert (status, code) == (413, "too_many_bytes") and "0.1 MB together" in message
    assert refusal(("other", photo))[1:] == (
        "no_photo",
        "the form's fields are: 'other'; expected one to 3 fields 'photo' with an image file.",
    )
    assert refusal(("photo", photo), query="?beam_size=0")[:2] == (422, "wrong_setting")
    assert json.loads(ask(port, "/health")[2]) == {"status": "ok", "requests": 0}


def samples(text):
    """Prometheus' text format, read as its specification says."""
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{\w+=\"[^\"]*\"(,\w+=\"[^\"]*\")*\})? [\d.]+", line), line
    return {key: float(value) for key, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


def test_metrics_count_requests_and_photos(port, photo):
    send(port, "/api/captions", ("photo", photo), ("photo", photo), ("photo", b"no photo"))
    send(port, "/api/caption", ("photo", photo))
    send(port, "/api/caption", ("other", photo))
    ask(port, "/nothing")
    status, headers, text = ask(port, "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(text)
    assert found['captioner_requests_total{path="/api/captions",status="200"}'] == 1
    assert found['captioner_requests_total{path="/api/caption",status="400"}'] == 1
    assert found['captioner_photos_total{result="captioned"}'] == 3
    assert found['captioner_photos_total{result="not_a_photo"}'] == 1
    assert found['captioner_request_seconds_bucket{le="+Inf"}'] == found["captioner_request_seconds_count"] == 3
    assert found["captioner_request_seconds_sum"] > 0 and found["captioner_requests_inside"] == 0
    assert "nothing" not in text


def test_the_histogram_is_cumulative():
    metrics = Metrics()
    for seconds in (0.05, 0.051, 7, 100):
        metrics.observe("/api/caption", 200, seconds)
    found = samples(metrics.text(2, {}))
    counts = {bound: found[f'captioner_request_seconds_bucket{{le="{bound}"}}'] for bound in ("0.05", "0.1", "30.0")}
    assert counts == {"0.05": 1, "0.1": 2, "30.0": 3}  # at most the bound, as Prometheus defines it
    assert found["captioner_request_seconds_count"] == 4 and found["captioner_request_seconds_sum"] == 107.101


def test_pages_of_an_allowed_site(port, photo):
    cross_site = {"origin": ORIGIN, "sec_fetch_site": "cross-site"}
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
    status, headers, _ = ask(port, "/api/caption", method="OPTIONS", **cross_site, **asked)
    assert status == 200 and headers["access-control-allow-origin"] == ORIGIN
    for body, expected in ((photo, 200), (b"no photo", 415)):  # a page can read errors, too
        status, headers, _ = ask(port, "/api/caption", body, **cross_site)
        assert (status, headers["access-control-allow-origin"]) == (expected, ORIGIN)
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://photos.example", f"{ORIGIN}.evil.example", "null"])
def test_pages_of_other_sites(port, photo, origin):
    status, headers, reply = ask(port, "/api/caption", photo, origin=origin, sec_fetch_site="cross-site")
    assert status == 403 and "--allow-origin" in reply and "access-control-allow-origin" not in headers
    assert "access-control-allow-origin" not in ask(port, "/health", origin=origin)[1]


@pytest.mark.parametrize("origin", ["*", "https://*.example", "photos.example", f"{ORIGIN}/", "null", ""])
def test_what_is_not_an_origin(captioner, origin):
    with pytest.raises(ValueError, match="is not an origin; expected https://name"):
        Guard(create_app(captioner), origins=[origin])


def test_browsers_leave_out_the_usual_port(captioner):
    origins = [f"{ORIGIN}:443", "http://Photos.example:80", "http://photos.example:443"]
    guard = Guard(create_app(captioner), origins=origins)
    assert guard.origins == [ORIGIN, "http://photos.example", "http://photos.example:443"]
