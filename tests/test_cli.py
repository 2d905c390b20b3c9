"""The command line: what it prints where, and its exit status."""

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from captioner.data.toy import make_toy


def caption(run, tiny, *arguments, **more):
    return run("caption", *arguments, "--checkpoint", tiny, "--device", "cpu", **more)


def test_a_folder(run, tiny, photos):
    status, out, err = caption(run, tiny, photos)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(photos / name) for name in ("a.png", "b.jpg", "c.webp")]
    assert all(line.split(": ")[1] for line in lines)
    _, deeper, _ = caption(run, tiny, photos, "--recursive")
    assert len(deeper.splitlines()) == 4


def test_json(run, tiny, photos):
    status, out, _ = caption(run, tiny, photos / "b.jpg", "--json", "--beam-size", 3, "--num-captions", 2)
    assert status == 0
    entry = json.loads(out)
    assert entry.keys() == {
        "path",
        "caption",
        "log_probability",
        "finished",
        "confidence",
        "words",
        "attention",
        "other_captions",
    }
    assert entry["path"] == str(photos / "b.jpg")
    total = sum(word["log_probability"] for word in entry["words"])
    assert entry["log_probability"] <= total + 1e-4
    (other,) = entry["other_captions"]
    assert other["caption"] != entry["caption"]


def test_paths_on_standard_input(run, tiny, photos):
    listed = f"{photos / 'b.jpg'}\n\n{photos / 'a.png'}\n"
    status, out, _ = caption(run, tiny, "-", stdin=listed)
    assert status == 0
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(photos / "b.jpg"), str(photos / "a.png")]


def test_nothing_on_standard_input(run, tiny):
    expected = (2, "", "captioner: no photos: standard input is empty.\n")
    assert caption(run, tiny, "-", stdin="\n") == expected
    assert run("attend", "-", "-o", "{name}.png", "--checkpoint", tiny, stdin="\n") == expected


