"""The metrics of the service in Prometheus' text format: requests for captions by path and status, their durations, and
photos by result. (For these four series, prometheus_client would add process-wide registries.)"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
PATHS = ("/api/caption", "/api/captions")  # a client cannot create new series
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Metrics:
    """The counts since the server started. They are used only in the event loop's thread."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.durations = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        self.durations[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def text(self, inside: int, photos: Mapping[str, int]) -> str:
        """`inside`: requests in progress; `photos`: counts by "captioned" or error code."""
        name = "captioner_request_seconds"
        cumulative = [sum(self.durations[: n + 1]) for n in range(len(self.durations))]
        buckets = [f'{name}_bucket{{le="{le}"}} {n}' for le, n in zip((*BOUNDS, "+Inf"), cumulative, strict=True)]
        requests = [
            f'captioner_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        results = [f'captioner_photos_total{{result="{result}"}} {count}' for result, count in sorted(photos.items())]
        series = [
            *_family("captioner_requests_total", "counter", "Requests for captions.", requests),
            *_family("captioner_photos_total", "counter", "Photos that were captioned or refused.", results),
            *_family(
                "captioner_requests_inside", "gauge", "Requests at work.", [f"captioner_requests_inside {inside}"]
            ),
            *_family(
                name,
                "histogram",
                "Duration of requests for captions.",
                [*buckets, f"{name}_sum {self.seconds:.6f}", f"{name}_count {cumulative[-1]}"],
            ),
        ]
        return "\n".join(series) + "\n"


def _family(name: str, kind: str, help: str, lines: Iterable[str]) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines]


class Measure:
    """ASGI middleware that counts the requests for captions."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500  # stays 500 if the application raises

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            self.metrics.observe(scope["path"], status, time.perf_counter() - start)
