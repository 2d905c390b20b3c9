"""Heat maps lie where the model looked, pages hold together for any photo and caption, curves show the log."""

from __future__ import annotations

import io
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from captioner.images import Preprocess, open_image
from captioner.visualize import (
    attention_figure,
    heat_map,
    level,
    overlay,
    save_attention,
    save_curves,
    scale_top,
    training_curves,
)
from captioner.visualize.page import percent

SHAPES = [(640, 427), (375, 500), (300, 300), (900, 150)]
RESIZES = ["squash", "crop", "pad"]


def render(figure: Figure, dpi: float = 80) -> np.ndarray:
    """The page as pixels (H, W, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def hottest(values: np.ndarray) -> tuple[float, float]:
    """x and y of the middle of the highest values, as shares of the width and height."""
    rows, columns = np.nonzero(values >= np.quantile(values, 0.9995))
    return float(columns.mean() + 0.5) / values.shape[1], float(rows.mean() + 0.5) / values.shape[0]


def one_region(row: int, column: int, height: int = 7, width: int = 7) -> np.ndarray:
    weights = np.zeros((height, width))
    weights[row, column] = 1
    return weights


def words_of(count: int) -> list[str]:
    return [f"word{index}" for index in range(count)]


def even(count: int, grid: int = 7) -> np.ndarray:
    return np.full((count, grid, grid), 1 / grid**2)


# Heat maps


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SHAPES)
def test_the_panel_is_hottest_where_the_region_is(size: tuple[int, int], resize: str) -> None:
    """On the finished page: a grey photo, all attention in one region, and the brightest spot of its panel."""
    width, height = size
    left, top, right, bottom = Preprocess(224, resize).box(width, height)  # type: ignore[arg-type]
    inside = [
        (row, column)
        for row, column in itertools.product(range(7), repeat=2)
        if 0 < left + (column + 0.5) / 7 * (right - left) < width
        and 0 < top + (row + 0.5) / 7 * (bottom - top) < height
    ]
    regions = [inside[0], inside[len(inside) // 2 + 1], inside[-1]]
    photo = Image.new("RGB", size, (120, 120, 120))
    maps = np.stack([one_region(*region) for region in regions])
    figure = attention_figure(photo, words_of(3), maps.reshape(3, 49), box=(left, top, right, bottom))
    page = render(figure, 200).astype(float).sum(axis=2)
    for (row, column), axes in zip(regions, figure.axes[1:4], strict=True):
        place = axes.get_position()
        top_row, last_row = round((1 - place.y1) * page.shape[0]), round((1 - place.y0) * page.shape[0])
        panel = page[top_row + 1 : last_row - 1, round(place.x0 * page.shape[1]) + 1 :]
        panel = panel[:, : round((place.x1 - place.x0) * page.shape[1]) - 2]
        x, y = hottest(panel)
        assert abs(x * width - (left + (column + 0.5) / 7 * (right - left))) < 0.31 * (right - left) / 7
        assert abs(y * height - (top + (row + 0.5) / 7 * (bottom - top))) < 0.31 * (bottom - top) / 7


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(640, 427), (375, 500)])
def test_what_the_cnn_sees_bright_is_hot_in_the_photo(size: tuple[int, int], resize: str, orientation: int) -> None:
    """The whole way: a mark in a stored photo, its EXIF turn, its resize, its regions, and back to its pixels."""
    width, height = size
    x, y = round(0.55 * width), round(0.4 * height)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y - 15 : y + 15, x - 15 : x + 15] = 255
    store = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = Image.fromarray(pixels)
    if orientation in store:
        stored = stored.transpose(store[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(buffer := io.BytesIO(), "JPEG", exif=exif)
    photo = open_image(buffer.getvalue())
    assert photo.size == size

    preprocess = Preprocess(224, resize, mean=(0, 0, 0), std=(1, 1, 1))  # type: ignore[arg-type]
    seen = preprocess(photo)[0]  # (224, 224)
    weights = seen.reshape(14, 16, 14, 16).mean(axis=(1, 3))
    heat = heat_map(weights, width, height, preprocess.box(width, height))
    assert heat.shape == (height, width)
    total = heat.sum()
    assert abs((heat.sum(axis=0) * (np.arange(width) + 0.5)).sum() / total - x) < width / 50
    assert abs((heat.sum(axis=1) * (np.arange(height) + 0.5)).sum() / total - y) < height / 50


def test_heat_is_exact_at_region_centres_and_never_negative() -> None:
    weights = np.random.default_rng(0).random((3, 5)) ** 4
    heat = heat_map(weights, 5 * 11, 3 * 11)
    np.testing.assert_allclose(heat[5::11, 5::11], weights, atol=1e-6)
    assert heat_map(one_region(1, 1, 4, 4), 101, 77).min() == 0


def test_heat_of_an_even_map_is_even_and_ends_with_the_box() -> None:
    heat = heat_map(np.full((7, 7), 0.02), 100, 60, (20.0, 0.0, 80.0, 60.0))
    np.testing.assert_allclose(heat[:, 20:80], 0.02, atol=1e-6)
    assert heat[:, :20].max() == 0
    assert heat[:, 80:].max() == 0


def test_heat_is_smooth_as_it_is_drawn() -> None:
    """Also beside the peaks, where cubic convolution falls below zero and is cut off: there may be no edge."""
    maps = np.random.default_rng(0).dirichlet(np.full(49, 0.2), size=8).reshape(8, 7, 7)
    for weights in (one_region(3, 3), *maps):
        levels = level(heat_map(weights, 700, 700), weights.max())
        assert np.abs(np.diff(levels, axis=0)).max() < 0.03


def test_grids_may_be_any_shape() -> None:
    assert heat_map(np.ones((1, 1)), 5, 3).shape == (3, 5)
    x, y = hottest(heat_map(one_region(0, 8, 2, 9), 900, 200))
    assert abs(x - 8.5 / 9) < 0.06
    assert abs(y - 0.25) < 0.25


def test_the_scale_is_one_for_all_and_keeps_even_attention_faint() -> None:
    maps = np.stack([one_region(0, 0) * 0.5 + 0.5 / 49, np.full((7, 7), 1 / 49)])
    assert scale_top(maps) == pytest.approx(maps.max())
    assert scale_top(maps[1:]) == pytest.approx(6 / 49)
    assert level(maps[1], scale_top(maps[1:])).max() == pytest.approx(6**-0.5)
    assert level(np.array([0, 0.25, 1, 2.0]), 1.0).tolist() == [0, 0.5, 1, 1]
    assert scale_top(np.ones((2, 1, 1))) == 1


@pytest.mark.parametrize("brightness", [0, 8, 60, 200, 255])
def test_dark_and_light_photos_stay_legible(brightness: int) -> None:
    """Attended and unattended places differ plainly, and so do the photo's own light and shade under both."""
    photo = np.full((40, 60, 3), brightness, dtype=np.uint8)
    photo[::2] = photo[::2] // 2
    levels = np.zeros((40, 60))
    levels[:, 30:] = 1
    shown = overlay(photo, levels).astype(int)
    assert shown.dtype == int
    assert np.abs(shown[:, :30] - shown[:, 30:]).sum(axis=2).min() > 80
    if brightness >= 60:
        assert np.abs(shown[0, 0] - shown[1, 0]).sum() > 80
        assert np.abs(shown[0, 40] - shown[1, 40]).sum() > 30