def test_an_empty_folder_on_standard_input(run, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = caption(run, tiny, "-", stdin=f"{tmp_path / 'empty'}\n")
    assert (status, out, err) == (2, "", "captioner: no photos: standard input.\n")


def test_bad_photos_are_named_and_the_others_captioned(run, tiny, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no photo")
    (tmp_path / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:400])
    (tmp_path / "good.jpg").write_bytes((photos / "b.jpg").read_bytes())
    status, out, err = caption(run, tiny, tmp_path, tmp_path / "absent.jpg")
    assert status == 1
    assert len(out.splitlines()) == 1 and "good.jpg" in out
    *lines, last = err.splitlines()
    assert sorted(line.split(":")[1].split("/")[-1] for line in lines) == [
        "absent.jpg", "cut.jpg", "empty.jpg", "text.png"
    ]  # fmt: skip
    assert last == "captioner: 4 of 5 photos could not be captioned."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "no photos: "),
        ([], "no photos: nothing was given"),
        (["{photo}", "--beam-size", 0], "beam_size is 0; expected at least 1"),
        (["{photo}", "--temperature", 2], "temperature is 2.0, but only sampling uses it"),
        (["{photo}", "--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, tiny, photos, tmp_path, arguments, message):
    names = {"empty": tmp_path, "photo": photos / "a.png"}
    status, out, err = run(
        "caption", "--checkpoint", tiny, "--device", "cpu", *(str(a).format(**names) for a in arguments)
    )
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("captioner: ") and message in err


def test_photos_before_or_after_the_model_give_the_same(run, tiny, photos):
    photo = str(photos / "b.jpg")
    first, second = (run("caption", *line) for line in ((photo, "--checkpoint", tiny), ("--checkpoint", tiny, photo)))
    assert first == second and first[0] == 0 and first[1].startswith(f"{photo}: ")


def test_without_arguments_it_prints_its_help(run):
    status, out, err = run()
    assert (status, err) == (0, "") and "usage: captioner" in out and "caption" in out


def test_the_name_of_a_model_misspelt(run, photos):
    status, _, err = run("caption", photos / "a.png", "--checkpoint", "flick8k")
    assert status == 2 and err.endswith("a shipped model: everyday, flickr8k. Did you mean flickr8k?\n")


def test_a_checkpoint_that_is_none(run, photos, tmp_path):
    status, _, err = run("caption", photos / "a.png", "--checkpoint", tmp_path)
    assert status == 2 and str(tmp_path) in err and err.count("\n") == 1


def test_attend(run, tiny, photos, tmp_path):
    for ending in (".png", ".svg", ".pdf"):
        output = tmp_path / f"attention{ending}"
        status, out, _ = run("attend", photos / "b.jpg", "-o", output, "--checkpoint", tiny, "--device", "cpu")
        assert status == 0 and out.splitlines()[-1] == str(output) and output.stat().st_size > 3000
    given = ("attend", photos / "b.jpg", "-o", tmp_path / "read.json", "--checkpoint", tiny, "--text")
    status, out, _ = run(*given, "A dog sleeps.")
    assert status == 0 and out.startswith(f"{photos / 'b.jpg'}: A dog sleeps.")
    words = json.loads((tmp_path / "read.json").read_text())["words"]
    assert [entry["word"] for entry in words] == ["a", "dog", "sleeps"]
    assert "are shown as <unk>" in run(*given, "A dog in Timbuktu")[2]
    assert run(*given, "A dog", "--cells")[0] == run(*given, "A dog", "--beam-size", 2)[0] == 2
    status, _, err = run("attend", photos / "b.jpg", "-o", tmp_path / "a.doc", "--checkpoint", tiny)
    assert status == 2 and ".png, .jpg, .svg, .pdf" in err


def test_attend_tells_of_folders_that_cannot_be_listed(run, tiny, photos, tmp_path, unlistable):
    """By its exit status, too, with maps and with units."""
    (shutil.copytree(photos, tmp_path / "photos") / "closed").mkdir()
    unlistable("closed")
    common = (tmp_path / "photos", "--recursive", "--checkpoint", tiny, "--device", "cpu", "-o")
    for more in ((tmp_path / "{name}.json",), (tmp_path / "units.png", "--cells")):
        status, _, err = run("attend", *common, *more)
        assert status == 1 and f"{tmp_path}/photos/closed: the folder cannot be listed (Permission denied)" in err


def test_toy_and_evaluate(run, tiny, tmp_path):
    assert run("toy", tmp_path / "toy", "--images", 20)[0] == 0
    results = tmp_path / "out" / "results.json"
    status, out, _ = run(
        "evaluate", "--data", tmp_path / "toy", "--split", "val", "--checkpoint", tiny, "--results", results
    )
    assert status == 0
    figures = {line.split()[0] for line in out.splitlines() if line}
    assert {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D"} <= figures
    rows = json.loads(results.read_text())
    assert len(rows) == 2 and rows[0].keys() == {"image_id", "caption"}
    status, _, err = run("evaluate", "--data", tmp_path / "toy", "--split", "nope")
    assert status == 2 and "train (16 images), val (2 images), test (2 images)" in err


def test_help_is_quick_and_complete(run):
    status, out, _ = run("--help")
    assert status == 0
    for verb in ("caption", "attend", "train", "evaluate", "toy"):
        assert f"• {verb} " in out
        assert run(verb, "--help")[0] == 0
    code = "import sys, captioner.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_photo_with_exif_rotation(run, tiny, tmp_path):
    """Turned in its EXIF data, it is captioned as the upright one."""
    photo = Image.effect_mandelbrot((60, 40), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    photo.save(tmp_path / "a_upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b_turned.png", exif=exif)
    _, out, _ = caption(run, tiny, tmp_path, "--json")
    one, other = (json.loads(line) for line in out.splitlines())
    assert one["caption"] == other["caption"] and one["log_probability"] == other["log_probability"]


def test_score_and_compare(run, tmp_path):
    captions = {1: ["a dog runs on grass", "a brown dog runs"], 2: ["two men sit on a bench", "men on a bench"]}
    annotations = [
        {"id": 10 * image + i, "image_id": image, "caption": text}
        for image, texts in captions.items()
        for i, text in enumerate(texts)
    ]
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"images": [{"id": image} for image in captions], "annotations": annotations}))
    for name, texts in {"good": {1: "a dog runs", 2: "two men on a bench"}, "bad": {1: "a cat", 2: "a cat"}}.items():
        rows = [{"image_id": image, "caption": text} for image, text in texts.items()]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        files = ("--results", tmp_path / f"{name}.json", "-o", tmp_path / f"{name}.score")
        status, out, _ = run("score", "--references", references, *files)
        assert status == 0 and "CIDEr-D" in out
    status, out, _ = run("compare", tmp_path / "bad.score", tmp_path / "good.score", "--json")
    assert status == 0
    differences = {row["name"]: row["difference"] for row in json.loads(out)}
    assert differences["BLEU-1"] > 0.5
    (tmp_path / "good.json").write_text("[{")
    status, out, err = run("score", "--references", references, "--results", tmp_path / "good.json")
    assert (status, out) == (2, "") and err.count("\n") == 1 and "good.json" in err


def test_captions_are_kept_where_scoring_fails(run, tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no Java")

    make_toy(tmp_path / "toy", images=20)
    monkeypatch.setattr("captioner.evaluate.score_split", fail)
    given = ("evaluate", "--data", tmp_path / "toy", "--checkpoint", tiny, "--results", tmp_path / "results.json")
    status, _, err = run(*given)
    assert status == 2 and "no Java" in err and len(json.loads((tmp_path / "results.json").read_text())) == 2


def results(path, *rows):
    path.write_text(json.dumps([{"image_id": key, "caption": text} for key, text in rows]))
    return path


def annotations(path, captions):
    rows = [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(captions)]
    path.write_text(json.dumps({"images": [{"id": key} for key, _ in captions], "annotations": rows}))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([(1, "a dog"), (2, "a cat"), (3, "a cow")], "entry 2 (image_id 3): this image has no references"),
        ([(1, "a dog")], "1 of 2 images have no caption (2); use --allow-missing to score the others"),
        ([(1, "a dog"), (1, "a dog"), (2, "a cat")], "entry 1 (image_id 1): the image already has a caption, entry 0"),
        ([(1, 7), (2, "a cat")], "entry 0 (image_id 1): the caption is 7; expected a string"),
        ([(1, "dog " * 2_500_000), (2, "a cat")], "the caption has 10,000,000 characters; expected at most 10,000"),
        ('{"1": "a dog"}', "found an object"),
        ('[{"image_id": 1, "capt', "seems to be cut off"),
    ],
)
def test_bad_results_are_told_and_status_2(run, tmp_path, content, message):
    path = tmp_path / "results.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        results(path, *content)
    known = annotations(tmp_path / "references.json", [(1, "a dog"), (2, "a cat")])
    status, out, err = run("score", "--references", known, "--results", path)
    assert (status, out) == (2, "")
    assert err.startswith(f"captioner: {path}: ") and message in err and len(err) < 500


