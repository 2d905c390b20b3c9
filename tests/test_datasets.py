"""Batches and the feature cache: every caption of every photo, cached = live, a cache that knows when it is stale."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.data.augment import AugmentConfig, Augmenter
from captioner.data.cache import cached_features
from captioner.data.datasets import PhotoDataset, batches, encode_captions, epoch_order, in_order
from captioner.data.readers import Record
from captioner.encoder import Encoder
from captioner.images import ImageError, Preprocess
from captioner.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, tokenize

CAPTIONS = [("A red ball.", "a ball to the left"), ("two dogs",), ("a dog", "the dog runs", "a dog and a ball")]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    found = []
    for i, captions in enumerate(CAPTIONS):
        pixels = Image.fromarray(random.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        path = folder / f"{i}.png"
        pixels.resize((96, 64), Image.Resampling.BICUBIC).save(path)
        found.append(Record(i, path, captions, "train"))
    return found


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.build((tokenize(c) for of_photo in CAPTIONS for c in of_photo), min_count=1)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder("squeezenet1_1", None)


def test_a_batch_holds_all_captions_of_its_photos(records, vocabulary):
    captions = encode_captions(records, vocabulary, max_length=4)
    (batch,) = batches(PhotoDataset(records, captions, Preprocess(64)), [[2, 0]])
    assert batch.ids == [2, 0]
    assert batch.images.shape == (2, 3, 64, 64) and batch.tokens.shape == (2 * 3, 6)
    rows = [row[row != PAD].tolist() for row in batch.tokens]
    assert rows[:3] == captions[2] and rows[3:5] == captions[0] and rows[5] == []
    assert vocabulary.decode(rows[2][1:]) == ["a", "dog", "and", "a"]  # cut to four words
    assert all(row[0] == BOS and row[-1] == EOS for row in rows[:5])
    assert (batch.targets[:, :-1] == batch.inputs[:, 1:]).all()


def test_unknown_words(records):
    small = Vocabulary(["a"])
    assert encode_captions(records[:1], small, 10)[0][0] == [BOS, small.encode(["a"])[0], UNK, UNK, EOS]


def test_cached_is_live_and_workers_change_nothing(records, vocabulary, encoder, tmp_path):
    captions, preprocess = encode_captions(records, vocabulary, 10), Preprocess(64)
    features = cached_features(tmp_path / "cache", encoder, preprocess, records, captions, batch_size=2)
    order = in_order(3, 2)
    cached = list(batches(features, order))
    for workers in (0, 1):
        live = list(batches(PhotoDataset(records, captions, preprocess), order, workers))
        for one, other in zip(cached, live, strict=True):
            assert one.ids == other.ids and torch.equal(one.tokens, other.tokens)
            with torch.inference_mode():
                expected = encoder.eval()(other.images)
            torch.testing.assert_close(one.images.pooled, expected.pooled, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(one.images.grid, expected.grid, rtol=1e-3, atol=1e-3)


def test_a_stale_cache_is_made_anew(records, encoder, tmp_path):
    folder = tmp_path / "cache"

    def made(encoder, preprocess, records):
        before = (folder / "key.json").stat().st_ino if folder.exists() else None
        cached_features(folder, encoder, preprocess, records, [[]] * len(records))
        return (folder / "key.json").stat().st_ino != before

    plain = Preprocess(64)
    assert made(encoder, plain, records)
    assert not made(encoder, plain, records)
    assert made(encoder, Preprocess(64, mean=(0.5, 0.5, 0.5)), records)
    assert made(encoder, plain, records)
    assert made(encoder, plain, records[:2])
    torch.manual_seed(1)
    other = Encoder("squeezenet1_1", None)
    assert made(other, plain, records[:2])
    with torch.no_grad():
        next(other.parameters())[0, 0, 0, 0] += 1e-3
    assert made(other, plain, records[:2])
    os.utime(records[0].path, (1, 1))
    assert made(other, plain, records[:2])
    with records[0].path.open("ab") as file:
        file.write(b"\0")
    os.utime(records[0].path, (1, 1))
    assert made(other, plain, records[:2]), "another size, the same time"
    (folder / "key.json").write_text("{")
    assert made(other, plain, records[:2])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_read_is_one_clear_line(records, vocabulary, encoder, tmp_path, workers):
    broken = tmp_path / "cut: short.png"
    broken.write_bytes(records[0].path.read_bytes()[:200])
    bad = [records[1], Record("bad", broken, CAPTIONS[0], "train")]
    photos = PhotoDataset(bad, encode_captions(bad, vocabulary, 9), Preprocess(64))
    for read in (
        lambda: list(batches(photos, in_order(2, 1), workers)),
        lambda: cached_features(tmp_path / "cache", encoder, Preprocess(64), bad, photos.captions, workers),
    ):
        with pytest.raises(ImageError) as caught:
            read()
        assert str(caught.value).startswith(f"{broken}: truncated or damaged (")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [broken.name]  # nothing is left of a cache broken off


def test_a_cache_that_the_disk_cannot_hold(records, encoder, tmp_path, monkeypatch):
    needed = 2 * len(records) * 512 * (1 + 3 * 3)  # pooled and grid of SqueezeNet at 64 pixels, two bytes a number
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=r": the cached features need 0\.0 GB, but .* 0\.0 GB left.*--cache"):
        cached_features(tmp_path / "cache", encoder, Preprocess(64), records, [[]] * 3)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    features = cached_features(tmp_path / "cache", encoder, Preprocess(64), records, [[]] * 3)
    assert features.pooled.nbytes + features.grid.nbytes == needed and features.pooled.dtype == np.float16


def test_a_worker_is_sent_the_path_and_not_the_features(records, vocabulary, encoder, tmp_path):
    captions = encode_captions(records, vocabulary, 10)
    features = cached_features(tmp_path / "cache", encoder, Preprocess(64), records, captions)
    sent = pickle.dumps(features)
    assert len(sent) < 1500 < features.pooled.nbytes < features.grid.nbytes
    (mapped,), (again,) = batches(features, [[2, 0, 1]]), batches(pickle.loads(sent), [[2, 0, 1]])
    assert torch.equal(mapped.images.grid, again.images.grid) and torch.equal(mapped.tokens, again.tokens)


def test_features_beyond_half_precision_are_kept_in_single(records, tmp_path):
    torch.manual_seed(0)
    encoder, preprocess = Encoder("squeezenet1_1", None), Preprocess(64)
    last = dict(encoder.named_parameters())["features.12.expand1x1.weight"]
    with torch.no_grad():
        last *= 1e8
    features = cached_features(tmp_path / "cache", encoder, preprocess, records, [[]] * 3)
    (live,) = batches(PhotoDataset(records, [[]] * 3, preprocess), in_order(3, 3))
    with torch.inference_mode():
        expected = encoder.eval()(live.to(torch.device("cpu")).images)
    assert expected.grid.max() > np.finfo(np.float16).max and features.grid.dtype == np.float32
    np.testing.assert_allclose(features.grid, expected.grid.numpy(), rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    with torch.no_grad():
        last[0] = np.nan
    with pytest.raises(ValueError, match="computes features that are not finite for photos among 0, 1, 2"):
        cached_features(tmp_path / "other", encoder, preprocess, records, [[]] * 3)


def test_workers_leave_signals_to_the_main_process(records):
    """`timeout` and a terminal signal the whole process group; the main process stops its workers when it has saved."""

    class Probe(PhotoDataset):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    (batch,) = batches(Probe(records, [[]] * 3, Preprocess(64)), in_order(3, 3), workers=1)
    assert batch.ids == [0, 1, 2]


def test_a_worker_that_is_left_over_does_not_keep_the_program_alive():
    """A suspended generator keeps its worker busy when the program ends; multiprocessing must be able to end it."""
    code = """
