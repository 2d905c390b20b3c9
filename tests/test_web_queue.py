"""The web service under load: batches, the queue's end, clients that leave, faults of the model."""

import asyncio
import http.client
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from captioner import Captioner
from captioner.web.app import create_app
from captioner.web.batches import Batches
from captioner.web.guard import Guard
from captioner.web.service import Limits

SECONDS = 20  # in which anything that happens must have happened


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, SECONDS))


class Slow:
    """What `Batches` runs, held up until it is let go; remembers its batches."""

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def __call__(self, kind, items):
        self.batches.append((kind, list(items)))
        assert self.go.wait(SECONDS)
        if "bad" in items:
            raise RuntimeError("bad")
        return [f"{kind}{item}" for item in items]


async def submit(batches, slow, *items):
    """Tasks for (kind, item), the first under way before the others come."""
    tasks = []
    for kind, item in items:
        tasks.append(asyncio.create_task(batches.submit(kind, item)))
        while not slow.batches:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    return tasks


def test_what_waits_together_is_done_together():
    async def main():
        slow = Slow()
        batches = Batches(slow, largest=3)
        tasks = await submit(batches, slow, *[("a", 0), ("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 6)])
        slow.go.set()
        assert await asyncio.gather(*tasks) == ["a0", "a1", "b2", "a3", "a4", "a5", "b6"]
        assert slow.batches == [("a", [0]), ("a", [1, 3, 4]), ("b", [2, 6]), ("a", [5])]
        assert await batches.submit("c", 7) == "c7"  # after a rest
        batches.close()

    run(main())


def test_a_fault_is_that_of_its_batch_only():
    async def main():
        slow = Slow()
        batches = Batches(slow, largest=3)
        tasks = await submit(batches, slow, ("a", 0), ("a", "bad"), ("a", 1), ("b", 2))
        slow.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0] == "a0" and results[3] == "b2"
        assert [str(each) for each in results[1:3]] == ["bad", "bad"]
        batches.close()

    run(main())


def test_what_is_cancelled_is_not_done():
    async def main():
        slow = Slow()
        batches = Batches(slow, largest=3)
        tasks = await submit(batches, slow, ("a", 0), ("a", 1), ("a", 2))
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
        slow.go.set()
        assert await tasks[2] == "a2"
        assert slow.batches == [("a", [0]), ("a", [2])]
        batches.close()

    run(main())


class HeldUp:
    """A captioner whose model waits at a gate; counts the photos of its batches."""

    def __init__(self, tiny):
        self.captioner = Captioner.load(tiny, device="cpu")
        self.gate = threading.Event()
        self.batches = []
        encode = self.captioner.backend.encode

        def wait_and_encode(images):
            self.batches.append(len(images))
            assert self.gate.wait(SECONDS)
            return encode(images)

        self.captioner.backend.encode = wait_and_encode


@pytest.fixture
def held_up(tiny):
    held_up = HeldUp(tiny)
    yield held_up
    held_up.gate.set()


def ask(port, photo, query=""):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("POST", f"/api/caption{query}", photo)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer, content


def inside(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/health")
    count = json.loads(connection.getresponse().read())["requests"]
    connection.close()
    return count


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_batch_equals_one_by_one(held_up, tiny, serve, photos):
    port = serve(Guard(create_app(held_up.captioner, Limits(batch_size=4))))
    files = [path.read_bytes() for path in sorted(photos.glob("*.*"))]
    work = [(file, query) for query in ("?beam_size=2", "?method=sample&seed=3") for file in files]
    with ThreadPoolExecutor(1 + len(work)) as pool:
        first = pool.submit(ask, port, files[0])
        wait_for(lambda: held_up.batches == [1])
        together = [pool.submit(ask, port, *each) for each in work]
        wait_for(lambda: inside(port) == 1 + len(work))
        time.sleep(0.2)  # until they are read and wait
        held_up.gate.set()
        together = [each.result()[1] for each in together]
        assert first.result()[0].status == 200
    assert sorted(held_up.batches) == [1, 3, 3]
    for (file, query), reply in zip(work, together, strict=True):
        alone = ask(port, file, query)[1]
        assert [word["word"] for word in reply["words"]] == [word["word"] for word in alone["words"]]
        assert reply["log_probability"] == pytest.approx(alone["log_probability"], abs=1e-4)
        for a, b in zip(reply["attention"]["maps"], alone["attention"]["maps"], strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def test_a_full_queue_says_when_to_come_again(held_up, serve, photos):
    port = serve(Guard(create_app(held_up.captioner, Limits(max_requests=2))))
    photo = (photos / "b.jpg").read_bytes()
    with ThreadPoolExecutor(2) as pool:
        inner = [pool.submit(ask, port, photo) for _ in range(2)]
        wait_for(lambda: inside(port) == 2)
        answer, content = ask(port, photo)
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert content["error"]["code"] == "queue_full" and "2 photos" in content["error"]["message"]
        held_up.gate.set()
        assert [each.result()[0].status for each in inner] == [200, 200]
    assert ask(port, photo)[0].status == 200


def test_who_leaves_is_not_waited_for(held_up, serve, photos):
    port = serve(Guard(create_app(held_up.captioner)))
    photo = (photos / "b.jpg").read_bytes()
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(ask, port, photo)
        wait_for(lambda: held_up.batches == [1])
        leaves = http.client.HTTPConnection("127.0.0.1", port)
        leaves.request("POST", "/api/caption", photo)
        wait_for(lambda: inside(port) == 2)
        leaves.close()
        wait_for(lambda: inside(port) == 1)
        held_up.gate.set()
        assert stays.result()[0].status == 200
    assert ask(port, photo)[0].status == 200
    assert held_up.batches == [1, 1]


def test_a_fault_of_the_model_is_not_told_to_clients(held_up, serve, photos, caplog):
    def fail(images):
        raise RuntimeError("a secret of the house")

    held_up.captioner.backend.encode = fail
    port = serve(Guard(create_app(held_up.captioner)))
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    answer, content = ask(port, (photos / "b.jpg").read_bytes())
    wait_for(lambda: "a secret of the house" in caplog.text)  # the log has it, though the client has not
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert answer.status == 500 and content["error"]["code"] == "internal" and "secret" not in str(content)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert inside(port) == 0