def test_references_without_captions(run, tmp_path):
    path = results(tmp_path / "results.json", (1, "a dog"))
    status, out, err = run("score", "--references", annotations(tmp_path / "r.json", []), "--results", path)
    assert (status, out) == (2, "") and "it has no reference captions" in err


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_a_java_metric_that_cannot_run_is_an_error_before_the_work(run, tmp_path, monkeypatch, verb):
    monkeypatch.setenv("PATH", str(tmp_path))
    files = {"score": ("--references", tmp_path / "absent"), "evaluate": ("--data", tmp_path / "absent")}[verb]
    people = ("--people",) if verb == "score" else ()
    status, out, err = run(verb, *files, *people, "--java", "METEOR")
    assert (status, out) == (2, "")
    assert err.startswith("captioner: METEOR needs Java") and err.endswith("Or leave --java METEOR out.\n")


def test_allow_missing_scores_what_is_there(run, tmp_path):
    known = annotations(tmp_path / "references.json", [(1, "a dog"), (2, "a cat"), (3, "a red cow")])
    path = results(tmp_path / "results.json", (1, "a dog"), (3, "a cow"))
    status, out, _ = run("score", "--references", known, "--results", path, "--allow-missing")
    assert status == 0 and "2 of 3 images have a caption; only these are scored" in out