import time
import numpy as np
from captioner.data.datasets import batches
class Slow:
    def __len__(self): return 9
    def __getitem__(self, index):
        time.sleep(3600 * index)
        return np.zeros((3, 2, 2)), [[1, 2]], index
left_over = batches(Slow(), [[i] for i in range(9)], workers=1)
next(left_over)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True, stderr=subprocess.DEVNULL)


def test_an_epoch_sees_each_photo_once_in_an_order_of_its_own():
    first, again, second = (epoch_order(range(10), 4, seed) for seed in ((0, 0, 0), (0, 0, 0), (0, 0, 1)))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(index for batch in first for index in batch) == list(range(10))
    assert first == again != second


def test_no_two_purposes_draw_from_one_stream(vocabulary, monkeypatch):
    """NumPy fills seeds up with zeros: the seed of photo 0's augmentation must not be that of the epoch's order."""
    drawn = []
    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or generator(seed))
    epoch_order(range(10), 4, (0, 0, 0))
    epoch_order(range(10), 4, (0, 0, 1))
    for index in range(3):
        Augmenter(AugmentConfig(), vocabulary, (0, 0, 0))(Image.new("RGB", (9, 9)), [], index)
    first = {tuple(np.random.SeedSequence(seed).generate_state(4).tolist()) for seed in drawn}
    assert len(drawn) == len(first) == 5


def test_augmentation(vocabulary):
    photo = Image.new("RGB", (60, 40), "black")
    photo.paste("white", (0, 0, 30, 40))  # the left half
    ids = [vocabulary.encode(["ball", "to", "the", "left"])]
    both = Vocabulary([*vocabulary.words, "right"])
    flip = Augmenter(AugmentConfig(smallest_crop=1, flip=True, colour=0), both, (0,))
    seen = set()
    for index in range(20):
        varied, captions = flip(photo, ids, index)
        white_left = varied.getpixel((5, 5)) == (255, 255, 255)
        assert both.decode(captions[0]) == ["ball", "to", "the", "left" if white_left else "right"]
        seen.add(white_left)
    assert seen == {True, False}
    every = Augmenter(AugmentConfig(0.5, True, 0.3), vocabulary, (0, 1))
    one, again, other = (np.asarray(every(photo, ids, index)[0]) for index in (3, 3, 4))
    assert one.shape == again.shape and (one == again).all()
    assert one.shape != other.shape or (one != other).any()
    later = [Augmenter(AugmentConfig(0.5, True, 0.3), vocabulary, seed)(photo, ids, 3)[0] for seed in [(0, 2), (1, 1)]]
    assert len({image.tobytes() for image in (*later, every(photo, ids, 3)[0])}) == 3, "another epoch, another stage"
    sizes = {every(photo, ids, index)[0].size for index in range(50)}
    assert all(0.45 * 2400 <= width * height <= 2400 for width, height in sizes) and len(sizes) > 10
    aspects = sorted(width / height for width, height in sizes)
    assert aspects[0] < 0.9 * 1.5 and aspects[-1] > 1.1 * 1.5, "crops are also wider and narrower than the photo"
    none = Augmenter(AugmentConfig(smallest_crop=1, flip=False, colour=0), vocabulary, (0,))
    assert none(photo, ids, 0) == (photo, ids)
