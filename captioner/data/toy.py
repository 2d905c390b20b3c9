"""The toy world: pictures of two coloured shapes with captions from a grammar and the box of each shape, generated from
a seed within seconds. Tests and the tutorial train on it without a download. It is written as a plain folder, which
`readers` reads like any other data set. Nothing here imports torch.

A scene has two objects of different shapes, one above the other or side by side. The grammar:

    caption  -> object relation object | "there is" object relation object | object "is" relation object
    object   -> "a" colour shape
    colour   -> "red" | "green" | "blue" | "yellow" | "purple"
    shape    -> "circle" | "square" | "triangle" | "cross"
    relation -> "above" | "below" | "to the left of" | "to the right of"

The shape that comes first in this list is named first. So each picture has exactly three right captions, one per form.
There are 19 words and 600 different scenes. (If either object could be named first, the model would have to guess
which, and training would take much longer.)"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (208, 38, 40),
    "green": (40, 150, 60),
    "blue": (42, 78, 205),
    "yellow": (245, 205, 40),
    "purple": (140, 50, 165),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = ("above", "below", "to the left of", "to the right of")
FORMS = ("{} {} {}", "there is {} {} {}", "{} is {} {}")
SUPERSAMPLING = 4  # drawn at this multiple of the size and scaled down, for smooth edges


@dataclass(frozen=True)
class Item:
    """One object of a scene and its square box, in pixels."""

    colour: str
    shape: str
    left: float
    top: float
    width: float


@dataclass(frozen=True)
class Scene:
    """Two objects: the first is `relation` the second."""

    first: Item
    second: Item
    relation: str


def make_scene(rng: np.random.Generator, size: int) -> Scene:
    """A random scene. The objects are well apart along the axis of the relation and nearly aligned along the other."""
    shapes = sorted(rng.choice(SHAPES, 2, replace=False).tolist(), key=SHAPES.index)
    colours = rng.choice(list(COLOURS), 2).tolist()
    relation = str(rng.choice(RELATIONS))
    widths = rng.uniform(0.32, 0.40, 2)
    along = np.array([0.27, 0.73]) + rng.uniform(-0.02, 0.02, 2)
    across = rng.uniform(0.3, 0.7) + rng.uniform(-0.06, 0.06, 2)
    if relation in ("below", "to the right of"):
        along = along[::-1]
    centres = (across, along) if relation in ("above", "below") else (along, across)
    lefts, tops = ((centre - widths / 2) * size for centre in centres)
    boxes = np.round(np.stack([lefts, tops, widths * size], axis=1), 1).tolist()  # (2, 3)
    first, second = (Item(colours[i], shapes[i], *boxes[i]) for i in range(2))
    return Scene(first, second, relation)


def describe(scene: Scene) -> list[str]:
    """All captions of a scene."""
    first, second = (f"a {item.colour} {item.shape}" for item in (scene.first, scene.second))
    return [form.format(first, scene.relation, second) for form in FORMS]


def _draw_item(draw: ImageDraw.ImageDraw, item: Item, colour: tuple[int, ...]) -> None:
    left, top, width = (SUPERSAMPLING * value for value in (item.left, item.top, item.width))
    right, bottom = left + width, top + width
    if item.shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif item.shape == "square":
        draw.rectangle((left, top, right, bottom), fill=colour)
    elif item.shape == "triangle":
        draw.polygon(((left + width / 2, top), (right, bottom), (left, bottom)), fill=colour)
    else:
        arm = width / 3
        draw.rectangle((left + arm, top, right - arm, bottom), fill=colour)
        draw.rectangle((left, top + arm, right, bottom - arm), fill=colour)


def draw_scene(scene: Scene, rng: np.random.Generator, size: int) -> Image.Image:
    """The picture, size x size pixels, with slightly varied colours on a pale background with a gradient and noise."""
    pale, tint = rng.uniform(225, 240) + rng.uniform(-6, 6, 3), rng.uniform(-6, 6, 3)
    slope = np.linspace(-1, 1, size)
    ramp = slope[:, None] * rng.uniform(-1, 1) + slope * rng.uniform(-1, 1)  # (size, size)
    ground = pale + ramp[..., None] * tint  # (size, size, 3)
    large = (size * SUPERSAMPLING, size * SUPERSAMPLING)
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize(large, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for item in (scene.first, scene.second):
        varied = np.array(COLOURS[item.colour]) + rng.uniform(-12, 12, 3)
        _draw_item(draw, item, tuple(varied.clip(0, 255).astype(int).tolist()))
    picture = picture.resize((size, size), Image.Resampling.BOX)
    noisy = np.asarray(picture) + rng.normal(0, 4, (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def make_toy(root: str | Path, images: int = 1000, seed: int = 0, size: int = 64) -> None:
    """Write a toy data set into a new folder: images/0000.png and so on, and captions.jsonl with one line per image:
    image, split, captions, objects: [{"word": "circle", "box": [left, top, width, height]}, ...], boxes in pixels.

    Of every ten images, eight are in train, one in val and one in test. Image i depends only on seed, size and i.
    Raises ValueError if the folder is not empty.
    """
    root = Path(root)
    if images < 10 or size < 32:
        raise ValueError(f"expected images >= 10 and size >= 32, found images={images} and size={size}")
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty; expected a new folder for the toy data set")
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(images):
        rng = np.random.default_rng((seed, number))
        scene = make_scene(rng, size)
        name = f"images/{number:04d}.png"
        draw_scene(scene, rng, size).save(root / name)
        objects = [
            {"word": item.shape, "box": [item.left, item.top, item.width, item.width]}
            for item in (scene.first, scene.second)
        ]
        split = {8: "val", 9: "test"}.get(number % 10, "train")
        rows.append({"image": name, "split": split, "captions": describe(scene), "objects": objects})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
