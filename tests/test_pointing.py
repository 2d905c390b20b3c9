"""The pointing game: which words name objects, where attention peaks, and where the objects are."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Captioner
from captioner.cli import main
from captioner.data.objects import read_objects
from captioner.data.readers import read_dataset, select
from captioner.data.toy import SHAPES, make_toy
from captioner.metrics.categories import OTHER_WORDS, WORDS, plural
from captioner.metrics.pointing import Pointing, object_words, region_centres, wilson_interval

COCO = frozenset(OTHER_WORDS)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two men sit on a bench", [(1, "person"), (5, "bench")]),
        ("a puppy under the tables", [(1, "dog"), (4, "dining table")]),
        ("a traffic light beside a light", [(2, "traffic light")]),
        ("hot dogs and dogs", [(1, "hot dog"), (3, "dog")]),
        ("teddy bears", [(1, "teddy bear")]),
        ("an orange cat eats oranges", [(2, "cat"), (4, "orange")]),
        ("a dog on the train tracks by a train", [(1, "dog"), (8, "train")]),
        ("men play football", [(0, "person")]),
        ("the unicorn sleeps", []),
        ("dog", [(0, "dog")]),
        ("", []),
    ],
)
def test_words_that_name_objects(caption, expected):
    assert list(object_words(caption.split(), COCO)) == expected


def test_names_that_the_data_set_does_not_have_are_no_objects():
    assert list(object_words(["a", "circle", "dog"], {"circle"})) == [(1, "circle")]


def test_a_data_sets_own_names_come_first():
    assert list(object_words(["a", "man", "on", "a", "bike"], {"man", "bike"})) == [(1, "man"), (4, "bike")]
    assert list(object_words(["a", "bus", "stop"], {"bus stop"})) == [(2, "bus stop")]


def test_the_table_has_cocos_categories_and_no_word_twice():
    assert len(COCO) == 80
    nouns = [noun for name, others in OTHER_WORDS.items() for noun in (name, *others.split())]
    assert len(nouns) == len(set(nouns))
    assert [plural(noun) for noun in ("bus", "man", "knife", "toothbrush", "kitty", "toy")] == [
        *("buses", "men", "knives", "toothbrushes", "kitties", "toys")
    ]
    assert WORDS["women"] == "person" and "orange" not in WORDS


def test_centres_of_regions_in_the_photos_pixels():
    x, y = region_centres((2, 4), (100, 0, 180, 60))
    assert x.tolist() == [[110, 130, 150, 170]] * 2
    assert y.tolist() == [[15] * 4, [45] * 4]


def test_the_game():
    """A dog in the right fifth of a wide photo, of which the grid covers the middle 80 pixels."""
    mask = np.zeros((60, 100), bool)
    mask[:, 70:] = True
    box, words = (10.0, 0.0, 90.0, 60.0), ["a", "dog", "cat"]
    attention = np.zeros((3, 2, 4))
    attention[1, 1, 3] = 1  # its region's centre is (80, 45)
    game = Pointing()
    game.add(words, {"attention": attention, "evidence": -attention}, box, {"dog": mask}, COCO)
    assert (game.named, game.present, game.hits["attention"], game.centre, game.even) == (2, 1, 1, 0, 1 / 4)
    attention[1, 1] = (0, 0, 1, 0)
    game.add(words, {"attention": attention, "evidence": -attention}, box, {"dog": mask}, COCO)
    assert (game.present, game.hits["attention"]) == (2, 1)
    game.add(words, {"attention": attention, "evidence": -attention}, box, {"dog": ~mask}, COCO)
    assert (game.hits["attention"], game.centre, game.even) == (2, 1, 1 / 4 + 1 / 4 + 3 / 4)
    beside, whole = (-20.0, 0.0, 120.0, 60.0), {"dog": np.ones_like(mask)}  # a padded photo: no dog is in its margin
    edge = Pointing()
    attention[1, 1] = (1, 0, 0, 0)
    edge.add(words, {"attention": attention}, beside, whole, COCO)
    assert (edge.present, edge.hits["attention"], edge.centre, edge.even) == (1, 0, 1, 1 / 2)
    corner = np.zeros((60, 100), bool)
    corner[30:, 50:] = True  # the centre of the photo is at (50, 30), in this mask and not in the transposed place
    corner[50, 30] = False
    edge.add(words, {"attention": attention}, beside, {"dog": corner}, COCO)
    assert (edge.present, edge.centre) == (2, 2)
    assert game.to_dict()["attention_pointing"] == 2 / 3 and "0.667" in str(game)
    assert game.to_dict()["evidence_pointing"] == 1 / 3 and "evidence peaks inside the object" in str(game)
    assert "no word names" in str(Pointing())


def test_wilsons_interval_holds_the_share_and_its_equation():
    for hits, count in ((1, 7), (3, 7), (90, 100)):
        for bound in wilson_interval(hits, count):  # |share - p| = z sqrt(p (1 - p) / n) at both ends
            assert abs(hits / count - bound) == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / count), abs=1e-9)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_boxes_of_the_toy_world(tmp_path):
    make_toy(tmp_path, images=10)
    objects = read_objects(tmp_path)
    assert objects.names <= set(SHAPES)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for record, row in zip(read_dataset(tmp_path), rows, strict=True):
        masks = objects.masks(record)
        for item in row["objects"]:
            ys, xs = np.nonzero(masks[item["word"]])
            left, top, width, height = item["box"]
            assert np.allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1],
                               [left, top, left + width, top + height], atol=0.51)  # fmt: skip


def test_boxes_are_of_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    row = {"image": "a.jpg ", "captions": ["a dog"], "objects": [{"word": "Dog", "box": [0, 50, 20, 10]}]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    (record,) = read_dataset(tmp_path)
    mask = read_objects(tmp_path).masks(record)["dog"]
    assert mask.shape == (60, 20) and mask[50:].all() and not mask[:50].any()


def coco(root):
    """A photo of 100 x 60 pixels with a dog in two parts, one of them a crowd as run lengths, and a cat."""
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    Image.new("RGB", (100, 60)).save(root / "val2017" / "7.jpg")
    images = [{"id": 7, "file_name": "7.jpg", "width": 100, "height": 60}]
    captions = [{"id": 1, "image_id": 7, "caption": "A dog."}]
    crowd = {"size": [60, 100], "counts": [0, 600, 5400]}  # column by column: the ten at the left
    common = {"image_id": 7, "area": 1, "bbox": [0, 0, 1, 1]}
    instances = [
        {"id": 1, "category_id": 18, "iscrowd": 0, "segmentation": [[50, 0, 60, 0, 60, 60, 50, 60]], **common},
        {"id": 2, "category_id": 18, "iscrowd": 1, "segmentation": crowd, **common},
        {"id": 3, "category_id": 17, "iscrowd": 0, "segmentation": [[80, 0, 100, 0, 100, 60, 80, 60]], **common},
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 1, "name": "person"}]
    for name, annotations in {"captions": captions, "instances": instances}.items():
        content = {"images": images, "annotations": annotations}
        content |= {"categories": categories} if name == "instances" else {}
        (root / "annotations" / f"{name}_val2017.json").write_text(json.dumps(content))


def test_masks_of_coco(tmp_path):
    coco(tmp_path)
    objects = read_objects(tmp_path)
    assert objects.names == {"dog", "cat", "person"}
    (record,) = read_dataset(tmp_path)
    masks = objects.masks(record)
    assert masks.keys() == {"dog", "cat"} and masks["dog"].shape == (60, 100)
    columns = masks["dog"].all(axis=0)
    assert columns[:10].all() and columns[51:59].all() and not columns[10:50].any() and not columns[61:].any()


def test_compressed_run_lengths_are_those_of_pycocotools(tmp_path):
    from pycocotools.mask import encode

    coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    pixels = np.random.default_rng(0).random((60, 100)) < 0.3
    code = encode(np.asfortranarray(pixels.astype(np.uint8)))
    content["annotations"][2]["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    path.write_text(json.dumps(content))
    assert (read_objects(tmp_path).masks(*read_dataset(tmp_path))["cat"] == pixels).all()


SQUARE = [0, 0, 9, 0, 9, 9]


@pytest.mark.parametrize(
    "outline",
    [
        *(None, "x", [], [[]], [[1, 2, 3, 4]], [[*SQUARE, 1]], [["a"] * 6], [[True] * 6], [SQUARE, 7]),
        *([[float("nan"), *SQUARE[1:]]], [[1e300, *SQUARE[1:]]], [[-101, *SQUARE[1:]]], [SQUARE * 400_000]),
        *({}, {"size": [60, 100]}, {"size": [100, 60], "counts": [6000]}, {"size": [60, 100], "counts": [5999]}),
        *({"size": [60, 100], "counts": counts} for counts in ([-1, 6001], ["6000"], "zzz", "é" * 9, 7, [10**30])),
    ],
)
def test_outlines_that_are_none_are_told(tmp_path, outline):
    """pycocotools alone would take all memory for NaN, and write beyond its own for run lengths."""
    coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["segmentation"] = outline
    path.write_text(json.dumps(content))
    objects = read_objects(tmp_path)
    with pytest.raises(ValueError, match=r"instances_val2017.json: annotations\[2\]: the segmentation is .*; expected"):
        objects.masks(*read_dataset(tmp_path))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"categories": 7}, "no list categories"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: the name is None"),
        ({"images": [{"id": 7}]}, r"images\[0\]: width and height are \(None, None\)"),
        ({"images": [{"id": 7, "width": 10**9, "height": 10**9}]}, r"images\[0\]: width and height are \(1000000000"),
        ({"annotations": [[]]}, r"annotations\[0\] is \[\]; expected an object with image_id and category_id"),
        ({"annotations": [{"image_id": 7, "category_id": 99}]}, r"annotations\[0\]: no category 99"),
    ],
)
def test_wrong_types_in_instances_are_told(tmp_path, change, message):
    coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"instances_val2017.json: {message}"):
        read_objects(tmp_path)


def test_data_that_does_not_say_where_things_are(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    with pytest.raises(ValueError, match="has no object annotations; expected COCO"):
        read_objects(tmp_path)
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "captions": ["a dog"]}\n')
    with pytest.raises(ValueError, match=r"captions.jsonl:1: broken objects \(KeyError"):
        read_objects(tmp_path)


def test_evaluate_prints_the_game(tmp_path, tiny, monkeypatch, capsys):
    make_toy(tmp_path / "toy", images=20)
    said = Captioner.load(tiny, device="cpu").caption(tmp_path / "toy" / "images" / "0000.png").words[0]
    source = tmp_path / "toy" / "captions.jsonl"
    first, *others = re.sub("circle|square|triangle|cross", said, source.read_text()).splitlines()
    first = json.dumps({**json.loads(first), "captions": ["..."]})  # without words
    source.write_text("\n".join([first, *others]))
    command = ["captioner", "evaluate", "--data", str(tmp_path / "toy"), "--split", "train", "--checkpoint", str(tiny)]
    scores = tmp_path / "scores.json"
    monkeypatch.setattr("sys.argv", [*command, "--pointing", "--scores", str(scores), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    assert "if every word pointed at the photo's centre" in out
    habits = json.loads(scores.read_text())["habits"]
    assert habits["own_object_words"] >= habits["own_object_words_in_the_photo"] > 0
    for kind in ("attention", "evidence"):
        assert 0 <= habits[f"own_{kind}_pointing"] <= 1 and out.count(f"{kind} peaks inside the object") == 2
    records = select(read_dataset(tmp_path / "toy"), "train")
    words = sum(len(re.findall(rf"\b{said}\b", text)) for record in records for text in record.captions)
    assert habits["people_object_words"] == words > 20 and "human captions, under teacher forcing" in out
