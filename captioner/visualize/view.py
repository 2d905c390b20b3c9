"""A caption as plain data, for the interactive page, the web service, and .json and .npz files. Pictures are not
here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captioner.metrics.attention import attention_statistics
from captioner.visualize.heatmap import Box, Kind, scale_top
from captioner.visualize.page import atomic_write

Alternatives = Sequence[Sequence[tuple[str, float]]]


def caption_view(
    size: tuple[int, int],
    caption: str,
    words: Sequence[str],
    log_probabilities: Sequence[float],
    log_probability: float,
    finished: bool = True,
    attention: np.ndarray | None = None,
    box: Box | None = None,
    alternatives: Alternatives | None = None,
    evidence: np.ndarray | None = None,
    confidence: float | None = None,
) -> dict[str, Any]:
    """A caption as JSON-ready data. The head of static/attention.js documents the format.

    `size` is the upright photo's (width, height) in pixels. `attention` is (T, h, w), or None for a model without
    attention. `box` is the part of the photo that the grid covers, in the photo's pixels; by default the whole photo.
    `alternatives` has, for each word, other words and their log-probabilities. `confidence` is the probability that the
    caption is right, None if it is unknown. With `evidence` (T, h, w) the view also has an entry "evidence", whose maps
    are shown in place of the attention's. Raises ValueError if the lengths or shapes do not match."""
    attention = _checked(len(words), log_probabilities, attention, alternatives)
    view: dict[str, Any] = {
        "caption": caption,
        "log_probability": round(float(log_probability), 6),
        "finished": bool(finished),
        "confidence": None if confidence is None else round(float(confidence), 4),
        "words": [
            {
                "word": word,
                "log_probability": round(float(value), 6),
                "alternatives": [
                    {"word": other, "log_probability": round(float(p), 6)}
                    for other, p in (alternatives[index] if alternatives else [])
                ],
            }
            for index, (word, value) in enumerate(zip(words, log_probabilities, strict=True))
        ],
        "photo": {"width": int(size[0]), "height": int(size[1])},
        "attention": None if attention is None else _geometry(attention, size, box, "attention"),
    }
    if attention is not None and len(attention):
        view["attention"] |= attention_statistics(attention).to_dict()
    if evidence is not None:
        assert attention is not None and evidence.shape == attention.shape
        view["evidence"] = _geometry(evidence, size, box, "evidence")
    return view


def _geometry(maps: np.ndarray, size: tuple[int, int], box: Box | None, kind: Kind) -> dict[str, Any]:
    """The maps (T, h, w), the part of the photo that they cover, and the top of their colour scale."""
    rows = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).astype(np.float64)  # (T, R)
    return {
        "grid": list(maps.shape[1:]),
        "box": [float(edge) for edge in box or (0, 0, *size)],
        "top": round(scale_top(maps, kind), 6) if len(maps) else 1.0,
        "maps": rows.round(5).tolist(),
    }


def _checked(
    words: int,
    log_probabilities: Sequence[float],
    attention: np.ndarray | None,
    alternatives: Alternatives | None,
) -> np.ndarray | None:
    """The attention as an array, once all lengths have been checked."""
    for name, values in {"log-probabilities": log_probabilities, "lists of alternatives": alternatives}.items():
        if values is not None and len(values) != words:
            raise ValueError(f"{len(values)} {name} for {words} words; expected one per word.")
    if attention is None:
        return None
    attention = np.asarray(attention)
    if attention.ndim != 3 or len(attention) != words:
        raise ValueError(f"attention of shape {attention.shape} for {words} words; expected ({words}, h, w).")
    return attention


def save_json(path: str | Path, view: dict[str, Any]) -> None:
    """Write a view as a .json file in UTF-8."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(view, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def save_arrays(
    path: str | Path, view: dict[str, Any], attention: np.ndarray | None, evidence: np.ndarray | None = None
) -> None:
    """Write a view as an .npz file, which `numpy.load` reads without pickle.

    Its arrays: caption, words (T), log_probabilities (T), log_probability, finished, size (width, height),
    alternatives (T, A) and alternative_log_probabilities (T, A), padded with "" and minus infinity. A model with
    attention adds attention (T, h, w), unrounded, and box (left, top, right, bottom); evidence adds its (T, h, w)."""
    words = view["words"]
    most = max((len(step["alternatives"]) for step in words), default=0)
    missing = {"word": "", "log_probability": -np.inf}
    others = [other for step in words for other in [*step["alternatives"], *[missing] * most][:most]]
    arrays: dict[str, Any] = {
        "caption": view["caption"],
        "words": np.array([step["word"] for step in words], dtype=np.str_),
        "log_probabilities": np.array([step["log_probability"] for step in words], dtype=np.float64),
        "log_probability": view["log_probability"],
        "finished": view["finished"],
        "size": np.array([view["photo"]["width"], view["photo"]["height"]]),
        "alternatives": np.array([other["word"] for other in others], dtype=np.str_).reshape(len(words), most),
        "alternative_log_probabilities": np.array(
            [other["log_probability"] for other in others], dtype=np.float64
        ).reshape(len(words), most),
    }
    if attention is not None:
        arrays |= {"attention": np.asarray(attention), "box": np.array(view["attention"]["box"])}
    if evidence is not None:
        arrays["evidence"] = evidence
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