# Pages


@pytest.mark.parametrize("size", [(640, 427), (375, 500), (1, 1), (3000, 10), (10, 3000)])
@pytest.mark.parametrize("count", [1, 4, 11, 25])
def test_pages_hold_together(size: tuple[int, int], count: int) -> None:
    """Every panel on the page, none over another, all words right under their panels."""
    figure = attention_figure(Image.new("RGB", size), words_of(count), even(count), log_probabilities=[-1.0] * count)
    assert len(figure.axes) == count + 2  # the photo, a panel a word, the legend
    places = [axes.get_position() for axes in figure.axes]
    for place in places:
        assert place.x0 > 0
        assert place.y0 > 0
        assert place.x1 < 1
        assert place.y1 < 1
    for one, other in itertools.combinations(places, 2):
        assert one.x1 < other.x0 or other.x1 < one.x0 or one.y1 < other.y0 or other.y1 < one.y0
    width, height = figure.get_size_inches()
    assert 0.2 < width / height < 8
    texts = {text.get_text(): text.get_position() for text in figure.texts}
    for index, place in enumerate(places[1:-1]):
        x, y = texts[f"word{index}"]
        assert x == pytest.approx(place.x0)
        assert 0 < (place.y0 - y) * height < 0.15
    rows = {round(place.y0, 4) for place in places[1:-1]}
    assert len(rows) > 1 or count <= 4, "a long caption wraps"


