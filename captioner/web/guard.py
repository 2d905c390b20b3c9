"""Allowed clients, and the security headers of every response, errors and files included.

Two attacks reach a server that listens only on loopback, both through the browser of the person who runs it. A page of
another site can post to it; Origin and Sec-Fetch-Site reveal this (other programs send neither). Or an attacker's host
name can resolve to it (DNS rebinding), which makes the attacker's page same-origin; Host reveals this."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.web.errors import Problem

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware that refuses foreign requests and adds the headers."""

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", allowed: Iterable[str] = (), origins: Iterable[str] = ()):
        """`host` is the address that the server listens on; `allowed` are its other host names; pages of `origins`
        ("https://photos.example") may use the API. Raises ValueError for anything that is not an origin."""
        self.origins = [_check_origin(origin) for origin in origins]
        self.app = (
            CORSMiddleware(
                app,
                self.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type"],
                expose_headers=["Retry-After"],
            )
            if self.origins
            else app
        )
        self.names = {"localhost", *(_without_port(name) for name in (host, *allowed))}
        self.any_address = not is_loopback(host)  # a name can be rebound, an address cannot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Cache-Control": "no-store"}.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self._problem(scope["method"], Headers(scope=scope))
        await (problem.response() if problem else self.app)(scope, receive, send_with_headers)

    def _problem(self, method: str, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if not self._is_ours(_without_port(host)):
            message = f"{host!r:.80} is not a name of this server; to allow it, start the server with --allow-host."
            return Problem(403, "unknown_host", message)
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin in self.origins:
            return None
        foreign_origin = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if foreign_origin or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return Problem(
                403,
                "foreign_origin",
                "the request came from another site's page; expected this server's page, or a program. To allow the "
                "site, start the server with --allow-origin.",
            )
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self.names:
            return True
        return is_loopback(name) or (self.any_address and _is_address(name))


def _check_origin(origin: str) -> str:
    """The origin as browsers send it."""
    if re.fullmatch(r"https?://[^/?#@*\s]+", origin):
        return origin.lower().removesuffix(":443" if origin.lower().startswith("https:") else ":80")
    raise ValueError(f"{origin!r} is not an origin; expected https://name or http://name:port, without a path.")


def _without_port(host: str) -> str:
    """127.0.0.1 of 127.0.0.1:8000, ::1 of [::1]:8000 and of ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (host if _is_address(host) else host.partition(":")[0]).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
