"""The settings of a request, as query parameters: those of `captioner.decoding.Decoding`, with its names, help and
bounds. The service sets limits of its own, so that one request cannot keep the machine busy."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, get_type_hints

import pydantic

from captioner.decoding import SAMPLING, Decoding

LIMITS = {
    "beam_size": 20,
    "max_length": 60,
    "no_repeat_ngram": 20,
    "top_k": 100_000,
    "seed": 2**53 - 1,  # the largest that JavaScript's numbers hold
    "num_captions": 20,
    "alternatives": 20,
}


def _parameter(setting: Field) -> Any:
    """A query parameter whose default is None: not given, so the model's own value holds."""
    bounds = {**setting.metadata["bounds"]}
    if setting.name in LIMITS:
        bounds["le"] = LIMITS[setting.name]
    kind = get_type_hints(Decoding)[setting.name]
    help = setting.metadata["help"] + " Only for method sample." * (setting.name in SAMPLING)
    return kind | None, pydantic.Field(None, description=help, **bounds)


_Settings: Any = pydantic.create_model(
    "_Settings", __config__={"extra": "forbid"}, **{each.name: _parameter(each) for each in fields(Decoding)}
)


class Settings(_Settings):
    """How captions are found. Settings that are not given take the model's values."""

    def over(self, saved: Decoding) -> Decoding:
        """Raises ValueError for settings that do not go together."""
        return saved.override(**self.model_dump())
