"""One door for all kinds of files that show a caption: the ending of the name chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioner.visualize import animation, page
from captioner.visualize.animation import save_animation
from captioner.visualize.attention import save_attention
from captioner.visualize.html import save_page
from captioner.visualize.record import record, save_arrays, save_json

ENDINGS = (*page.SUFFIXES, *animation.SUFFIXES, ".html", ".json", ".npz")


def save_caption(path: str | Path, photo: Image.Image, **parts: Any) -> None:
    """A caption of a photo (upright, RGB) as a file: a picture (.png, .svg, .pdf), a film (.gif, .webp), the
    interactive page (.html) or data (.json, .npz), by the ending of its name.

    `parts` are the arguments of `record`, but for the size. Raises ValueError for an ending that is none of these, and
    for a picture of a caption without attention."""
    page.check_path(path, ENDINGS)
    entry = record(photo.size, **parts)
    ending, attention = Path(path).suffix.lower(), parts.get("attention")
    if ending == ".html":
        save_page(path, photo, entry)
    elif ending == ".json":
        save_json(path, entry)
    elif ending == ".npz":
        save_arrays(path, entry, attention)
    elif attention is None and parts["words"]:
        raise ValueError(
            f"this model has no attention, so there is nothing to draw in {Path(path).name}. Write .html, .json or "
            ".npz for words and probabilities, or train a model with --model.attention general."
        )
    else:
        words, numbers, box = parts["words"], parts["log_probabilities"], parts.get("box")
        attention = np.zeros((0, 1, 1)) if attention is None else attention  # an empty caption: the bare photo
        if ending in animation.SUFFIXES:
            save_animation(path, photo, words, attention, box, numbers)
        else:
            save_attention(path, photo, words, attention, box, numbers, parts["caption"])
