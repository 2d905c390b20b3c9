"""The model that is shipped, on the photos that are shipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import Captioner
from captioner.checkpoint.manifest import find_checkpoint
from captioner.images import find_images

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "datasets" / "sample"
COCO_MINI = ROOT.parent / "shared" / "data" / "coco_mini" / "train2017"


@pytest.fixture(scope="module")
def captioner():
    return Captioner.load(device="cpu")


def test_it_is_small_and_says_what_it_is():
    directory = find_checkpoint()
    assert sum(path.stat().st_size for path in directory.iterdir()) < 30e6
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "CIDEr-D" in card and "Flickr8k" in card
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert saved["scores"]["CIDEr-D"] > 0.4 and "/" not in str(saved["training"]["data"])


def test_it_sees_what_is_there(captioner):
    captions = {path.stem: captioner.caption(path).text.split() for path in find_images([SAMPLE])}
    assert "dog" in captions["dog"]
    assert {"dog", "dogs"} & set(captions["two_dogs"])
    assert {"man", "woman", "person"} & set(captions["photographer"]) and "camera" in captions["photographer"]
    assert "bear" in captions["panda"] and "bowl" in captions["fig"] and "cat" in captions["cat"]
    assert {"men", "people", "band", "group"} & set(captions["mariachi"])
    assert len({" ".join(words) for words in captions.values()}) >= 6


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs the photos of coco_mini")
def test_photos_of_other_people(captioner):
    """No two in three the same, all finished, none stuck."""
    captions = captioner.caption(find_images([COCO_MINI]))
    assert len(captions) == 80 and all(caption.finished for caption in captions)
    texts = [caption.text for caption in captions]
    assert max(texts.count(text) for text in texts) <= 80 / 3
    assert len(set(texts)) > 80 / 2
    for caption in captions:
        assert caption.words[-1] not in {"a", "an", "the", "with", "of", "in", "on"}, caption.text


def test_no_checkpoint_from_an_empty_folder(tmp_path):
    """Without --checkpoint, from anywhere."""
    process = subprocess.run(
        [sys.executable, "-m", "captioner", "caption", str(SAMPLE / "dog.jpg")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "dog" in process.stdout.split(": ")[1]


def test_captioning_writes_nothing_into_the_home_folder(tmp_path):
    """The ONNX runtime would keep a device ID there, and events that it reports to its maker."""
    code = f"from captioner import Captioner; Captioner.load(backend='onnx').caption({str(SAMPLE / 'dog.jpg')!r})"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
