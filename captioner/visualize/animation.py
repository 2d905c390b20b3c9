"""The caption as an animated .gif or .webp: the photo, then one map of attention or evidence per word, with the caption
below. Takes arrays, never a model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from captioner.visualize.heatmap import Box, Kind, heat_map, level, overlay, scale_top
from captioner.visualize.page import FAINT, INK, RULE, amount, at_most, atomic_write, fonts, percent

SUFFIXES = (".gif", ".webp")
SECONDS = 0.8
FIRST_SECONDS, LAST_SECONDS = 1.2, 2.0  # the bare photo; time to read before the loop restarts
PHOTO_PIXELS = (320, 640)  # the longest side: at least, at most
NARROWEST = 340
MARGIN, TEXT_SIZE, SMALL = 12, 20, 12
ACCENT, PAPER = "#a3264a", "#ffffff"

Word = tuple[float, float, float, str]  # left, top, width, text


def save_animation(
    path: str | Path,
    photo: Image.Image,
    words: Sequence[str],
    attention: np.ndarray,
    box: Box | None = None,
    log_probabilities: Sequence[float] | None = None,
    seconds: float = SECONDS,
    kind: Kind = "attention",
) -> None:
    """Write `frames` as an animated .gif or .webp that loops. `seconds` is the time per word."""
    first, *others = frames(photo, words, attention, box, log_probabilities, kind)
    times = [round(1000 * each) for each in (FIRST_SECONDS, *[seconds] * (len(words) - 1), LAST_SECONDS)]
    times = times[: 1 + len(others)]
    with atomic_write(path) as partial:
        if partial.suffix.lower() == ".gif":
            first, *others = map(_with_256_colours, (first, *others))
            first.save(partial, "GIF", save_all=True, append_images=others, duration=times, loop=0, disposal=1)
        else:
            first.save(partial, "WEBP", save_all=True, append_images=others, duration=times, loop=0, quality=88)


def _with_256_colours(frame: Image.Image) -> Image.Image:
    """A frame with its own palette. It takes two steps, because Pillow dithers only to a given palette, and the palette
    comes from an octree, which keeps rare colours, such as the hottest, that median cut loses."""
    table = frame.quantize(256, Image.Quantize.FASTOCTREE)
    return frame.quantize(256, palette=table, dither=Image.Dither.FLOYDSTEINBERG)


def frames(
    photo: Image.Image,
    words: Sequence[str],
    attention: np.ndarray,
    box: Box | None = None,
    log_probabilities: Sequence[float] | None = None,
    kind: Kind = "attention",
) -> list[Image.Image]:
    """T + 1 pictures of equal size: the photo, then the photo under the map of each word, with that word marked in the
    caption below. `attention` (T, h, w) holds maps of `kind`. `box` is the part of the photo that the grid covers, in
    the photo's pixels; by default the whole photo."""
    picture = _fitting(photo.convert("RGB"))
    pixels = np.asarray(picture)
    across, down = picture.width / photo.width, picture.height / photo.height
    left, top, right, bottom = box or (0, 0, photo.width, photo.height)
    here = (left * across, top * down, right * across, bottom * down)
    page = _Page(picture.size, words, kind)
    found = [page.frame(picture, None, "")]
    scale = scale_top(attention, kind) if len(words) else 1.0
    for index, weights in enumerate(attention):
        lit = overlay(pixels, level(heat_map(weights, *picture.size, here), scale))
        share = "" if log_probabilities is None else percent(math.exp(min(log_probabilities[index], 0)))
        found.append(page.frame(Image.fromarray(lit), index, share, scale))
    return found


def _fitting(photo: Image.Image) -> Image.Image:
    """The photo, scaled to the size of a frame."""
    least, most = PHOTO_PIXELS
    scale = max(least / max(photo.size), 1)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return at_most(photo, most) if scale == 1 else photo.resize(size, Image.Resampling.BICUBIC)


class _Page:
    """The layout of a frame: the photo on top, the lines of the caption, then the word's probability and the colour
    scale."""

    def __init__(self, photo: tuple[int, int], words: Sequence[str], kind: Kind):
        self.kind = kind
        self.width = max(photo[0], NARROWEST)
        self.photo = ((self.width - photo[0]) // 2, 0)
        self.words: list[Word] = []
        x, y = float(MARGIN), photo[1] + MARGIN
        for word in words:
            text = _cut(word, self.width - 2 * MARGIN)
            width = _font(text, TEXT_SIZE).getlength(text)
            if x > MARGIN and x + width > self.width - MARGIN:
                x, y = float(MARGIN), y + round(1.55 * TEXT_SIZE)
            self.words.append((x, y, width, text))
            x += width + 0.55 * TEXT_SIZE
        self.foot = y + round(1.55 * TEXT_SIZE) + 6
        self.height = self.foot + SMALL + MARGIN + 4

    def frame(self, picture: Image.Image, current: int | None, share: str, scale: float = 1.0) -> Image.Image:
        page = Image.new("RGB", (self.width, self.height), PAPER)
        page.paste(picture, self.photo)
        draw = ImageDraw.Draw(page)
        for index, (x, y, width, text) in enumerate(self.words):
            if index == current:
                _mark(page, (x - 5, y - 3, x + width + 5, y + 1.25 * TEXT_SIZE + 2))
            said = current is None or index <= current
            colour = PAPER if index == current else INK if said else FAINT
            draw.text((x, y + TEXT_SIZE), text, colour, _font(text, TEXT_SIZE), anchor="ls")
        draw.line((MARGIN, self.foot - 3, self.width - MARGIN, self.foot - 3), RULE)
        if current is not None:
            self._write_foot(page, draw, share, amount(scale, self.kind))
        return page

    def _write_foot(self, page: Image.Image, draw: ImageDraw.ImageDraw, share: str, top: str) -> None:
        line = self.foot + SMALL + 4
        if share:
            draw.text((MARGIN, line), f"probability {share}", INK, _font(share, SMALL), anchor="ls")
        right = self.width - MARGIN
        draw.text((right, line), top, FAINT, _font(top, SMALL), anchor="rs")
        right -= math.ceil(_font(top, SMALL).getlength(amount(1, self.kind))) + 6
        ramp = np.linspace(0, 1, 72)[None].repeat(8, axis=0)  # (8, 72) levels
        page.paste(Image.fromarray(overlay(np.full((8, 72, 3), 120, dtype=np.uint8), ramp)), (right - 72, line - 9))
        draw.text((right - 78, line), f"{self.kind}  0", FAINT, _font("0", SMALL), anchor="rs")


def _mark(page: Image.Image, place: Box) -> None:
    """Draw a rounded patch behind a word, at four times the size and scaled down, for smooth edges."""
    left, top = round(place[0]), round(place[1])
    width, height = round(place[2]) - left, round(place[3]) - top
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 24, fill=255)
    page.paste(ACCENT, (left, top), mask.resize((width, height), Image.Resampling.BOX))


def _cut(word: str, width: float) -> str:
    """The word, shortened with "…" if it is wider than a line."""
    text = word
    while len(text) > 1 and _font(text, TEXT_SIZE).getlength(text) > width:
        text = text[:-2] + "…"
    return text


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has all glyphs of a text; the first font if none has."""
    tables = _characters()
    file = next((file for file, glyphs in tables.items() if glyphs.issuperset(map(ord, text))), next(iter(tables)))
    return _load(file, size)


@functools.cache
def _characters() -> dict[str, frozenset[int]]:
    """The characters that each font file has."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return {file: frozenset(FT2Font(file).get_charmap()) for file in map(findfont, fonts())}


@functools.cache
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