def test_text_stays_on_the_page_and_off_its_neighbours() -> None:
    words = [
        "a",
        "photographer",
        "'s",
        "antidisestablishmentarianism",
        "snowboarding",
        "and",
        "a",
        r"$\frac$",
        "<unk>",
        "under_score",
    ]
    title = " ".join([*words, *words, *words])
    figure = attention_figure(Image.new("RGB", (300, 500)), words, even(len(words)), None, [-0.01] * 10, title)
    page = render(figure)
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= page.shape[1]
        assert box.y1 <= page.shape[0]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for text, axes in itertools.product(figure.texts, figure.axes):
        assert not text.get_text() or not text.get_window_extent().overlaps(axes.get_window_extent())
    assert "\n" in figure.texts[0].get_text(), "a long title wraps"


def test_what_is_written() -> None:
    words, log_probabilities = ["a", "dog", "runs", "far", "off"], [0.0, *map(math.log, (0.5, 0.034, 0.0001)), 1e-9]
    maps = np.stack([one_region(1, 1)] * 5)
    figure = attention_figure(Image.new("RGB", (40, 30)), words, maps, None, log_probabilities, "A dog")
    texts = [text.get_text() for text in figure.texts]
    texts = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]
    assert texts[:11] == ["A dog", "a", "100 %", "dog", "50 %", "runs", "3.4 %", "far", "<0.1 %", "off", "100 %"]
    assert texts[11:14] == ["0", "25 %", "100 %"], "the legend"
    plain = attention_figure(Image.new("RGB", (40, 30)), words, maps)
    assert not any("%" in text.get_text() for text in plain.texts[1:-4])


def test_the_photo_comes_first_and_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for photo in (pixels, Image.fromarray(pixels)):
        figure = attention_figure(photo, ["a"], even(1))
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), pixels)
    grey = attention_figure(Image.fromarray(pixels[..., 0]), ["a"], even(1))
    assert grey.axes[0].images[0].get_array().shape == (30, 40, 3)


def test_columns_can_be_chosen() -> None:
    figure = attention_figure(Image.new("RGB", (40, 30)), words_of(9), even(9), columns=4)
    assert len({round(axes.get_position().x0, 4) for axes in figure.axes[:-1]}) == 4


def test_a_caption_without_words() -> None:
    figure = attention_figure(Image.new("RGB", (40, 30)), [], np.zeros((0, 7, 7)), title="")
    assert len(figure.axes) == 1
    render(figure)


