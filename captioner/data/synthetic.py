"""Randomly generated images that are not photos: documents, screenshots, drawings and noise. Calibration uses them, so
that a model's confidence is low for such images. Nothing here imports torch."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = "the of report value total invoice date amount section table page error return class 2024 17.5 $120".split()  # noqa: SIM905
PAPERS = ("white", "#f8f4e8", "#eeeeee")
COLOURS = ("#4a90d9", "#d9534f", "#5cb85c", "#c678dd")


def synthetic_images(count: int, seed: int = 0) -> list[Image.Image]:
    """`count` images, the four kinds in turn."""
    kinds: tuple[Callable[[random.Random], Image.Image], ...] = (_document, _screenshot, _drawing, _noise)
    return [kinds[i % len(kinds)](random.Random(seed * 100_003 + i)) for i in range(count)]


def _document(draw_from: random.Random) -> Image.Image:
    width, height = draw_from.choice([(620, 877), (800, 600), (500, 500)])
    page = Image.new("RGB", (width, height), draw_from.choice(PAPERS))
    size, face = draw_from.choice([12, 16, 22]), draw_from.choice(["DejaVuSans", "DejaVuSerif"])
    y = 30
    while y < height - 40:
        _write(page, (40, y), _words(draw_from, int(width / size / 3.6)), "black", size, face)
        y += size * 3 if draw_from.random() < 0.1 else int(size * 1.5)
    return page


def _screenshot(draw_from: random.Random) -> Image.Image:
    width, height, dark = 1000, 640, draw_from.random() < 0.5
    ink, side, bar, paper = (
        ("#dddddd", "#252526", "#3b3b3b", "#1e1e1e") if dark else ("#222222", "#f2f2f2", "#dde3ea", "white")
    )
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width, 36), fill=bar)
    draw.rectangle((0, 36, 200, height), fill=side)
    for row in range(12):
        _write(page, (20, 60 + 28 * row), _words(draw_from, 1), ink, 14)
    for row in range(draw_from.randint(8, 22)):
        place, colour = (230 + 20 * draw_from.randint(0, 4), 60 + 24 * row), draw_from.choice([ink, *COLOURS])
        _write(page, place, _words(draw_from, draw_from.randint(2, 9)), colour, 14, "DejaVuSansMono")
    for _ in range(draw_from.randint(0, 4)):
        x, y = draw_from.randint(300, 800), draw_from.randint(100, 500)
        draw.rounded_rectangle((x, y, x + 120, y + 36), 8, fill=draw_from.choice(COLOURS))
        _write(page, (x + 20, y + 8), "Submit", "white", 16)
    return page


def _drawing(draw_from: random.Random) -> Image.Image:
    width, height = 640, 480
    page = Image.new("RGB", (width, height), draw_from.choice(["white", "#fffbe6", "#ddeeff"]))
    draw = ImageDraw.Draw(page)
    for _ in range(draw_from.randint(4, 14)):
        x, y, r = draw_from.randint(0, width), draw_from.randint(0, height), draw_from.randint(15, 130)
        colour, stroke = tuple(draw_from.randint(0, 255) for _ in range(3)), draw_from.randint(2, 8)
        shape = draw_from.choice(["circle", "square", "line", "polygon"])
        if shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=stroke)
        elif shape == "square":
            fill = colour if draw_from.random() < 0.5 else None
            draw.rectangle((x - r, y - r, x + r, y + r), fill=fill, outline="black", width=stroke)
        elif shape == "line":
            corners = [(draw_from.randint(0, width), draw_from.randint(0, height)) for _ in range(4)]
            draw.line(corners, fill=colour, width=stroke)
        else:
            angles = sorted(draw_from.uniform(0, 2 * math.pi) for _ in range(draw_from.randint(3, 7)))
            draw.polygon([(x + r * math.cos(angle), y + r * math.sin(angle)) for angle in angles], fill=colour)
    return page


def _noise(draw_from: random.Random) -> Image.Image:
    """Noise in colour, in grey, Gaussian or blurred, or a single colour."""
    numbers = np.random.default_rng(draw_from.randrange(2**32))
    kind = draw_from.choice(["colour", "grey", "gaussian", "blurred", "plain"])
    if kind == "plain":
        return Image.new("RGB", (400, 300), tuple(numbers.integers(0, 256, 3).tolist()))
    if kind == "blurred":
        small = Image.fromarray(numbers.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        return small.resize((400, 300), Image.Resampling.BICUBIC)
    if kind == "gaussian":
        return Image.fromarray(np.clip(numbers.normal(128, 60, (300, 400, 3)), 0, 255).astype(np.uint8))
    channels = 3 if kind == "colour" else 1
    return Image.fromarray(numbers.integers(0, 256, (300, 400, channels), dtype=np.uint8).repeat(3 // channels, axis=2))


def _words(draw_from: random.Random, count: int) -> str:
    return " ".join(draw_from.choice(WORDS) for _ in range(count))


def _write(
    page: Image.Image, place: tuple[int, int], text: str, colour: str, size: int, face: str = "DejaVuSans"
) -> None:
    ImageDraw.Draw(page).text(place, text, colour, _font(face, size))


@functools.cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib."""
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{face}.ttf", size)
