"""A caption: its text, the probability and the attention map of each word, and how it is shown and saved. Captions are
generated in `captioner`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np

from captioner.confidence import is_unsure
from captioner.images import ImageError, Source, open_image
from captioner.metrics.attention import AttentionStatistics, attention_statistics
from captioner.visualize.files import save_caption
from captioner.visualize.html import frame
from captioner.visualize.view import caption_view


@dataclass(frozen=True, eq=False)
class Caption:
    """A sentence about a photo, with the probability of each word and the attention at each word."""

    text: str
    words: list[str]
    """T words, spelled as in the vocabulary."""
    log_probabilities: list[float] = field(repr=False)
    """One per word; natural logarithms."""
    log_probability: float
    """Of the whole caption, including its end token."""
    score: float
    """The score that the search ranks by: the log-probability, normalised by length."""
    finished: bool
    """True if the model ended the caption, False if it was cut off at the maximum length."""
    confidence: float | None = None
    """The calibrated probability that the caption is right, from 0 to 1; None if the model was not calibrated
    (`captioner calibrate`) or the caption was not written by it."""
    attention: np.ndarray | None = field(default=None, repr=False)
    """(T, h, w): one map per word over the h·w = R regions, each summing to 1; None for a model without attention."""
    evidence: np.ndarray | None = field(default=None, repr=False)
    """(T, h, w): how much the log-probability of each word falls without each region. Only set by
    `Captioner.with_evidence`; if set, it is shown in place of the attention."""
    box: tuple[float, float, float, float] | None = None
    """The part of the photo that the grid covers: left, top, right, bottom in pixels of the original (upright)
    photo."""
    alternatives: list[list[tuple[str, float]]] | None = field(default=None, repr=False)
    """For each word, the most probable other words with their log-probabilities, if requested."""
    other_captions: tuple[Caption, ...] = field(default=(), repr=False)
    """If more than one caption was requested: the next best ones, or the other samples."""
    photo: Source | None = field(default=None, repr=False)
    """The photo as it was given; it is opened again to show it."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_unsure(self) -> bool:
        """Whether the caption is more likely wrong than right."""
        return is_unsure(self.confidence)

    @property
    def attention_statistics(self) -> AttentionStatistics | None:
        """Entropy, movement and coverage of the attention, and a warning if the maps carry no information; None if
        there are no maps."""
        return None if self.attention is None else attention_statistics(self.attention)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, for JSON."""
        entry: dict[str, Any] = {
            "caption": self.text,
            "log_probability": round(self.log_probability, 6),
            "finished": self.finished,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "words": [
                {"word": word, "log_probability": round(value, 6)}
                for word, value in zip(self.words, self.log_probabilities, strict=True)
            ],
        }
        if self.alternatives is not None:
            for word, alternatives in zip(entry["words"], self.alternatives, strict=True):
                word["alternatives"] = [{"word": w, "log_probability": round(p, 6)} for w, p in alternatives]
        if (statistics := self.attention_statistics) is not None:
            entry["attention"] = statistics.to_dict()
        if self.other_captions:
            entry["other_captions"] = [other.to_dict() for other in self.other_captions]
        return entry

    def of(self, photo: Source) -> Caption:
        """The same caption with its photo attached, which `save` and notebooks need."""
        return replace(self, photo=photo, other_captions=tuple(other.of(photo) for other in self.other_captions))

    def view(self, width: int, height: int) -> dict[str, Any]:
        """The data that the interactive page shows over a photo of this size; see `captioner.visualize.view`."""
        return caption_view((width, height), **self._parts())

    def save(self, path: str | Path) -> None:
        """Save the attention as a picture (.png, .svg, .pdf), an animation (.gif, .webp), the interactive page (.html)
        or data (.json, .npz), depending on the file's suffix. The photo is opened again."""
        if self.photo is None:
            raise ValueError("this caption has no photo to draw on. Give it one: caption.of(photo).save(path).")
        save_caption(path, open_image(self.photo), **self._parts())

    def _parts(self) -> dict[str, Any]:
        return {
            "caption": self.text,
            "words": self.words,
            "log_probabilities": self.log_probabilities,
            "log_probability": self.log_probability,
            "finished": self.finished,
            "confidence": self.confidence,
            "attention": self.attention,
            "evidence": self.evidence,
            "box": self.box,
            "alternatives": self.alternatives,
        }

    def _repr_html_(self) -> str:
        """For notebooks: the interactive page, or the text if the photo can no longer be opened."""
        try:
            image = open_image(cast("Source", self.photo))
        except (ImageError, TypeError, ValueError):  # ValueError: a file that was closed meanwhile
            return f"<p>{escape(self.text)}</p>"
        return frame(image, self.view(*image.size), longest=800)
