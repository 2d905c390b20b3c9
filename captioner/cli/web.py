"""The verb that serves the page and the HTTP API: web."""

from __future__ import annotations

import sys

import tyro

from captioner.cli.options import SHIPPED, Model, app


@app.command
def web(
    model: Model = SHIPPED,
    host: str = "127.0.0.1",
    port: int = 8000,
    open: bool = False,
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    allow_origin: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    max_megabytes: float = 20,
    max_megapixels: float = 50,
    max_requests: int = 16,
) -> int:
    """Serve a web page and an HTTP API for captions, on this machine only. Photos are not stored.

    Args:
        host: Address to listen on. 0.0.0.0 accepts connections from the network.
        port: Port to listen on; 0 takes a free one.
        open: Open the page in the browser.
        allow_host: Another host name of this server.
        allow_origin: Another site whose pages may use the API, such as https://photos.example.
        max_megabytes: Maximum size of a request, which may have several files.
        max_megapixels: Maximum size of a photo.
        max_requests: Maximum number of requests at a time; further ones get status 503.
    """
    from captioner.web.app import create_app
    from captioner.web.guard import Guard, is_loopback
    from captioner.web.serve import address, listen, serve
    from captioner.web.service import Limits

    for option, value in {
        "--max-megabytes": max_megabytes, "--max-megapixels": max_megapixels, "--max-requests": max_requests
    }.items():  # fmt: skip
        if value <= 0:
            raise ValueError(f"{option} is {value:g}; expected more than 0.")
    limits = Limits(int(max_megabytes * 1e6), int(max_megapixels * 1e6), max_requests)
    with listen(host, port) as listening:
        application = Guard(create_app(model.load(), limits), host, allow_host, allow_origin)
        if not is_loopback(listening.getsockname()[0]):
            print("captioner: everyone who can reach this machine over the network can use this page.", file=sys.stderr)
        print(f"{address(listening)} (Ctrl-C to stop)", flush=True)
        serve(application, listening, open)
    return 0
