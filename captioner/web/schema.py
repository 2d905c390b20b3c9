"""What the API takes and gives, for its OpenAPI description. The answers themselves are made in
`captioner.visualize.view`, and tested against this."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Runner(BaseModel):
    word: str
    log_probability: float


class Word(BaseModel):
    word: str
    log_probability: float = Field(description="Natural logarithm, of this word after those before it.")
    alternatives: list[Runner] = Field([], description="The most probable other words at this step.")


class Photo(BaseModel):
    width: int = Field(description="In pixels, upright: turned as its EXIF data says.")
    height: int


class Attention(BaseModel):
    grid: list[int] = Field(description="Rows, columns.")
    box: list[float] = Field(description="What the grid covers, in the photo's pixels: left, top, right, bottom.")
    top: float = Field(description="The weight at the top of the colour scale.")
    maps: list[list[float]] = Field(
        description="For each word, what share of the attention each region had, row by row."
    )
    entropy: list[float] = Field([], description="Of each map, in nats: 0 looks at one region, log R at all alike.")
    movement: list[float] = Field([], description="Between successive maps: the share of the attention that moves.")
    entropy_share: float = Field(0, description="Mean entropy, as a share of log R.")
    mean_movement: float = Field(0, description="Mean of movement.")
    coverage: float = Field(0, description="What share of the grid the whole caption looked at.")
    warning: str | None = Field(None, description="A sentence where the maps tell nothing: not to be believed.")


class OneCaption(BaseModel):
    caption: str
    log_probability: float = Field(description="Of the whole caption, its end included.")
    finished: bool = Field(description="Whether the model ended it, rather than max_length.")
    words: list[Word]
    photo: Photo
    attention: Attention | None = Field(description="null for a model without attention.")


class CaptionReply(OneCaption):
    other_captions: list[OneCaption] = Field([], description="If num_captions is above 1: the next best captions.")


class Health(BaseModel):
    status: str
    requests: int = Field(description="Photos that are received, wait or are captioned just now.")


class Info(BaseModel):
    name: str
    version: str
    model: str = Field(description="The checkpoint's name and the SHA-256 of its weights.")
    attention: bool
    decoding: dict[str, Any] = Field(description="The settings that hold where a request gives none.")
    limits: dict[str, float]
    formats: list[str]


class ErrorDetail(BaseModel):
    code: str = Field(description="For programs.")
    message: str = Field(description="For people.")


class ErrorReply(BaseModel):
    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The photo is broken or empty, or the form is.",
        403: "Asked by another site's page, or under a name that is not this server's.",
        408: "The photo came too slowly.",
        413: "Too many bytes or pixels.",
        415: "Not a photo, or of a kind that is not read.",
        422: "A setting is unknown or wrong.",
        500: "A fault of the server.",
        503: "Too many photos are waiting; Retry-After tells when to try again.",
    }.items()
}
_BYTES = {"type": "string", "format": "binary"}
PHOTO_BODY: dict[str, Any] = {
    "required": True,
    "description": "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; what it is is found from its bytes.",
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["photo"], "properties": {"photo": _BYTES}}},
        "image/*": {"schema": _BYTES},
        "application/octet-stream": {"schema": _BYTES},
    },
}