def test_references_of_a_data_set_without_its_photos(run, tmp_path):
    images = [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": f"A {name}."}]}
        for name, split in (("dog", "val"), ("cat", "val"), ("cow", "train"))
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    path = results(tmp_path / "results.json", ("dog.jpg", "a dog"), ("cat.jpg", "a cow"))
    for source in (tmp_path, tmp_path / "dataset_flickr8k.json"):
        status, out, _ = run("score", "--references", source, "--results", path, "--training", source)
        assert status == 0 and "BLEU-1" in out
    assert "0.75" in out  # three of four words
    assert "copied" in out and "50" in out  # one of two captions


def test_references_of_coco_without_its_photos(run, tmp_path):
    (tmp_path / "annotations").mkdir()
    for split, captions in (("train", [(1, "a cat")]), ("val", [(7, "a dog "), (8, "a cat")])):
        path = annotations(tmp_path / "annotations" / f"captions_{split}2017.json", captions)
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["file_name"] = f"{image['id']}.jpg"
        path.write_text(json.dumps(content))
    path = results(tmp_path / "results.json", (7, "a dog"), (8, "a cat"))
    files = []
    for source in (tmp_path, tmp_path / "annotations" / "captions_val2017.json"):
        files.append(tmp_path / "new" / f"{source.name}.scores")
        more = ("--training", tmp_path, "-o", files[-1])
        status, out, _ = run("score", "--references", source, "--results", path, *more)
        assert status == 0 and "copied from training 50.0 %" in out
        provenance = json.loads(files[-1].read_text())["provenance"]
        assert (provenance["split"], provenance["references"]) == ("val", source.name)
    assert run("compare", *files)[0] == 0
    path, source = results(path, (1, "a cat")), tmp_path / "annotations" / "captions_train2017.json"
    assert run("score", "--references", source, "--results", path, "-o", files[0])[0] == 0
    assert json.loads(files[0].read_text())["provenance"]["split"] == "train"


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (("score", "--references", "{no}", "--people"), "expected COCO's annotation file or a data set"),
        (("score", "--references", "{data}"), "expected either --results FILE or --people"),
        (("score", "--references", "{data}", "--people", "-o", "{folder}"), "is a folder; expected the name of a file"),
        (("evaluate", "--data", "{folder}", "--scores", "{folder}"), "is a folder; expected the name of a file"),
        (("check", "{no}"), "is not a file; expected a results file or a zip"),
    ],
)
def test_files_of_scores_that_cannot_be(run, tmp_path, verb, message):
    names = {"no": tmp_path / "no.json", "folder": tmp_path, "data": annotations(tmp_path / "a.json", [(1, "a dog")])}
    status, out, err = run(*(part.format(**names) for part in verb))
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err


def test_check(run, tmp_path):
    path = results(tmp_path / "captions_val2014_mine_results.json", (1, "a dog"), (2, ""))
    images = annotations(tmp_path / "images.json", [(1, ""), (3, "")])
    status, out, err = run("check", path, "--val", images)
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        f"captioner: {path.name}: entry 1 (image_id 2): no such image in the split",
        f"captioner: {path.name}: entry 1 (image_id 2): the caption is empty",
        f"captioner: {path.name}: 1 of 2 images have no caption (first: 3)",
    ]
    results(path, (1, "a dog"), (3, "a cat"))
    assert run("check", path, "--val", images)[0] == 0
    assert "would accept it" in run("check", path)[1]
    results(path, *((number, "") for number in range(1000)))
    *_, last, more = run("check", path)[2].splitlines()
    assert "entry 19 (image_id 19)" in last and more == "captioner: and 980 more problems"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("train", "--epochs", 10), "there is no option --epochs: the epochs are in the stages: --stages decoder:10"),
        (("train", "--lr", "1e-3"), "there is no option --lr: it is called --learning-rate"),
        (("find-lr", "--hidden-size", 9), "there is no option --hidden-size: it is called --model.hidden-size"),
        (("train", "--beam", 5), "there is no option --beam: it is called --decoding.beam-size"),
        (("train", "--model", "x"), "there is no option --model: a CNN is given by --model.encoder, a checkpoint"),
        (("pretrain", "--model", "x"), "there is no option --model: a checkpoint to begin from is given by --init"),
        (("pretrain", "--lr=1e-3"), "there is no option --lr: it is called --learning-rate"),
        (("pretrain", "--data", "x"), "there is no option --data: it is called --text"),
        (("train", "--resume", "runs/x"), "--resume takes no value: captioner train --output runs/x --resume"),
        (("find_lr",), "find_lr is not a command. Did you mean find-lr?"),
    ],
)
def test_what_people_type(run, typed, told):
    status, _, err = run(*typed)
    assert status == 2 and told in err
