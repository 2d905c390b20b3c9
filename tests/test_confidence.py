"""Confidence: what is fitted = what was simulated; the model's confidence = the one computed by hand from its captions;
images that are not photos come out as unsure."""

import json
import math
import shutil

import numpy as np
import pytest
from not_photos import not_photos

import captioner.calibrate as calibration
from captioner import Captioner
from captioner.backends.export import export
from captioner.calibrate import fit_direction, fit_logistic, photo_weights, save_confidence
from captioner.checkpoint.manifest import CheckpointError, find_checkpoint, read_json, write_json
from captioner.confidence import SIGNALS, Confidence
from captioner.data.toy import make_toy
from captioner.images import find_images
from captioner.metrics.calibration import Calibration, calibration_error, error_by_chance

SHIPPED = find_checkpoint()


def some_confidence(size: int, bias: float = 1.0) -> Confidence:
    direction = np.random.default_rng(0).normal(scale=0.02, size=size).astype(np.float32)
    return Confidence(np.array([0.3, 0.1, -0.2, -0.7]), bias, direction, 0.25, bar=0.4)


@pytest.fixture(scope="module")
def calibrated(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("confidence") / "model"
    export(tiny, output=directory)
    save_confidence(directory, some_confidence(512), {"fitted_on": {"toy": 3}})
    return directory


def test_logistic_regression_finds_what_was_simulated():
    """With 40,000 rows and weights of their own; rows with a second bias do not move the first."""
    random = np.random.default_rng(0)
    signals = random.normal((-2, -10, -1, 0), (1, 4, 0.5, 1), (40_000, 4))
    single = random.random(len(signals)) < 0.5
    true = np.array([0.8, 0.1, -0.5, -1.0, 2.0])
    p = 1 / (1 + np.exp(-(signals @ true[:-1] + true[-1] - 1.5 * single)))
    found = fit_logistic(signals, random.random(len(p)) < p, random.uniform(0.5, 2, len(p)), single, len(p))
    np.testing.assert_allclose(found, true, atol=0.15)


def test_a_data_set_counts_as_the_square_root_of_its_photos():
    weights = photo_weights([900, 100])
    assert weights.mean() == pytest.approx(1)
    assert weights[:900].sum() == pytest.approx(3 * weights[900:].sum())
    np.testing.assert_allclose(photo_weights([50]), 1)


def test_the_direction_leads_from_photos_to_others():
    random = np.random.default_rng(0)
    training, held_out, others = (random.normal(mean, 1, (300, 6)) for mean in (0, 0, 3))
    direction, offset = fit_direction(training, others, held_out)
    strange = Confidence(np.zeros(4), 0, direction, offset, 0.4).strangeness
    assert (strange(held_out, 300) == 0).mean() == 0.5 and strange(others, 300).min() > strange(held_out, 300).max()
    assert strange(held_out, 300).max() < 4 and strange(None, 2).tolist() == [0, 0]


def test_calibration_error_by_hand():
    confidence, right = np.array([0.1, 0.15, 0.9, 1.0]), np.array([False, True, True, True])
    assert calibration_error(confidence, right) == pytest.approx((2 * abs(0.125 - 0.5) + 2 * abs(0.95 - 1.0)) / 4)
    figures = Calibration(confidence, np.array([0.2, 0.4, 1.0, 2.0]), right).to_dict()
    assert figures["right"] == 0.75 and figures["mean_confidence"] == pytest.approx(0.5375)
    assert figures["CIDEr-D_of_the_more_confident_half"] == 1.5
    assert figures["CIDEr-D_of_the_less_confident_half"] == pytest.approx(0.3)
    many = np.full(100_000, 0.3)
    assert error_by_chance(many) < 0.01 and 0.05 < error_by_chance(np.linspace(0.1, 0.9, 80)) < 0.2


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_confidence_by_hand(calibrated, tiny, photos, backend):
    captioner, paths = Captioner.load(calibrated, device="cpu", backend=backend), find_images([photos], recursive=True)
    stored = some_confidence(512)
    together = captioner.caption(paths, num_captions=2)
    for path, caption in zip(paths, together, strict=True):
        pixels, _ = captioner.preprocess.read(path)
        memory = captioner.backend.encode(pixels[None])
        values = memory.values.numpy() if backend == "torch" else memory.memory[0]
        strange = max(float(values[0].mean(axis=0) @ stored.direction) + 0.25, 0)
        for each in (caption, *caption.other_captions):
            log_probabilities = [*each.log_probabilities]
            if each.finished:
                log_probabilities.append(each.log_probability - sum(each.log_probabilities))
            peak = np.mean([math.log(weights.max()) for weights in each.attention])
            weakest = sum(sorted(log_probabilities)[:3]) / min(3, len(log_probabilities))
            score = 0.3 * weakest + 0.1 * each.log_probability - 0.2 * peak - 0.7 * strange + 1
            assert 0.02 < each.confidence < 0.98
            assert each.confidence == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-4)
            assert each.is_unsure == (each.confidence < 0.5) and each.to_dict()["confidence"] == round(
                each.confidence, 4
            )
        assert captioner.caption(path).confidence == pytest.approx(caption.confidence, abs=1e-5)
    assert len({caption.confidence for caption in together}) == len(paths)
    assert captioner.read(paths[0], "a dog").confidence is None
    assert Captioner.load(tiny, device="cpu").caption(paths[0]).confidence is None


