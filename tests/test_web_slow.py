"""Clients that send half a request keep no place from others; photos under way at a shutdown get an answer."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from captioner import Captioner
from captioner.web import serve as serving
from captioner.web import upload
from captioner.web.app import create_app
from captioner.web.errors import Problem
from captioner.web.guard import Guard
from captioner.web.serve import listen, server
from captioner.web.service import Limits


@pytest.fixture(scope="module")
def captioner(tiny):
    return Captioner.load(tiny, device="cpu")


def post(port, body, timeout=30):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("POST", "/api/caption", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_half_sent_bodies_lose_their_places(captioner, serve, photos, monkeypatch):
    monkeypatch.setattr(upload, "PATIENCE", 0.5)
    port = serve(Guard(create_app(captioner, Limits(max_requests=2))))
    photo = (photos / "b.jpg").read_bytes()
    head = b"POST /api/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n\r\n"
    halves = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
    for half in halves:
        half.sendall(head + photo[:100])
    time.sleep(0.1)
    assert post(port, photo)[0] == 503
    assert all(b" 408 " in half.recv(1000) for half in halves)
    assert post(port, photo)[0] == 200
    for half in halves:
        half.close()


def test_a_trickle_is_too_slow():
    async def trickle():
        while True:
            yield b"x" * 10
            await asyncio.sleep(0.01)

    start = time.monotonic()
    upload_in_a_second = upload.read_photos("", None, trickle(), 10**6, 0.2)
    with pytest.raises(Problem, match=r"did not arrive within 0\.2 seconds"):
        asyncio.run(upload_in_a_second)
    assert time.monotonic() - start < 5


def test_half_sent_heads_expire(captioner, serve, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    port = serve(Guard(create_app(captioner)))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as half:
        half.sendall(b"GET /health HTTP/1.1\r\nHost:")
        assert half.recv(100) == b""  # closed
    with socket.create_connection(("127.0.0.1", port), timeout=10) as half:  # also of a second request
        half.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 200 " in half.recv(10_000)
        half.sendall(b"GET /health HTTP/1.1\r\nHost:")
        while half.recv(10_000):  # the rest of the answer, then the end
            pass


def test_a_shutdown_answers_what_is_under_way(captioner, photos, monkeypatch, capfd):
    started, go_on = threading.Event(), threading.Event()

    def slow(images: np.ndarray):
        started.set()
        go_on.wait(20)
        return encode(images)

    encode = captioner.backend.encode
    monkeypatch.setattr(captioner.backend, "encode", slow)
    listening, process = listen("127.0.0.1", 0), server(Guard(create_app(captioner)))
    process.config.timeout_graceful_shutdown = 1
    thread = threading.Thread(target=process.run, kwargs={"sockets": [listening]})
    thread.start()
    found = []
    client = threading.Thread(
        target=lambda: found.append(post(listening.getsockname()[1], (photos / "b.jpg").read_bytes()))
    )
    client.start()
    assert started.wait(20)
    process.should_exit = True
    client.join(20)
    go_on.set()
    thread.join(20)
    listening.close()
    assert found[0][0] == 503 and found[0][1]["error"]["code"] == "shutting_down"
    assert len(capfd.readouterr().err.splitlines()) <= 1


def test_the_schema_says_that_beam_search_takes_no_temperature(captioner):
    parameters = create_app(captioner).openapi()["paths"]["/api/caption"]["post"]["parameters"]
    refused = {each["name"] for each in parameters if "Only for method sample." in each["description"]}
    assert refused == {"temperature", "top_k", "top_p"}
