"""The routes: the page and its files, the API and its description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from captioner import __version__
from captioner.captioner import Captioner
from captioner.decoding import Decoding
from captioner.images import supported_formats
from captioner.visualize.html import page
from captioner.visualize.view import caption_view
from captioner.web.errors import SETTING, Problem, wrong_address, wrong_setting
from captioner.web.metrics import TEXT_FORMAT, Measure, Metrics
from captioner.web.schema import ERRORS, PHOTO_BODY, PHOTOS_BODY, CaptionReplies, CaptionReply, Health, Info
from captioner.web.service import CaptionService, Limits
from captioner.web.settings import Settings
from captioner.web.upload import read_photos

STATIC = Path(__file__).parent / "static"
SHARED = Path(__file__).parents[1] / "visualize" / "static"  # the script that HTML pages and notebooks share
FILES = {
    "/": (STATIC / "index.html", "text/html"),
    "/docs": (STATIC / "docs.html", "text/html"),
    **{
        f"/static/{path.name}": (path, "text/css" if path.suffix == ".css" else "text/javascript")
        for folder in (STATIC, SHARED)
        for path in sorted(folder.iterdir())
        if path.suffix in (".css", ".js")
    },
}
DESCRIPTION = "A caption for a photo, and where the model looked for each word. Photos are not stored."

Result = TypeVar("Result")


def create_app(captioner: Captioner, limits: Limits | None = None) -> FastAPI:
    """The web page and the API for one model, without the `Guard`."""
    limits = limits or Limits()
    service = CaptionService(captioner, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # FastAPI's own documentation page loads its script from another host, so /docs is ours.
    app = FastAPI(
        title="captioner",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    measured = Metrics()
    app.add_middleware(Measure, metrics=measured)
    _answer_errors(app)
    for address, (path, kind) in FILES.items():
        _add_file(app, address, path.read_bytes(), kind)
    _add_file(app, "/static/report.html", _empty_report().encode(), "text/plain")

    def choose_decoding(settings: Settings) -> Decoding:
        try:
            return settings.over(captioner.decoding.for_display())
        except ValueError as error:
            raise Problem(422, SETTING, str(error)) from error

    async def receive(request: Request, most: int) -> list[bytes]:
        return await read_photos(
            request.headers.get("content-type", ""),
            request.headers.get("content-length"),
            request.stream(),
            limits.max_bytes,
            limits.upload_seconds,
            most,
        )

    @app.post(
        "/api/caption",
        summary="Caption a photo",
        response_description="The caption, and further captions if requested.",
        response_model=CaptionReply,
        responses=ERRORS,
        openapi_extra={"requestBody": PHOTO_BODY},
    )
    async def caption(request: Request, settings: Annotated[Settings, Query()]) -> JSONResponse:
        """Send the image file's bytes as the body, or a multipart form with the file as its field "photo" or "file"."""
        decoding = choose_decoding(settings)
        with service.place(), _told_of_shutdown():
            [photo] = await receive(request, most=1)
            return JSONResponse(await _while_connected(request, service.caption(photo, decoding)))

    @app.post(
        "/api/captions",
        summary="Caption several photos",
        response_description="One result per photo: its caption, or the error.",
        response_model=CaptionReplies,
        responses=ERRORS,
        openapi_extra={"requestBody": PHOTOS_BODY},
    )
    async def captions(request: Request, settings: Annotated[Settings, Query()]) -> JSONResponse:
        """Send a multipart form with a field "photo" or "file" for each photo. A photo that cannot be captioned gets an
        error in its place."""
        decoding = choose_decoding(settings)
        with service.place(), _told_of_shutdown():
            photos = await receive(request, limits.batch_size)
            results = await _while_connected(request, service.caption_each(photos, decoding))
        return JSONResponse({"results": results})

    @app.get("/health", summary="Server status and load", response_description="The server is running.")
    async def health() -> Health:
        return Health(status="ok", requests=service.inside)

    @app.get(
        "/metrics",
        summary="Counters and a histogram for Prometheus",
        response_description="Prometheus' text format.",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return Response(measured.text(service.inside, service.photos), media_type=TEXT_FORMAT)

    @app.get(
        "/api/info",
        summary="The model, its decoding options, and the limits",
        response_description="The model and the limits.",
    )
    async def info() -> Info:
        return Info(
            name="captioner",
            version=__version__,
            model=captioner.provenance,
            attention=captioner.config.attention != "none",
            decoding=asdict(captioner.decoding.for_display()),
            limits=asdict(limits),
            formats=supported_formats(),
        )

    return app


def _add_file(app: FastAPI, address: str, content: bytes, kind: str) -> None:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    app.add_api_route(address, answer, methods=["GET", "HEAD"], include_in_schema=False)


def _empty_report() -> str:
    """The interactive page without a caption. The web page fills it in for downloads."""
    return page(Image.new("RGB", (1, 1)), caption_view((1, 1), "", [], [], 0.0))


def _answer_errors(app: FastAPI) -> None:
    """Turn exceptions into responses in the format of `Problem`. Details of unexpected ones go to standard error
    only."""

    def add(kind: type[Exception], to_problem: Callable[[Any], Problem]) -> None:
        async def answer(_: Request, error: Exception) -> Response:
            return to_problem(error).response()

        app.add_exception_handler(kind, answer)

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # the client is gone

    add(Problem, lambda error: error)
    add(RequestValidationError, lambda error: wrong_setting(error, list(Settings.model_fields)))
    add(HTTPException, wrong_address)
    add(Exception, lambda _: Problem(500, "internal", "the server failed; its log has the details."))
    app.add_exception_handler(ClientDisconnect, gone)


@contextmanager
def _told_of_shutdown() -> Iterator[None]:
    """At shutdown the server cancels running requests; this gives their clients a response."""
    try:
        yield
    except asyncio.CancelledError:
        message = "the server is shutting down. Send the photo again later."
        raise Problem(503, "shutting_down", message, {"Retry-After": "5"}) from None


async def _while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`. If the client disconnects first, `work` is cancelled."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
