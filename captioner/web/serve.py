"""The process: a socket and a server on it. The socket is opened before the model is loaded, so that a port in use is
reported at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import webbrowser

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 5.0  # a connection may wait for the head of a request for once to twice this time


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free port. Raises ValueError if the address cannot be used."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}; expected 1 to 65535, or 0 for a free port.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except socket.gaierror as error:
        raise ValueError(f"cannot listen on {host} ({error.strerror}). Pass another --host.") from error
    except OSError as error:
        message = f"cannot listen on {host}, port {port} ({error.strerror}). Pass another --port, or --port 0 for a "
        raise ValueError(message + "free port.") from error


def address(listening: socket.socket) -> str:
    """The URL of the server for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Protocol(H11Protocol):
    """uvicorn's HTTP protocol with a time limit for the head of a request, for which uvicorn would wait forever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_if_waiting(since=self)

    def _close_if_waiting(self, since: object) -> None:
        """Close the connection if it waits for a head and has not had a request since the last call."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.cycle is since:
            self.transport.close()
        else:
            self.loop.call_later(HEAD_SECONDS, self._close_if_waiting, self.cycle)


def server(app: ASGIApp) -> uvicorn.Server:
    """A uvicorn server without proxy headers, access log and WebSockets. At shutdown, running requests have three
    seconds."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )


def serve(app: ASGIApp, listening: socket.socket, open_browser: bool = False) -> None:
    """Serve until Ctrl-C, which raises KeyboardInterrupt."""
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(address(listening),), daemon=True).start()
    server(app).run(sockets=[listening])
