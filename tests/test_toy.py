"""The toy world: its files are a data set, its captions and boxes say what the pixels show, and a seed gives
the same bits again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.data.readers import read_dataset, select
from captioner.data.toy import COLOURS, SHAPES, Item, Scene, draw_scene, make_toy

OBJECT = rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
RELATION = "(above|below|to the left of|to the right of)"
CAPTION = re.compile(rf"(?:there is )?{OBJECT} (?:is )?{RELATION} {OBJECT}")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    make_toy(root, images=60, seed=1)
    return root


def rows(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "captions.jsonl").read_text().splitlines()]


def pixels(root: Path, row: dict) -> np.ndarray:
    with Image.open(root / row["image"]) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def told(caption: str) -> tuple[tuple[str, str], str, tuple[str, str]]:
    match = CAPTION.fullmatch(caption)
    assert match, caption
    colour, shape, relation, other_colour, other_shape = match.groups()
    return (colour, shape), relation, (other_colour, other_shape)


def test_it_is_a_data_set(toy: Path) -> None:
    records = read_dataset(toy)
    assert len(records) == 60
    assert [len(select(records, split)) for split in ("train", "val", "test")] == [48, 6, 6]
    assert all(len(set(record.captions)) == 3 for record in records)
    assert pixels(toy, {"image": "images/0000.png"}).shape == (64, 64, 3)


def test_captions_of_an_image_tell_one_fact_in_the_order_of_the_shapes(toy: Path) -> None:
    seen = set()
    for row in rows(toy):
        ((first, relation, second),) = {told(caption) for caption in row["captions"]}
        assert SHAPES.index(first[1]) < SHAPES.index(second[1])
        assert [item["word"] for item in row["objects"]] == [first[1], second[1]]
        seen |= {*first, relation, *second}
    assert len(seen) == len(COLOURS) + len(SHAPES) + 4


def test_boxes_hold_the_objects_and_stand_as_the_captions_say(toy: Path) -> None:
    for row in rows(toy):
        boxes = {item["word"]: item["box"] for item in row["objects"]}
        picture = pixels(toy, row)
        ground = np.ones((64, 64), bool)
        for left, top, width, height in boxes.values():
            ground[int(top) - 1 : int(top + height) + 3, int(left) - 1 : int(left + width) + 3] = False
        assert picture[ground].min() > 180, row["image"]  # pale everywhere
        colours = {shape: colour for caption in row["captions"] for colour, shape in told(caption)[::2]}
        assert boxes.keys() == colours.keys()
        for shape, (left, top, width, height) in boxes.items():
            assert min(left, top) >= 0
            assert max(left + width, top + height) <= 64
            near = np.abs(picture - COLOURS[colours[shape]]).max(axis=-1) < 40
            x, y = np.round([left + width / 2, top + height * 0.6]).astype(int)
            assert near[y, x], row["image"]
            ys, xs = np.nonzero(near)
            inside = (xs >= left - 1) & (xs < left + width + 1) & (ys >= top - 1) & (ys < top + height + 1)
            if len(set(colours.values())) == 2:  # no pixel of the colour elsewhere, and the box is tight
                assert inside.all(), row["image"]
                assert np.allclose([xs.min(), ys.min()], [left, top], atol=2.5)
                assert np.allclose([xs.max(), ys.max()], [left + width, top + height], atol=2.5)
        (first, relation, second) = told(row["captions"][0])
        (x1, y1, w1, _), (x2, y2, w2, _) = boxes[first[1]], boxes[second[1]]
        shown = {
            "above": y1 + w1 <= y2,
            "below": y2 + w2 <= y1,
            "to the left of": x1 + w1 <= x2,
            "to the right of": x2 + w2 <= x1,
        }
        assert [key for key, holds in shown.items() if holds] == [relation], row["image"]


def test_a_shape_fills_its_part_of_the_box() -> None:
    shares = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "cross": 5 / 9}
    for shape, share in shares.items():
        scene = Scene(Item("blue", shape, 6.0, 6.0, 24.0), Item("red", "square", 34.0, 34.0, 24.0), "above")
        picture = np.asarray(draw_scene(scene, np.random.default_rng(0), 64)).astype(float)
        blue = np.abs(picture - COLOURS["blue"]).max(axis=-1) < 60
        assert blue.sum() / 24**2 == pytest.approx(share, abs=0.06), shape


def test_a_seed_gives_the_same_bits_and_an_image_does_not_depend_on_how_many(toy: Path, tmp_path: Path) -> None:
    make_toy(tmp_path / "again", images=20, seed=1)
    make_toy(tmp_path / "other", images=20, seed=2)
    again, other = rows(tmp_path / "again"), rows(tmp_path / "other")
    assert again == rows(toy)[:20]
    assert again != other
    for row in again:
        assert (tmp_path / "again" / row["image"]).read_bytes() == (toy / row["image"]).read_bytes()
    assert pixels(tmp_path / "other", other[0]).tolist() != pixels(toy, again[0]).tolist()


def test_size_scales_the_scene(tmp_path: Path, toy: Path) -> None:
    make_toy(tmp_path / "large", images=10, seed=1, size=128)
    large, small = rows(tmp_path / "large")[0], rows(toy)[0]
    assert large["captions"] == small["captions"]
    assert np.allclose(large["objects"][0]["box"], 2 * np.array(small["objects"][0]["box"]), atol=0.2)
    assert pixels(tmp_path / "large", large).shape == (128, 128, 3)


def test_it_overwrites_nothing_and_wants_sensible_numbers(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not empty; expected a new folder"):
        make_toy(toy)
    for wrong in ({"images": 9}, {"size": 31}):
        with pytest.raises(ValueError, match="expected images >= 10 and size >= 32"):
            make_toy(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