@pytest.mark.parametrize(
    ("words", "attention", "arguments", "message"),
    [
        (2, np.ones((3, 49)), {}, r"\(3, 49\) for 2 words"),
        (2, np.ones((2, 7, 7, 1)), {}, "expected"),
        (2, np.ones((2, 48)), {}, r"48 regions do not fill a grid of 6 x 6\. Pass grid"),
        (2, np.ones((2, 49)), {"grid": (7, 6)}, r"not fill a grid of 7 x 6\.$"),
        (1, np.full((1, 49), np.nan), {}, "non-finite"),
        (1, np.full((1, 49), -0.1), {}, "negative"),
        (2, np.ones((2, 49)), {"log_probabilities": [-1.0]}, "1 log-probabilities for 2 words"),
    ],
)
def test_wrong_arrays(words: int, attention: np.ndarray, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_figure(Image.new("RGB", (40, 30)), words_of(words), attention, **arguments)


def test_flat_maps_take_their_grid() -> None:
    weights = one_region(0, 5, 2, 6)
    flat = attention_figure(Image.new("RGB", (60, 20)), ["a"], weights.reshape(1, 12), grid=(2, 6))
    shaped = attention_figure(Image.new("RGB", (60, 20)), ["a"], weights[None])
    np.testing.assert_array_equal(render(flat), render(shaped))


# Files


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_files(tmp_path: Path, suffix: str, start: bytes) -> None:
    save_attention(tmp_path / f"a.{suffix}", Image.new("RGB", (40, 30)), ["a"], even(1), title="A")
    save_curves(str(tmp_path / f"c.{suffix}"), run_log())
    for name in ("a", "c"):
        assert (tmp_path / f"{name}.{suffix}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 2, "nothing else is left behind"


def test_files_that_cannot_be(tmp_path: Path) -> None:
    photo = Image.new("RGB", (40, 30))
    for name in ("a.bmp", "a", "a.png.txt"):
        with pytest.raises(ValueError, match=r"ends in \.png, \.jpg, \.svg, \.pdf"):
            save_attention(tmp_path / name, photo, ["a"], even(1))
        with pytest.raises(ValueError, match=name):
            save_curves(tmp_path / name, [])
    assert not list(tmp_path.iterdir())


def test_folders_are_made(tmp_path: Path) -> None:
    save_curves(tmp_path / "new" / "folder" / "a.jpg", [])
    with Image.open(tmp_path / "new" / "folder" / "a.jpg") as picture:
        assert picture.format == "JPEG"


def test_no_screen_no_pyplot_and_no_matplotlib_before_it_is_needed(tmp_path: Path) -> None:
    code = f"""
import sys
import captioner.visualize as visualize
assert "matplotlib" not in sys.modules
visualize.save_curves({str(tmp_path / "c.png")!r}, [])
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "DISPLAY": ""}
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment)
    assert run.returncode == 0


# Curves


def run_log(stages: tuple[tuple[str, int], ...] = (("decoder", 3), ("features.14", 2)), steps: int = 4) -> list[dict]:
    rows: list[dict] = []
    step = 0
    for stage, epochs in stages:
        for epoch in range(1, epochs + 1):
            for _ in range(steps):
                step += 1
                rows.append({"kind": "step", "step": step, "epoch": epoch, "stage": stage, "loss": 5 - step / 10})
            scores = {"loss": 4 - step / 10, "BLEU-4": step / 200, "CIDEr-D": step / 50}
            rows.append({"kind": "validation", "step": step, "epoch": epoch, "stage": stage, **scores})
    return rows


def lines(figure: Figure, axes: int) -> list[tuple[list[float], list[float]]]:
    """x and y of the lines that show values."""
    shown = [line for line in figure.axes[axes].lines if line.get_transform() == figure.axes[axes].transData]
    return [(np.round(line.get_xdata(), 6).tolist(), np.round(line.get_ydata(), 6).tolist()) for line in shown]


def notes(figure: Figure, axes: int) -> list[str]:
    return [text.get_text() for text in figure.axes[axes].texts]


def test_curves_show_the_log() -> None:
    figure = training_curves(run_log(), title="A run")
    render(figure)
    raw, smooth, validation = lines(figure, 0)
    assert raw[0] == [step / 4 for step in range(1, 21)]
    assert raw[1] == [round(5 - step / 10, 6) for step in range(1, 21)]
    assert smooth == raw, "few values are not smoothed"
    assert validation == ([1, 2, 3, 4, 5], [3.6, 3.2, 2.8, 2.4, 2.0])
    cider, best_cider, bleu, best_bleu = lines(figure, 1)
    assert cider == ([1, 2, 3, 4, 5], [0.08, 0.16, 0.24, 0.32, 0.4])
    assert bleu[1] == [0.02, 0.04, 0.06, 0.08, 0.1]
    assert (best_cider, best_bleu) == (([5], [0.4]), ([5], [0.1]))
    assert notes(figure, 0)[:2] == ["decoder", "features.14"]
    assert figure.axes[0].texts[1].xy[0] == 3
    assert {"CIDEr-D\n0.400", "BLEU-4\n0.100"} <= set(notes(figure, 1))
    assert "best 0.400" not in notes(figure, 1), "the best is the last, whose value stands at the line's end"
    log = run_log()
    [row for row in log if row["kind"] == "validation"][-1]["CIDEr-D"] = 0.1
    assert {"CIDEr-D\n0.100", "best 0.320"} <= set(notes(training_curves(log), 1))
    assert {"training loss\n3.000", "validation loss\n2.000"} <= set(notes(figure, 0))
    assert [text.get_text()[:50] for text in figure.texts[1:]] == ["The training loss is measured with dropout and lab"]
    over = [{**row, "loss": 9.0} if row["kind"] == "validation" else row for row in log]
    assert len(training_curves(over).texts) == 1
    assert figure.texts[0].get_text() == "A run"


def test_a_run_under_way_and_one_that_was_cut() -> None:
    log = run_log()
    figure = training_curves(log[:-3])  # two steps into the last epoch of four
    assert lines(figure, 0)[0][0][-2:] == [4.25, 4.5]
    assert lines(training_curves(log[7:]), 0)[2][0] == [1, 2, 3, 4], "a log may start late"
    assert lines(training_curves(log[:3]), 0)[0][0] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-5)


def test_a_stage_may_return_under_its_name() -> None:
    figure = training_curves(run_log((("decoder", 2), ("decoder", 1), ("features.0", 1))))
    assert [text.xy[0] for text in figure.axes[0].texts[:3]] == [0, 2, 3]
    assert notes(figure, 0)[:3] == ["decoder", "decoder", "features.0"]


@pytest.mark.parametrize("log", [[], run_log()[:1], run_log((("decoder", 1),)), [{"kind": "note"}]])
def test_short_logs_draw(log: list[dict]) -> None:
    render(training_curves(log))


def test_what_is_no_number_or_missing_is_left_out() -> None:
    log = run_log()
    log[2]["loss"] = math.nan
    log[3]["loss"] = math.inf
    del log[4]["CIDEr-D"]
    log[9]["loss"] = None
    figure = training_curves(log)
    assert len(lines(figure, 0)[0][0]) == 18
    assert lines(figure, 0)[2][0] == [1, 3, 4, 5]
    assert lines(figure, 1)[0][0] == [2, 3, 4, 5]
    render(figure)


def test_long_logs_are_smoothed_and_thinned() -> None:
    noise = np.random.default_rng(0).normal(3, 0.3, 9000)
    log = [{"kind": "step", "step": n + 1, "epoch": 1, "stage": "decoder", "loss": y} for n, y in enumerate(noise)]
    log[0]["loss"] = 50.0
    raw, smooth, _ = lines(training_curves(log), 0)
    assert len(raw[0]) <= 2000
    assert np.std(smooth[1][100:]) < 0.05
    assert training_curves(log).axes[0].get_ylim()[1] < 5, "the first losses do not flatten the rest"


def test_smoothing_is_over_a_hundredth_on_either_side() -> None:
    log = [{"kind": "step", "step": i + 1, "epoch": 1, "loss": float(i == 150)} for i in range(300)]
    _, (_, smooth), _ = lines(training_curves(log), 0)
    assert np.allclose(smooth[147:154], 1 / 7) and np.allclose(np.delete(smooth, range(147, 154)), 0)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0004, "<0.1"), (0.0341, "3.4"), (0.0994, "9.9"), (0.0995, "10"), (0.154, "15"), (1, "100")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == f"{text}\N{NO-BREAK SPACE}%"


def test_a_dark_photo_is_brightened_by_two_and_a_half_at_most() -> None:
    shown = overlay(np.full((2, 2, 3), 20, np.uint8), np.zeros((2, 2)))
    assert (shown == round(30 + 150 * 20 * 2.5 / 255)).all()


def test_names_at_the_lines_ends_do_not_cover_each_other() -> None:
    log = run_log()
    log[-1]["loss"] = log[-2]["loss"]
    figure = training_curves(log)
    render(figure)
    one, other = (text.get_window_extent() for text in figure.axes[0].texts if "loss" in text.get_text())
    assert not one.overlaps(other)


def test_curves_show_rewards_in_a_panel_of_their_own() -> None:
    """What a reward weights is no cross-entropy, and is not drawn as one."""
    steps = [{"kind": "step", "step": i, "stage": "decoder", "epoch": 1, "loss": 3.0} for i in range(1, 5)]
    rewarded = [
        {**row, "step": row["step"] + 4, "stage": "self-critical@decoder", "loss": 0.0, "reward": 0.4, "distinct": 0.9}
        for row in steps
    ]
    figure = training_curves(steps + rewarded)
    assert [y for _, y in lines(figure, 0)] == [[3.0] * 4, [3.0] * 4, []]
    assert [y for _, y in lines(figure, 2)] == [[0.4] * 4, [0.9] * 4]
    assert {"mean reward\n0.400", "distinct captions\n0.900"} == set(notes(figure, 2))
    assert len(training_curves(steps).axes) == 2
