"""The requests and responses of the API, for its OpenAPI description. The responses are made in
`captioner.visualize.view`, and tested against these models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Runner(BaseModel):
    word: str
    log_probability: float


class Word(BaseModel):
    word: str
    log_probability: float = Field(
        description="Natural logarithm of the probability of this word, given the words before it."
    )
    alternatives: list[Runner] = Field([], description="The most probable other words at this step.")


class Photo(BaseModel):
    width: int = Field(description="In pixels, after the rotation of the EXIF data.")
    height: int


class Attention(BaseModel):
    grid: list[int] = Field(description="Rows, columns.")
    box: list[float] = Field(
        description="The part of the photo that the grid covers, in pixels: left, top, right, bottom."
    )
    top: float = Field(description="The weight at the top of the colour scale.")
    maps: list[list[float]] = Field(description="For each word, the attention weight of each region, row by row.")
    entropy: list[float] = Field([], description="Of each map, in nats: 0 for one region, log R for a uniform map.")
    movement: list[float] = Field([], description="The share of the attention that moves between successive maps.")
    entropy_share: float = Field(0, description="Mean entropy divided by log R.")
    mean_movement: float = Field(0, description="Mean of movement.")
    coverage: float = Field(0, description="The share of the grid that the whole caption attends to.")
    warning: str | None = Field(None, description="A sentence if the maps carry no information.")


class OneCaption(BaseModel):
    caption: str
    log_probability: float = Field(description="Of the whole caption, including its end.")
    finished: bool = Field(description="false if the caption was cut at max_length.")
    confidence: float | None = Field(
        description="The probability that the caption is right; null if the model was not calibrated."
    )
    words: list[Word]
    photo: Photo
    attention: Attention | None = Field(description="null for a model without attention.")


class CaptionReply(OneCaption):
    other_captions: list[OneCaption] = Field([], description="If num_captions is above 1: the next best captions.")


class ErrorDetail(BaseModel):
    code: str = Field(description="For programs.")
    message: str = Field(description="For people.")


class ErrorReply(BaseModel):
    error: ErrorDetail


class CaptionReplies(BaseModel):
    results: list[CaptionReply | ErrorReply] = Field(description="One per photo, in the order of the form.")


class Health(BaseModel):
    status: str
    requests: int = Field(description="Photos being received, waiting, or being captioned.")


class Info(BaseModel):
    name: str
    version: str
    model: str = Field(description="The checkpoint's name and the SHA-256 of its weights.")
    attention: bool
    decoding: dict[str, Any] = Field(description="The defaults of a request's settings.")
    limits: dict[str, float]
    formats: list[str]


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The photo or the form is broken or empty.",
        403: "The request comes from another site's page, or to a host name that is not this server's.",
        408: "The upload took too long.",
        413: "Too many bytes, pixels or photos.",
        415: "Not a photo, or an unsupported format.",
        422: "A setting is unknown or wrong.",
        500: "The server failed.",
        503: "Too many photos are waiting; see Retry-After.",
    }.items()
}
_BYTES = {"type": "string", "format": "binary"}
PHOTO_BODY: dict[str, Any] = {
    "required": True,
    "description": "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, recognised by its content.",
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["photo"], "properties": {"photo": _BYTES}}},
        "image/*": {"schema": _BYTES},
        "application/octet-stream": {"schema": _BYTES},
    },
}
PHOTOS_BODY: dict[str, Any] = {
    "required": True,
    "description": 'A field "photo" for each photo. The limit on bytes holds for all photos together.',
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["photo"],
                "properties": {"photo": {"type": "array", "items": _BYTES}},
            }
        }
    },
}
