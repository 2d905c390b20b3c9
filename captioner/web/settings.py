"""The settings of a request, as query parameters: each checked against what this service allows, then together as
`Decoding` checks them. What the settings do is told in `captioner.decoding`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from captioner.captioner import ALTERNATIVES
from captioner.decoding import Decoding


class Settings(BaseModel):
    """How captions are found; what is not given is as the model has it."""

    model_config = {"extra": "forbid"}

    method: Literal["beam", "sample"] | None = Field(
        None, description="The most probable caption (greedily with beam_size=1), or one drawn at random."
    )
    beam_size: int | None = Field(None, ge=1, le=20, description="Hypotheses that beam search keeps; 1 is greedy.")
    max_length: int | None = Field(None, ge=1, le=60, description="Longest caption, in words.")
    length_penalty: float | None = Field(
        None, ge=0, le=10, description="Scores are divided by length to this power: 0 favours short captions."
    )
    no_repeat_ngram: int | None = Field(None, ge=0, le=20, description="No sequence of so many words twice; 0: off.")
    temperature: float | None = Field(None, gt=0, le=100, description="Sampling: below 1 is tame, above 1 is wild.")
    top_k: int | None = Field(
        None, ge=0, le=100_000, description="Sampling: from so many most probable words only; 0: all."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Sampling: from the fewest words with this probability.")
    seed: int | None = Field(None, ge=0, lt=2**53, description="Sampling: the same seed gives the same captions.")
    num_captions: int | None = Field(None, ge=1, le=20, description="Captions, best first.")
    alternatives: int = Field(ALTERNATIVES, ge=0, le=20, description="Tell so many other probable words at each word.")

    def over(self, saved: Decoding) -> Decoding:
        """The model's own decoding with these changes. Raises ValueError where they do not go together."""
        values = asdict(saved)
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        method = given.get("method", saved.method)
        if method != saved.method:
            values |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}  # belonged to the other method
        if method == "beam" and "beam_size" not in given:
            values["beam_size"] = max(saved.beam_size, given.get("num_captions", 1))
        return Decoding(**{**values, **given})
