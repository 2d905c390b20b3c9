"""Results files with everything that can be wrong with them, score files, comparisons, COCO's server, Java."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from captioner.cli.references import find_references
from captioner.metrics import java as java_module
from captioner.metrics.files.references import read_coco_references, references_of
from captioner.metrics.files.results import MAX_CAPTION, read_results, write_results
from captioner.metrics.files.score_file import ScoreFile, compare_files, score_files, score_people
from captioner.metrics.files.server import check_submission, write_submission
from captioner.metrics.files.tables import differences_to_dict, format_differences, format_scores
from captioner.metrics.habits import habits, rare_words, slices
from captioner.metrics.intervals import compare, intervals
from captioner.metrics.java import JavaMetricError, java_problem, meteor_counts, spice
from captioner.metrics.meteor import forgive_whole_matches
from captioner.metrics.scores import score_captions, score_tokens

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text(encoding="utf-8"))
REFERENCES = {
    number: [" ".join(words) for words in image["references"]] for number, image in enumerate(GOLDEN["images"])
}
HUMAN = {number: " ".join(image["human"]) for number, image in enumerate(GOLDEN["images"])}
MACHINE = {number: " ".join(image["machine"]) or "nothing" for number, image in enumerate(GOLDEN["images"])}


@pytest.fixture
def files(tmp_path):
    write_results(tmp_path / "human.json", HUMAN)
    write_results(tmp_path / "machine.json", MACHINE)
    return tmp_path


def entry(key, caption="a dog"):
    return {"image_id": key, "caption": caption}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected JSON"),
        ('[{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "capt', "line 1, column 5.*seems to be cut off"),
        (b'[{"image_id": 1, "caption": "caf\xe9"}]', "byte 32 is not UTF-8"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        (f'[{{"image_id": {"9" * 5000}, "caption": "a dog"}}]', "not JSON that can be read .*digits"),
        ({"annotations": []}, "expected a list .* found an object"),
        (7, "found 7"),
        (["a dog"], "entry 0 is 'a dog'; expected an object with image_id and caption"),
        ([{"image_id": 1}], "entry 0 is .*; expected an object"),
        ([entry(1.5)], r"entry 0: image_id is 1\.5; expected a number or a string"),
        ([entry(True)], "entry 0: image_id is True"),
        ([entry(1), entry(3)], r"entry 1 \(image_id 3\): this image has no references"),
        ([entry("1"), entry(2)], "the references have the number 1, not a string"),
        ([entry(1), entry(1), entry(2)], "entry 1 .*already has a caption, entry 0"),
        ([entry(1)], r"1 of 2 images have no caption \(2\); use --allow-missing to score"),
        ([entry(1, 5), entry(2)], "the caption is 5; expected a string"),
        ([entry(1, None), entry(2)], "the caption is None"),
        ([entry(1, "a" * (MAX_CAPTION + 1)), entry(2)], "10,001 characters; expected at most 10,000"),
        ([entry(1, "a" * 10_000_000), entry(2)], "10,000,000 characters"),
        ([entry(1, "\ud83d"), entry(2)], "lone surrogate"),
        ([], "2 of 2 images have no caption"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_bad_results_are_told(tmp_path, content, message):
    path = tmp_path / "results.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_results(path, {1: ["a dog"], 2: ["a cat"]})
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_missing_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_results(tmp_path / "results.json")
    with pytest.raises(ValueError, match="is a folder"):
        read_results(tmp_path)


def test_many_problems_are_told_at_once(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(number, None) for number in range(100)]))
    with pytest.raises(ValueError, match="100 problems") as error:
        read_results(path)
    text = str(error.value)
    assert "entry 2 " in text and "entry 3 " not in text and text.endswith("; and 97 more") and "\n" not in text


def test_allow_missing_leaves_out_what_is_not_there(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**entry(1), "finished": False}, entry(2, "")]))
    found = read_results(path, {1: [], 2: [], 3: []}, allow_missing=True)
    assert found.captions == {1: "a dog", 2: ""} and found.unfinished == {1}
    path.write_text(json.dumps([]))
    with pytest.raises(ValueError, match="no caption to score"):
        read_results(path, {1: [], 2: []}, allow_missing=True)
    path.write_text(json.dumps([entry(9)]))
    with pytest.raises(ValueError, match="this image has no references"):
        read_results(path, {1: []}, allow_missing=True)


def coco(images, annotations):
    return json.dumps({"images": [{"id": key} for key in images], "annotations": annotations})


def test_coco_references_come_by_annotation_id(tmp_path):
    path = tmp_path / "captions.json"
    rows = [(3, 7, "third"), (1, 7, "first"), (2, 8, "other")]
    path.write_text(coco([7, 8], [{"id": id, "image_id": image, "caption": text} for id, image, text in rows]))
    assert read_coco_references(path) == {7: ["first", "third"], 8: ["other"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", 'expected COCO annotations: an object with a list "annotations"'),
        (coco([1], []), "no reference captions"),
        (coco([1, 2], [entry(1)]), "image 2 has no reference caption"),
        (coco([1], [entry(1, 5)]), "annotation 0: the caption is 5"),
        (coco([1], [{"caption": "a"}]), "annotation 0 is"),
        (coco([1], [{"id": 5, **entry(1)}] * 2), "annotation 1: the id 5 is listed twice, also in annotation 0"),
        (coco([1], [{"id": [5], **entry(1)}]), r"annotation 0: the id is \[5\]; expected a number"),
        ('{"images": [1], "annotations": []}', "image 0 is 1; expected an object with an id"),
        ('{"images": 1, "annotations": []}', "images is 1; expected a list"),
    ],
)
def test_bad_references_are_told(tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_coco_references(tmp_path / "captions.json")


def test_flagged_captions_are_no_references(tmp_path):
    flags = [(1, 7, {}), (2, 7, {"is_rejected": True}), (3, 8, {"is_precanned": True}), (4, 9, {"is_rejected": False})]
    rows = [{"id": id, "image_id": image, "caption": f"caption {id}", **more} for id, image, more in flags]
    (tmp_path / "captions.json").write_text(coco([7, 8, 9], rows))
    assert read_coco_references(tmp_path / "captions.json") == {7: ["caption 1"], 9: ["caption 4"]}


@pytest.mark.parametrize("key", [{"image_id": 8}, {"path": "x/8.jpg"}, {"image": "VizWiz_00008.jpg"}])
def test_results_of_flagged_images_are_left_out_and_counted(tmp_path, key):
    """As of a data set and of an annotation file: an image all of whose captions are flagged is not scored."""
    rows = [{"id": id, "image_id": id, "caption": "a dog", "is_rejected": id == 8} for id in (7, 8, 9)]
    images = [{"id": id, "file_name": f"{id}.jpg"} for id in (7, 8, 9)]
    (tmp_path / "data").mkdir()
    source = tmp_path / "data" / "mine.json"
    source.write_text(json.dumps({"images": images, "annotations": rows}))
    lines = [json.dumps({**row, "caption": "a cat"}) for row in ({"image_id": 7}, key, {"image_id": 9})]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    for place in (source, source.parent):
        references, _ = find_references((place,), None)
        scored = score_files(tmp_path / "results.jsonl", references, samples=2)
        assert scored.scores.ids == (7, 9)
        note = "images whose captions are all flagged as rejected or precanned by VizWiz: 1; their results are left out"
        assert note in scored.notes


def test_an_empty_caption_is_scored_as_no_words(tmp_path):
    references = {1: ["a dog runs over the grass"], 2: ["a cat sits on a mat"], 3: ["two men ride horses"]}
    captions = {1: " \n", 2: "a cat on a mat", 3: "two horses"}
    write_results(tmp_path / "results.json", captions)
    for allow_missing in (False, True):
        found = score_files(tmp_path / "results.json", references, allow_missing=allow_missing, samples=10)
        assert found.scores.ids == (1, 2, 3) and (found.scores.images()[0] < 1e-6).all()
        expected = score_captions(captions, references)
        assert found.scores.corpus() == {name: expected[name] for name in found.scores.names}
        assert "captions without words: 1 (first: image 1); they score 0, as in the official evaluation" in found.notes


def test_references_of_records():
    class Record:
        id, captions = "a.jpg", ("a dog", "a cat")

    assert references_of([Record]) == {"a.jpg": ["a dog", "a cat"]}


def scores_of(kind):
    images = GOLDEN["images"]
    return score_tokens([image[kind] for image in images], [image["references"] for image in images])


def test_intervals_are_seeded_and_hold_the_figure():
    scores = scores_of("human")
    found = intervals(scores, samples=200, seed=3)
    assert found == intervals(scores, samples=200, seed=3) != intervals(scores, samples=200, seed=4)
    for name, value in scores.corpus().items():
        low, high = found[name]
        assert low < value < high, name


def test_intervals_of_a_mean_are_those_of_statistics():
    scores = scores_of("human")
    low, high = intervals(scores, samples=2000)["ROUGE-L"]
    values = scores.parts["ROUGE-L"]
    width = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(width, rel=0.1)


def test_comparison_tells_better_from_alike():
    human, machine = scores_of("human"), scores_of("machine")
    by_name = {item.name: item for item in compare(machine, human, samples=500)}
    found = by_name["ROUGE-L"]
    assert found.difference > 0 and found.p < 0.05 and found.low > 0
    assert found.a == pytest.approx(machine.corpus()["ROUGE-L"]) and found.b == pytest.approx(human.corpus()["ROUGE-L"])
    for item in compare(human, human, samples=50):
        assert (item.difference, item.low, item.high, item.p) == (0, 0, 0, 1)
    for forth, back in zip(compare(human, machine, 200), compare(machine, human, 200), strict=True):
        assert forth.difference == pytest.approx(-back.difference) and forth.low == pytest.approx(-back.high)


def test_no_p_value_is_zero():
    """Of S shuffles and the observed difference at least one is as large: p is at least 1 / (1 + S)."""
    references = [[["a", "dog", "runs", "on", "grass", str(image)]] for image in range(40)]
    right, wrong = [captions[0] for captions in references], [["x"]] * 40
    for item in compare(score_tokens(wrong, references), score_tokens(right, references), samples=99):
        assert item.p == 1 / 100


def test_p_values_are_calibrated():
    """Two captioners that draw from the same references differ by chance: p below 0.1 about one time in ten."""
    images, hits = GOLDEN["images"], 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        sides = random.integers(2, size=len(images))
        kinds = ("human", "machine")
        a, b = ([image[kinds[s ^ flip]] for image, s in zip(images, sides, strict=True)] for flip in (0, 1))
        references = [image["references"] for image in images]
        one, other = score_tokens(a, references).take(["BLEU"]), score_tokens(b, references).take(["BLEU"])
        hits += compare(one, other, samples=100, seed=seed)[1].p < 0.1
    assert 1 <= hits <= 14


def test_score_file_round_trip(files):
    found = score_files(
        files / "human.json",
        REFERENCES,
        split="val",
        training=["a man sits on a bench"],
        provenance={"decoding": {"beam_size": 3}, "checkpoint_sha256": "abc"},
        samples=100,
    )
    found.write(files / "scores.json")
    again = ScoreFile.read(files / "scores.json")
    assert again.to_dict() == found.to_dict()
    content = json.loads((files / "scores.json").read_text())
    assert content["scores"]["CIDEr"]["value"] == pytest.approx(GOLDEN["human"]["CIDEr-D"][0])
    assert content["scores"]["BLEU-4"]["value"] == pytest.approx(GOLDEN["human"]["BLEU"][0][3])
    provenance = content["provenance"]
    assert provenance["split"] == "val" and provenance["images"] == 40 and provenance["references_per_image"] == [1, 6]
    assert provenance["decoding"] == {"beam_size": 3} and provenance["checkpoint_sha256"] == "abc"
    assert {"captioner", "numpy", "python"} <= provenance["versions"].keys() and provenance["tokenizer"]
    assert content["habits"]["copied"] == 1 / 40
    text = format_scores(found)
    assert "BLEU-4" in text and 'prints this as "CIDEr"' in text and "CIDEr of 40 images is unreliable" in text
    assert max(map(len, text.split("note:")[0].splitlines())) <= 80, "wider than a terminal"
    assert not list(files.glob("*.partial"))


def test_one_image_says_so_instead_of_zero(files):
    write_results(files / "one.json", {0: HUMAN[0]})
    found = score_files(files / "one.json", REFERENCES, allow_missing=True, samples=10)
    text = format_scores(found)
    assert "CIDEr-D             –" in text and "no CIDEr" in text and "1 of 40 images have a caption" in text
    found.write(files / "scores.json")
    assert json.loads((files / "scores.json").read_text())["scores"]["CIDEr-D"]["value"] is None
    again = ScoreFile.read(files / "scores.json")
    assert format_scores(again) == text and again.to_dict() == found.to_dict()


def test_the_human_score_is_of_first_captions():
    found = score_people({1: ["a dog", "a dog runs"], 2: ["a cat"], "x": ["two cats", "cats", "two"]}, samples=10)
    assert found.scores.ids == (1, "x") and found.provenance["references_per_image"] == [1, 2]
    assert found.scores.parts["ROUGE-L"].shape == (2, 1) and "first caption" in found.provenance["results"]


def test_comparing_files(files):
    for name in ("human", "machine"):
        score_files(files / f"{name}.json", REFERENCES, samples=10).write(files / f"{name}.scores.json")
    scored = compare_files(files / "machine.scores.json", files / "human.scores.json", samples=100)
    fresh = compare_files(files / "machine.json", files / "human.json", REFERENCES, samples=100)
    assert scored == fresh
    turned = dict(reversed(REFERENCES.items()))
    score_files(files / "machine.json", turned, samples=10).write(files / "turned.json")
    assert json.loads((files / "turned.json").read_text())["images"]["ids"][0] == len(REFERENCES) - 1
    for one, other in zip(compare_files(files / "turned.json", files / "human.json", REFERENCES), scored, strict=True):
        assert (one.a, one.b) == pytest.approx((other.a, other.b))
    for item in compare_files(files / "machine.scores.json", files / "turned.json", samples=50):
        assert (item.low, item.high) == pytest.approx((0, 0)) and item.p == 1
    text = format_differences(scored)
    assert "B is better" in text and "CIDEr-D" in text and max(map(len, text.splitlines())) <= 80
    assert differences_to_dict(scored)[0].keys() >= {"name", "a", "b", "difference", "low", "high", "p"}


def test_references_are_the_same_in_any_order_and_with_any_white_space(files):
    """Readers of one COCO file differ in both."""
    other = {
        key: [f"{caption.replace(' ', '  ')}\n" for caption in captions[::-1]] for key, captions in REFERENCES.items()
    }
    score_files(files / "human.json", other, samples=10).write(files / "a.json")
    differences = compare_files(files / "a.json", files / "human.json", REFERENCES, samples=10)
    assert {item.difference for item in differences} == {0}
    other[0][0] += " again"
    score_files(files / "human.json", other, samples=10).write(files / "a.json")
    with pytest.raises(ValueError, match=r"not comparable: the references differ$"):
        compare_files(files / "a.json", files / "human.json", REFERENCES)


def test_files_that_are_not_comparable_say_so(files):
    score_files(files / "human.json", REFERENCES, samples=10).write(files / "a.json")
    fewer = {key: captions[:1] for key, captions in REFERENCES.items()}
    score_files(files / "human.json", fewer, samples=10).write(files / "b.json")
    with pytest.raises(ValueError, match="not comparable: the references differ; references per image"):
        compare_files(files / "a.json", files / "b.json")
    with pytest.raises(ValueError, match="is a results file; pass its references"):
        compare_files(files / "a.json", files / "human.json")
    score_files(files / "human.json", REFERENCES, samples=10, provenance={"document_frequencies": "COCO"}).write(
        files / "d.json"
    )
    with pytest.raises(ValueError, match=r"not comparable: document frequencies: .* and COCO"):
        compare_files(files / "a.json", files / "d.json")
    (files / "c.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="expected a score file"):
        compare_files(files / "a.json", files / "c.json")


def test_damaged_score_files_are_refused_where_they_are_read(files):
    score_files(files / "human.json", REFERENCES, samples=10).write(files / "a.json")
    whole = json.loads((files / "a.json").read_text())
    assert ScoreFile.from_dict(whole).to_dict() == whole

    def damage(*keys_and_value):
        *keys, last, value = keys_and_value
        content = part = copy.deepcopy(whole)
        for key in keys:
            part = part[key]
        if value is None:
            del part[last]
        else:
            part[last] = value
        return content

    damaged = [
        damage("images", "ids", None), damage("images", "CIDEr-D", None),
        damage("images", "ids", 0, 1.5), damage("images", "ids", 0, 1),
        damage("images", "BLEU", 0, [1]), damage("images", "CIDEr-D", 3, [1, 2]),
        damage("images", "ROUGE-L", 0, [10**400]),
        damage("scores", "BLEU-2", None), damage("scores", "BLEU-2", "low", "0.5"), damage("scores", "BLEU-2", 7),
        damage("provenance", []), damage("provenance", "references_per_image", [5]),
        damage("provenance", "images", "2"), damage("provenance", "x", math.nan), damage("provenance", "x", "\ud800"),
        damage("habits", "distinct", None), damage("habits", "words", [1]), damage("habits", "words", math.inf),
        damage("slices", [1]), damage("slices", "up to 8 words", {}), damage("notes", 5), damage("notes", [7]),
        damage("scores", "CIDEr-D", "low", 10**400),
    ]  # fmt: skip
    for content in damaged:
        with pytest.raises(ValueError, match="a damaged score file"):
            ScoreFile.from_dict(content, "c.json")


def test_habits():
    captions = [["a", "dog", "with", "a"], ["a", "dog", "runs"], ["a", "dog", "runs"], []]
    found = habits(captions, training=[["a", "dog", "runs"]])
    assert found == {"distinct": 0.75, "mean_length": 2.5, "words": 4.0, "bad_endings": 0.25, "copied": 0.5}
    assert "copied" not in habits(captions)


def test_slices():
    common = [[["a", "dog"], ["a", "cat"]]] * 999
    references = [[["a", "zebra"], ["zebra"]], *common]
    assert rare_words(references) == {"zebra"}
    references[1] = [["a", "gnu"], ["a", "cat"]]  # one reference with a rare word is not enough
    assert rare_words(references) == {"zebra", "gnu"}
    found = slices([["a"] * 8, ["a"] * 9, ["a"] * 12, *[["a"]] * 997], references, range(1000), {2})
    assert {name: mask.sum() for name, mask in found.items()} == {
        "up to 8 words": 998,
        "9 to 11 words": 1,
        "12 words or more": 1,
        "rare words in references": 1,
        "unfinished": 1,
    }
    assert found["unfinished"][2] and found["rare words in references"][0]


def test_submission_has_the_right_names(tmp_path):
    path = write_submission(tmp_path, "fake_cap", "val", {1: "a dog", 2: "ein Hündchen"})
    (lack,) = check_submission(path)
    assert "captions_test2014_fake_cap_results.json is missing; the server needs both" in lack
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["captions_val2014_fake_cap_results.json"]
        assert json.loads(archive.read(archive.namelist()[0]))[1] == {"image_id": 2, "caption": "ein Hündchen"}
    path = write_submission(tmp_path, "fake_cap", "test", {3: "a cat"})
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"captions_{part}2014_fake_cap_results.json" for part in ("val", "test")]
    assert check_submission(path) == []
    assert check_submission(tmp_path / "captions_val2014_fake_cap_results.json", {"val": {1, 2}}) == []
    assert "no such image" in check_submission(path, {"val": {1, 2}, "test": {4}})[0]
    for name, split in [("a/b", "val"), ("", "val"), ("a", "train")]:
        with pytest.raises(ValueError, match="cannot name a submission"):
            write_submission(tmp_path, name, split, {1: "a"})
    with pytest.raises(ValueError, match="not a whole number"):
        write_submission(tmp_path / "new", "x", "val", {"a.jpg": "a dog"})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([entry(1), entry(1)], "entry 1 (image_id 1): the image has two captions"),
        ([entry(3)], "entry 0 (image_id 3): no such image"),
        ([entry(1)], "1 of 2 images have no caption (first: 2)"),
        ([entry("1"), entry(2)], "the image_id is not a whole number"),
        ([entry(1, ""), entry(2)], "the caption is empty"),
        ([entry(1, "\ud83d"), entry(2)], "lone surrogate"),
        ([{"image_id": 1}], "expected image_id and caption"),
        ({}, "expected a list"),
    ],
)
def test_bad_submissions_are_told(tmp_path, content, message):
    path = tmp_path / "captions_test2014_x_results.json"
    path.write_text(json.dumps(content))
    assert any(message in problem for problem in check_submission(path, {"val": [], "test": [1, 2]}))


def test_broken_submission_archives(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"no zip")
    assert "not a zip" in check_submission(path)[0]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/results.json", b"\xff")
    name, encoding = check_submission(path)
    assert "expected the name captions_val2014_NAME_results.json" in name and "not JSON in UTF-8" in encoding
    with zipfile.ZipFile(path, "w"):
        pass
    assert check_submission(path) == ["x.zip: the zip is empty"]
    member = "captions_val2014_x_results.json"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, "[" + " " * 1000 + "]")
    content = bytearray(path.read_bytes())
    content[30 + len(member)] = 0x07  # a kind of compressed block that is not
    path.write_bytes(content)
    assert "not a zip that can be read" in check_submission(path)[0]
    with pytest.raises(FileNotFoundError, match="is not a file; expected a results file or a zip"):
        check_submission(tmp_path)


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """A toolkit folder and a `java` of ours on the PATH: it runs the Python program that a test gives."""
    toolkit = tmp_path / "toolkit"
    for name in ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz", "spice/spice-1.0.jar"):
        (toolkit / name).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / name).touch()
    (toolkit / "spice" / "lib").mkdir()
    for name in ("", "-models"):
        (toolkit / "spice" / "lib" / f"stanford-corenlp-3.6.0{name}.jar").touch()
    monkeypatch.setattr(java_module, "_toolkit", lambda: toolkit)

    def install(program):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "program.py").write_text(program)
        script = '#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "17"\' >&2; exit 0; fi\n'
        (folder / "java").write_text(f'{script}exec "{sys.executable}" "{folder}/program.py" "$@"\n')
        (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return toolkit

    return install


def test_missing_java_is_one_line_and_no_score(files, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not on the PATH" in str(java_problem("METEOR"))
    found = score_files(files / "human.json", REFERENCES, java=("METEOR", "SPICE"), samples=10)
    assert "METEOR" not in found.scores.names and "SPICE" not in found.scores.names
    notes = [note for note in found.notes if "Java" in note]
    assert len(notes) == 2 and all("\n" not in note for note in notes)
    assert "METEOR " not in format_scores(found).split("note:")[0]


def test_missing_jars_are_one_line(fake_java):
    toolkit = fake_java("")
    assert java_problem("METEOR") is None and java_problem("SPICE") is None
    (toolkit / "spice" / "lib" / "stanford-corenlp-3.6.0.jar").unlink()
    assert "CoreNLP" in str(java_problem("SPICE")) and java_problem("METEOR") is None
    (toolkit / "meteor" / "meteor-1.5.jar").unlink()
    assert "meteor-1.5.jar" in str(java_problem("METEOR"))


def test_meteor_protocol(fake_java):
    fake_java(
        "import sys\nfor line in sys.stdin:\n"
        "    kind, *texts = line.rstrip('\\n').split(' ||| ')\n    assert kind == 'SCORE'\n"
        "    print(*[len(texts[-1].split()), len(texts)] + [0.0] * 21, flush=True)\n"
    )
    counts = meteor_counts([["a", "dog"], []], [[["a"], ["b"]], [["half", "\ud83d"]]])
    assert counts.shape == (2, 23) and counts[:, :2].tolist() == [[2, 3], [0, 2]]


def test_meteor_forgives_the_only_chunk_of_a_whole_match():
    counts = np.zeros((3, 23))
    counts[:, 0:2] = counts[:, 21:23] = 4  # all words of caption and reference match
    counts[:, 20] = (1, 2, 1)  # chunks
    counts[2, 0] = 5  # here a word of the caption does not match
    assert forgive_whole_matches(counts)[:, 20].tolist() == [0, 2, 1]


def test_meteor_that_dies_is_told(fake_java):
    fake_java("import sys\nprint('Error: out of memory', file=sys.stderr)\nsys.exit(1)\n")
    with pytest.raises(JavaMetricError, match="METEOR's jar failed: Error: out of memory"):
        meteor_counts([["a"]], [[["a"]]])


def test_spice_protocol(fake_java):
    fake_java(
        "import json, sys\ngiven = json.load(open(sys.argv[sys.argv.index('-jar') + 2]))\n"
        "assert any(word.startswith('--add-opens') for word in sys.argv)\n"
        "made = [{'image_id': e['image_id'], 'scores': {'All': {'f': len(e['refs']) / 10}}} for e in given[::-1]]\n"
        "json.dump(made, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n"
    )
    assert spice([["a"], ["b"]], [[["a"], ["b"]], [["c"]]]).tolist() == [0.2, 0.1]
    trace = "Error in main\\n\\tat a.B(B.java:1)\\nCaused by: ClassNotFoundException: c.D\\n\\tat e.F\\n\\t... 3 more"
    fake_java(f"import sys\nsys.exit('{trace}')\n")
    with pytest.raises(JavaMetricError, match=r"SPICE's jar failed: Caused by: ClassNotFoundException: c.D$"):
        spice([["a"]], [[["a"]]])


def test_a_zip_of_many_files_is_not_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(f"{number}.json", b" " * 5_000_000)
    problems = check_submission(path)
    assert problems[0] == "x.zip: 50 files; expected two, of val and of test" and len(problems) == 21