def test_what_is_stored_is_what_is_read(calibrated, tmp_path):
    saved = read_json(calibrated / "config.json")["confidence"]
    assert saved["fitted_on"] == {"toy": 3} and saved["weights"].keys() == set(SIGNALS)
    read, stored = Confidence.from_dict(saved), some_confidence(512)
    np.testing.assert_array_equal(read.direction, stored.direction)
    assert (read.weights.tolist(), read.bias, read.offset, read.bar) == ([0.3, 0.1, -0.2, -0.7], 1.0, 0.25, 0.4)
    broken = shutil.copytree(calibrated, tmp_path / "broken")
    config = read_json(broken / "config.json")
    for wrong in ({"weights": {}}, {**saved, "direction": "no base64"}, {**saved, "bias": None}):
        write_json(broken / "config.json", {**config, "confidence": wrong})
        with pytest.raises(CheckpointError, match="describes no model"):
            Captioner.load(broken)


def test_the_command_line_marks_and_leaves_out(calibrated, tiny, photos, run, tmp_path):
    unsure = shutil.copytree(calibrated, tmp_path / "unsure")
    save_confidence(unsure, some_confidence(512, bias=-30.0), {})
    photo = photos / "b.jpg"
    _, out, _ = run("caption", photo, "--checkpoint", unsure)
    text = Captioner.load(unsure).caption(photo).text
    assert out.removesuffix("\n").removesuffix(" (unsure)") in (f"{photo}: {text}", f"{photo}: {text} ...")
    assert out.endswith(" (unsure)\n")
    _, out, _ = run("attend", photo, "--checkpoint", unsure, "-o", tmp_path / "a.json")
    assert out == f"{photo}: {text} (unsure)\n{tmp_path / 'a.json'}\n"
    status, out, err = run("caption", photo, "--checkpoint", unsure, "--min-confidence", 0.5)
    assert (status, out) == (0, "") and f"{photo}: left out, confidence 0.00 is below 0.5" in err
    _, out, _ = run("caption", photo, "--checkpoint", unsure, "--min-confidence", 0.5, "--json")
    entry = json.loads(out)
    assert entry.keys() == {"path", "confidence", "left_out"} and entry["left_out"] == "confidence 0.00 is below 0.5"
    status, _, err = run("caption", photo, "--checkpoint", tiny, "--device", "cpu", "--min-confidence", 0.5)
    assert status == 2 and "gives no confidence" in err
    table = tmp_path / "a.jsonl"
    status, _, err = run("caption", photo, "-o", table, "--checkpoint", unsure, "--min-confidence", 0.5)
    assert status == 0 and err.endswith(" s. Left out for low confidence: 1.\n")
    assert table.read_text() == out
    status, _, err = run("caption", photo, "--checkpoint", unsure, "--min-confidence", 50)
    assert status == 2 and "--min-confidence is 50; expected a probability, from 0 to 1." in err


def test_calibrate_and_evaluate(tiny, tmp_path, run, monkeypatch):
    monkeypatch.setattr(calibration, "SYNTHETIC", 20)
    make_toy(tmp_path / "toy", images=40)
    model = shutil.copytree(tiny, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in model.iterdir() if path.name != "config.json"}
    status, out, err = run("calibrate", model, "--data", tmp_path / "toy", "--device", "cpu")
    assert status == 0 and "photos that it was fitted on" in out and "expected calibration error" in out, err
    assert before == {path.name: path.read_bytes() for path in model.iterdir() if path.name != "config.json"}
    config = read_json(model / "config.json")
    assert config["confidence"]["bar"] == 0.4 and config["confidence"]["fitted_on"].keys() == {"toy"}
    command = ("evaluate", "--data", tmp_path / "toy", "--checkpoint", model, "--device", "cpu")
    status, out, err = run(*command, "--scores", tmp_path / "scores.json", "--pointing")
    assert status == 0 and "all objects that it names are there" in out and "of the more confident half" in out, err
    assert 0 <= json.loads((tmp_path / "scores.json").read_text())["habits"]["confidence_calibration_error"] <= 1
    assert run("calibrate", model)[0] == 2
    shutil.copytree(tmp_path / "toy", tmp_path / "other" / "toy")  # another set whose folder has the same name
    assert run("calibrate", model, "--data", tmp_path / "toy", tmp_path / "other" / "toy", "--device", "cpu")[0] == 0
    assert read_json(model / "config.json")["confidence"]["fitted_on"].keys() == {f"{tmp_path.name}/toy", "other/toy"}


@pytest.mark.skipif(
    "confidence" not in read_json(SHIPPED / "config.json"), reason="the shipped model has no confidence"
)
def test_the_shipped_model_is_unsure_about_what_is_no_photo():
    images = not_photos()
    assert len(images) == 20
    captions = dict(zip(images, Captioner.load(device="cpu").caption([*images.values()]), strict=True))
    confident = {name: (each.confidence, each.text) for name, each in captions.items() if not each.confidence < 0.3}
    assert not any(each.confidence >= 0.5 for each in captions.values()), confident
    assert len(confident) <= 2, confident
