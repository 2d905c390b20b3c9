"""Write a caption to a file; the suffix chooses the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioner.visualize import animation, page
from captioner.visualize.animation import save_animation
from captioner.visualize.attention import save_attention
from captioner.visualize.heatmap import Kind
from captioner.visualize.html import save_page
from captioner.visualize.view import caption_view, save_arrays, save_json

ENDINGS = (*page.SUFFIXES, *animation.SUFFIXES, ".html", ".json", ".npz")


def save_caption(path: str | Path, photo: Image.Image, **parts: Any) -> None:
    """Write the caption of an upright RGB photo: a picture (.png, .svg, .pdf), an animation (.gif, .webp), the
    interactive page (.html) or data (.json, .npz).

    `parts` are the arguments of `caption_view` without `size`. If evidence is given, it is shown in place of the
    attention. Raises ValueError for another suffix, and for a picture or animation of a caption without attention."""
    page.check_path(path, ENDINGS)
    view = caption_view(photo.size, **parts)
    ending, attention, evidence = Path(path).suffix.lower(), parts.get("attention"), parts.get("evidence")
    if ending == ".html":
        save_page(path, photo, view)
    elif ending == ".json":
        save_json(path, view)
    elif ending == ".npz":
        save_arrays(path, view, attention, evidence)
    elif attention is None and parts["words"]:
        raise ValueError(
            f"cannot draw {Path(path).name}: this model has no attention. Write .html, .json or .npz for words and "
            "probabilities, or train a model with --model.attention general."
        )
    else:
        words, numbers, box = parts["words"], parts["log_probabilities"], parts.get("box")
        attention = np.zeros((0, 1, 1)) if attention is None else attention  # an empty caption: the bare photo
        kind: Kind = "attention" if evidence is None else "evidence"
        maps = attention if evidence is None else evidence
        if ending in animation.SUFFIXES:
            save_animation(path, photo, words, maps, box, numbers, kind=kind)
        else:
            save_attention(path, photo, words, maps, box, numbers, parts["caption"], kind=kind)
