"""The files that show a caption: data, films and the interactive page, which is driven in a browser where there is one;
and that a mark in a photo is hot where it is, in each of them."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.captioner import Caption
from captioner.checkpoint.tensors import save_checkpoint
from captioner.config import ModelConfig
from captioner.decoding import Decoding
from captioner.images import ImageError, Preprocess, find_images, open_image
from captioner.step import choose_words
from captioner.visualize import caption_view, heat_map, level, overlay, save_caption
from captioner.visualize import html as pages
from captioner.visualize.animation import frames
from captioner.vocabulary import EOS, Vocabulary

NASTY = "</script><script>document.title='broken'</script>"


def dog(words: tuple[str, ...] = ("a", "dog", "runs"), size: tuple[int, int] = (640, 400)) -> dict:
    """The parts of a caption: word t looks at region 8 t of a grid of 7 x 7, and a little everywhere."""
    attention = np.full((len(words), 49), 0.4 / 49)
    attention[np.arange(len(words)), 8 * np.arange(len(words)) % 49] += 0.6
    return {
        "caption": " ".join(words),
        "words": list(words),
        "log_probabilities": [math.log((0.63, 0.32, 0.21)[t % 3]) for t in range(len(words))],
        "log_probability": -2.5,
        "attention": attention.reshape(len(words), 7, 7),
        "box": (0.0, 0.0, float(size[0]), float(size[1])),
        "alternatives": [[("cat", math.log(0.21)), ("<end>", -3.0)] for _ in words],
    }


def blotches(size: tuple[int, int], seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


# Data


def test_a_view() -> None:
    view = caption_view((640, 400), **dog())
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert view["caption"] == "a dog runs" and view["finished"] is True and view["log_probability"] == -2.5
    assert view["words"][1] == {
        "word": "dog",
        "log_probability": pytest.approx(math.log(0.32), abs=1e-6),
        "alternatives": [
            {"word": "cat", "log_probability": pytest.approx(math.log(0.21), abs=1e-6)},
            {"word": "<end>", "log_probability": -3.0},
        ],
    }
    assert view["photo"] == {"width": 640, "height": 400}
    attention = view["attention"]
    assert attention["grid"] == [7, 7] and attention["box"] == [0, 0, 640, 400]
    assert attention["top"] == pytest.approx(0.6 + 0.4 / 49, abs=1e-6)
    assert attention["maps"][1][8] == attention["top"].__round__(5) and attention["maps"][1][9] == 0.00816
    assert caption_view((640, 400), **{**dog(), "box": None})["attention"]["box"] == [0, 0, 640, 400]
    without = caption_view((640, 400), **{**dog(), "attention": None, "alternatives": None})
    assert without["attention"] is None and without["words"][0]["alternatives"] == []
    assert caption_view((1, 1), "", [], [], 0.0, attention=np.zeros((0, 7, 7)))["attention"]["maps"] == []


def test_a_record_says_whether_to_believe_it() -> None:
    living = caption_view((640, 400), **dog())["attention"]
    assert living["warning"] is None and living["movement"] == [0.6, 0.6] and len(living["entropy"]) == 3
    dead = caption_view((640, 400), **{**dog(), "attention": np.full((3, 7, 7), 1 / 49)})["attention"]
    assert "uniform" in dead["warning"] and dead["mean_movement"] == 0 and dead["entropy_share"] == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log_probabilities": [-1.0]}, "1 log-probabilities for 3 words"),
        ({"alternatives": [[]]}, "1 lists of alternatives for 3 words"),
        ({"attention": np.ones((2, 7, 7))}, r"\(2, 7, 7\) for 3 words"),
        ({"attention": np.ones((3, 49))}, r"expected \(3, h, w\)"),
        ({"attention": np.full((3, 7, 7), np.nan)}, "sum to 1"),
        ({"attention": np.full((3, 7, 7), -1)}, "negative"),
    ],
)
def test_parts_that_do_not_fit(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption_view((640, 400), **{**dog(), **wrong})


def test_data_files(tmp_path: Path) -> None:
    parts = {**dog(), "alternatives": [[("cat", -1.5), ("é", -2.0)], [], [("<end>", -3.0)]]}
    for name in ("a.json", "a.npz"):
        save_caption(tmp_path / name, Image.new("RGB", (640, 400)), **parts)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == caption_view((640, 400), **parts)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        arrays = dict(data)
    np.testing.assert_array_equal(arrays["attention"], parts["attention"])
    assert arrays["words"].tolist() == ["a", "dog", "runs"] and arrays["caption"] == "a dog runs"
    assert arrays["box"].tolist() == [0, 0, 640, 400] and arrays["size"].tolist() == [640, 400]
    assert arrays["finished"] and arrays["log_probability"] == -2.5
    np.testing.assert_allclose(arrays["log_probabilities"], parts["log_probabilities"], atol=1e-6)
    assert arrays["alternatives"].tolist() == [["cat", "é"], ["", ""], ["<end>", ""]]
    assert arrays["alternative_log_probabilities"].tolist() == [[-1.5, -2], [-np.inf, -np.inf], [-3, -np.inf]]


# Files


@pytest.mark.parametrize("name", ["a.png", "a.SVG", "a.pdf", "a.gif", "a.webp", "a.html", "a.json", "a.npz"])
def test_each_ending_and_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    save_caption(tmp_path / name, blotches((64, 40)), **dog())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    start = (tmp_path / name).read_bytes()[:16]
    kinds = {"png": b"PNG", "svg": b"<?xml", "pdf": b"%PDF", "gif": b"GIF89a", "webp": b"WEBP", "npz": b"PK"}
    assert kinds.get(name[2:].lower(), b"<!DOCTYPE" if name == "a.html" else b'{"caption"') in start


def test_files_that_cannot_be(tmp_path: Path) -> None:
    photo = Image.new("RGB", (64, 40))
    with pytest.raises(ValueError, match=r"\.gif, \.webp, \.html, \.json, \.npz"):
        save_caption(tmp_path / "a.txt", photo, **dog())
    for name in ("a.png", "a.gif"):
        with pytest.raises(ValueError, match=r"no attention.*\.html"):
            save_caption(tmp_path / name, photo, **{**dog(), "attention": None})
    assert not list(tmp_path.iterdir())
    for name in ("a.html", "a.json", "a.npz"):
        save_caption(tmp_path / name, photo, **{**dog(), "attention": None})


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.html", "a.npz"])
def test_an_empty_caption(tmp_path: Path, name: str) -> None:
    save_caption(tmp_path / name, Image.new("RGB", (64, 40)), **{**dog(()), "attention": None})
    assert (tmp_path / name).stat().st_size > 500


# Films


def blocks(pixels: np.ndarray) -> np.ndarray:
    """Means of 8 x 8 pixels, which see no dots."""
    return pixels.reshape(pixels.shape[0] // 8, 8, -1, 8, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_a_film_has_the_photo_and_a_frame_a_word(tmp_path: Path, name: str) -> None:
    photo = blotches((640, 400))
    save_caption(tmp_path / name, photo, **dog())
    with Image.open(tmp_path / name) as film:
        assert film.n_frames == 4 and film.info["loop"] == 0
        times, shown = [], []
        for index in range(4):
            film.seek(index)
            film.load()
            times.append(film.info["duration"])
            shown.append(np.asarray(film.convert("RGB"))[:400].astype(int))
    assert times == [1200, 800, 800, 2000]
    assert np.abs(blocks(shown[0]) - blocks(np.asarray(photo))).mean() < 4
    expected = frames(photo, dog()["words"], dog()["attention"])
    for picture, frame in zip(shown, expected, strict=True):
        assert np.abs(blocks(picture) - blocks(np.asarray(frame)[:400])).mean() < 4
    assert np.abs(shown[1] - shown[2]).mean() > 2


@pytest.mark.parametrize("size", [(640, 400), (300, 900), (2400, 100), (20, 900), (7, 5), (1, 1), (4000, 3000)])
def test_frames_of_photos_of_any_shape(size: tuple[int, int]) -> None:
    words = (*[f"word{t}" for t in range(11)], "antidisestablishmentarianism" * 3)
    pictures = frames(Image.new("RGB", size, "white"), words, dog(words)["attention"], None, [-1.0] * 12)
    assert len({picture.size for picture in pictures}) == 1 and len(pictures) == 13
    width, height = pictures[0].size
    assert 340 <= width <= 640 and height <= 1100
    margin = np.asarray(pictures[0].convert("L"))
    for edge in (margin[-6:], margin[-140:, :6], margin[-140:, -6:]):  # no text leaves the page
        assert edge.min() == 255


def test_the_current_word_is_marked() -> None:
    marked = []
    for picture in frames(Image.new("RGB", (640, 300)), ("one", "two", "three"), dog()["attention"])[1:]:
        text = np.asarray(picture)[300:].astype(int)
        rows, columns = np.nonzero((text - np.array([163, 38, 74])).__abs__().sum(axis=2) < 12)
        assert len(rows) > 300
        marked.append((columns.min(), columns.max()))
    assert marked[0][0] < 20
    assert marked[0][1] < marked[1][0] and marked[1][1] < marked[2][0]


# Where it looks, from the file to the pixels


class LooksAtWhatIsBright:
    """A backend whose attention is how bright each region of a 7 x 7 grid is. It says one word, then ends."""

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        side = pixels.shape[-1] // 7
        bright = pixels.mean(axis=1).reshape(len(pixels), 7, side, 7, side).mean(axis=(2, 4))
        bright = np.maximum(bright, 0).reshape(len(pixels), 49)
        return bright / bright.sum(axis=1, keepdims=True)

    def step(self, memory: np.ndarray):
        def step(words, rows, state, images, choose):
            wanted = 4 if state is None else EOS
            logits = np.full((len(words), 5), -9.0)
            logits[:, wanted] = 9
            return choose_words(logits, choose, memory[images]), "one word is said"

        return step


def looker(resize: str) -> Captioner:
    preprocess = Preprocess(224, resize, mean=(0, 0, 0), std=(1, 1, 1))  # type: ignore[arg-type]
    return Captioner(LooksAtWhatIsBright(), Vocabulary(["spot"]), preprocess, ModelConfig(), Decoding(beam_size=1))  # type: ignore[arg-type]


def marked_photo(size: tuple[int, int], box: tuple[float, ...], region: tuple[int, int], orientation: int) -> bytes:
    """A JPEG file that is stored turned, as its EXIF data says, and black but for one region of the grid."""
    left, top, right, bottom = box
    across, down = (right - left) / 7, (bottom - top) / 7
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x, y = left + region[1] * across, top + region[0] * down
    pixels[max(round(y), 0) : round(y + down), max(round(x), 0) : round(x + across)] = 255
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = Image.fromarray(pixels)
    stored = stored.transpose(turns[orientation]) if orientation in turns else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(buffer := io.BytesIO(), "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("size", "region"), [((640, 360), (2, 4)), ((300, 500), (4, 2))])
def test_the_mark_is_hot_in_the_pixels_of_the_photo(
    size: tuple[int, int], region: tuple[int, int], resize: str, orientation: int, tmp_path: Path
) -> None:
    """From the file, through EXIF turn, resize and search, to heat map, record and film: all peak on the mark."""
    captioner = looker(resize)
    left, top, right, bottom = box = captioner.preprocess.box(*size)
    caption = captioner.caption(marked_photo(size, box, region, orientation))
    assert caption.text == "spot" and caption.attention is not None
    x = left + (region[1] + 0.5) / 7 * (right - left)
    y = top + (region[0] + 0.5) / 7 * (bottom - top)
    assert 0 < x < size[0] and 0 < y < size[1]

    heat = heat_map(caption.attention[0], *size, caption.box)  # in the upright photo's pixels
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(column + 0.5 - x) < 2 and abs(row + 0.5 - y) < 2

    view = caption.view(*size)
    attention = view["attention"]
    peak_row, peak_column = divmod(int(np.argmax(attention["maps"][0])), attention["grid"][1])
    on_page = attention["box"]
    assert on_page[0] + (peak_column + 0.5) / 7 * (on_page[2] - on_page[0]) == pytest.approx(x)
    assert on_page[1] + (peak_row + 0.5) / 7 * (on_page[3] - on_page[1]) == pytest.approx(y)
    assert view["photo"] == {"width": size[0], "height": size[1]}

    film = frames(open_image(caption.photo), caption.words, caption.attention, caption.box)[1]  # type: ignore[arg-type]
    scale = 1 if max(size) <= 640 else 640 / max(size)
    start = max((340 - size[0]) // 2, 0)  # a narrow photo stands in the middle
    brightness = np.asarray(film.convert("L"), dtype=int)[: int(size[1] * scale), start : start + int(size[0] * scale)]
    rows, columns = np.nonzero(brightness > brightness.max() - 12)
    assert abs(columns.mean() / scale - x) < 12 and abs(rows.mean() / scale - y) < 12


# A caption and its photo


def test_a_caption_knows_its_photo(tiny: Path, photos: Path, tmp_path: Path) -> None:
    captioner = Captioner.load(tiny, device="cpu")
    paths = find_images([photos])
    captions = list(captioner.caption_many([paths[0], tmp_path / "absent.jpg", paths[1]], batch_size=2))
    assert [getattr(caption, "photo", None) for caption in captions] == [paths[0], None, paths[1]]
    several = captioner.caption(str(paths[0]), beam_size=3, num_captions=2)
    assert several.photo == several.other_captions[0].photo == str(paths[0])
    assert "photo" not in repr(several) and "photo" not in several.to_dict()
    several.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == several.view(*open_image(paths[0]).size)
    with pytest.raises(ValueError, match=r"caption\.of\(photo\)"):
        replace(several, photo=None).save(tmp_path / "b.json")


def test_notebooks_show_the_page_or_the_text(tmp_path: Path) -> None:
    photo = blotches((64, 40))
    photo.save(tmp_path / "a.png")
    parts = {key: value for key, value in dog().items() if key not in ("caption", "alternatives")}
    caption = Caption(text='a "<dog>"', score=-1.0, finished=True, **parts)
    shown = caption.of(tmp_path / "a.png")._repr_html_()
    source = re.fullmatch(
        r'<iframe .*sandbox="allow-scripts" srcdoc="([^"]*)" style="[^"]*"></iframe>', shown, re.DOTALL
    )
    assert source and html.unescape(source[1]) == pages.page(photo, caption.view(64, 40), 800)
    assert caption.of(photo)._repr_html_() == shown
    text = "<p>a &quot;&lt;dog&gt;&quot;</p>"
    with (tmp_path / "a.png").open("rb") as file:
        read = caption.of(file)
        assert read._repr_html_() == shown
        assert read._repr_html_() == shown, "a file can be read again"
    assert read._repr_html_() == text, "it was closed"
    with pytest.raises(ImageError, match=r"a.png: the file is closed; expected an open one, or its path\."):
        read.save(tmp_path / "b.html")
    (tmp_path / "a.png").unlink()
    assert caption.of(tmp_path / "a.png")._repr_html_() == text
    assert caption._repr_html_() == text


# The command line


@pytest.fixture
def attend(run, tiny):
    return lambda *arguments, checkpoint=tiny: run("attend", *arguments, "--checkpoint", checkpoint, "--device", "cpu")


def test_attend_to_many(attend, photos: Path, tmp_path: Path) -> None:
    status, out, err = attend(photos, tmp_path / "absent.jpg", "-o", tmp_path / "{name}.json")
    assert status == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "c.json"]
    assert out.splitlines()[1] == str(tmp_path / "a.json") and len(out.splitlines()) == 6
    assert err.splitlines()[0] == f"captioner: {tmp_path / 'absent.jpg'}: no such file; expected the path of a photo."
    assert err.splitlines()[1:] == ["captioner: 1 of 4 photos could not be captioned."]
    view = json.loads((tmp_path / "b.json").read_text())
    assert view["photo"] == {"width": 80, "height": 60}
    assert all(len(word["alternatives"]) == 4 for word in view["words"])
    for ending in (".gif", ".html"):
        assert attend(photos / "b.jpg", "-o", tmp_path / f"one{ending}")[0] == 0
        assert (tmp_path / f"one{ending}").stat().st_size > 3000


def test_attend_warns_of_dead_attention(attend, tiny, photos: Path, tmp_path: Path) -> None:
    captioner = Captioner.load(tiny, device="cpu")
    weights = captioner.backend.model.state_dict()
    weights["decoder.attention.key.weight"].zero_()
    save_checkpoint(tmp_path / "dead", weights, captioner.to_config(), "A dead model.\n")
    status, _, err = attend(photos / "b.jpg", "-o", tmp_path / "b.json", checkpoint=tmp_path / "dead")
    assert status == 0 and err.startswith(f"captioner: {photos / 'b.jpg'}: the attention is uniform")
    assert attend(photos / "b.jpg", "-o", tmp_path / "b.json")[2] == ""


def test_attend_refuses_before_any_work(attend, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes((photos / "b.jpg").read_bytes())
    (tmp_path / "b.png").write_bytes((photos / "a.png").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, complaint in (
        ((photos, "-o", tmp_path / "a.html"), "{name}.html"),
        ((photos / "b.jpg", tmp_path / "b.jpg", "-o", tmp_path / "{name}.html"), "would both be written to"),
        ((tmp_path / "b.png", "-o", tmp_path / "{name}.png"), "is one of the photos"),
        ((tmp_path / "b.png", "-o", tmp_path / "b.png", "--cells"), "is one of the photos"),
        ((photos, "-o", tmp_path / "{name}.png", "--cells"), "needs no {name}"),
        ((photos / "b.jpg", "-o", tmp_path), f"is a folder; expected a file in it, such as {tmp_path}/attention.png"),
        ((photos / "b.jpg", "-o", tmp_path / "a.png", "--num-captions", 2), "Leave --num-captions out"),
        ((photos / "b.jpg", "-o", tmp_path / "a.doc"), ".webp, .html, .json, .npz"),
        (("-o", tmp_path / "a.html"), "no photos"),
    ):
        status, out, err = attend(*arguments)
        assert (status, out) == (2, "") and complaint in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# The page, as text


def test_the_page_is_one_file_that_asks_no_network() -> None:
    text = pages.page(blotches((3000, 1000)), caption_view((3000, 1000), **dog(size=(3000, 1000))))
    assert not re.search(r"https?://|//[a-z]+\.|@import|\burl\(|\bsrc=", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1] and " style=" not in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])  # type: ignore[index]
    assert data["data"] == caption_view((3000, 1000), **dog(size=(3000, 1000)))
    kind, photo = data["photo"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(photo))).size == (1280, 427)


def test_no_word_breaks_out_of_the_page() -> None:
    words = (NASTY, "<!--", "</title>", '"onload="x', "é\u2028")
    text = pages.page(Image.new("RGB", (9, 9)), caption_view((9, 9), **dog(words)))
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<!--" not in text
    assert text.count("</title>") == 1 and text.count("</main>") == 1


# The page, in a browser


@pytest.fixture
def show(browser, tmp_path):
    """Writes the page of a caption and opens it, from its file."""
    from selenium.webdriver.support.ui import WebDriverWait

    def show(photo: Image.Image | None = None, **parts):
        photo = photo or blotches((640, 400))
        path = tmp_path / "page.html"
        save_caption(path, photo, **(parts or dog()))
        browser.get(path.as_uri())
        wanted = len(parts.get("words", dog()["words"])) if parts.get("attention", 0) is not None else 0
        WebDriverWait(browser, 10).until(lambda _: len(all_of(browser, ".thumbnail")) == wanted)
        return browser

    yield show
    assert browser.get_log("browser") == [], "nothing in the browser's console"


def all_of(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def one(browser, selector: str):
    (element,) = all_of(browser, selector)
    return element


def texts(browser, selector: str) -> list[str]:
    return [element.text for element in all_of(browser, selector)]


def until(browser, condition) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 5, 0.05).until(lambda _: condition())


def hover(browser, element) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(element).perform()


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def opacity(browser) -> float:
    return float(browser.execute_script("return getComputedStyle(document.querySelector('.map')).opacity"))


def pixels_of(browser, selector: str = ".map") -> np.ndarray:
    """What a canvas shows: (H, W, 3)."""
    url = browser.execute_script(f"return document.querySelector('{selector}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


@pytest.mark.browser
def test_the_page_says_what_the_record_says(show) -> None:
    browser = show()
    assert browser.title == "a dog runs"
    assert texts(browser, ".word .text") == ["a", "dog", "runs"]
    assert texts(browser, ".word .share") == ["63 %", "32 %", "21 %"]
    labels = [word.get_attribute("aria-label").replace("\u00a0", " ") for word in all_of(browser, ".word")]
    assert labels == ["a, 63 %, looks mostly at the top left", "dog, 32 %, looks mostly at the top left",
                      "runs, 21 %, looks mostly at the centre"]  # fmt: skip
    assert texts(browser, ".thumbnail") == ["a", "dog", "runs"]
    assert texts(browser, ".numbers span") == ["0", "15 %", "61 %"]
    assert one(browser, ".captioner").aria_role in ("region", "Region")
    until(browser, lambda: one(browser, "[role=status]").get_property("textContent") == "Caption: a dog runs")
    assert opacity(browser) == 0


@pytest.mark.browser
def test_hovering_shows_the_map_and_the_other_words(show) -> None:
    browser = show()
    assert "60 % of the attention moves" in one(browser, ".figures").text
    word = all_of(browser, ".word")[1]
    hover(browser, word)
    until(browser, lambda: opacity(browser) == 1)
    assert word.get_attribute("aria-pressed") == "true"
    assert texts(browser, ".chosen") == ["dog 32 %"] and texts(browser, ".where") == ["looks mostly at the top left"]
    assert texts(browser, ".figures") == ["entropy 56 % of the maximum, 60 % moved since “a”"]
    assert texts(browser, ".other .text") == ["cat", "<end>"]
    assert texts(browser, ".badge") == ["dog 32 %"]
    before = pixels_of(browser)
    hover(browser, all_of(browser, ".other")[0])
    until(browser, lambda: texts(browser, ".badge") == ["cat? 21 %"])
    assert "before the word is chosen" in one(browser, ".step .note").text
    assert "not chosen" in all_of(browser, ".other")[0].get_attribute("aria-label")
    np.testing.assert_array_equal(pixels_of(browser), before)  # the step's map, whatever the word
    hover(browser, all_of(browser, ".thumbnail")[2])
    until(browser, lambda: texts(browser, ".badge") == ["runs 21 %"])
    until(browser, lambda: np.abs(pixels_of(browser) - before).mean() > 2)


@pytest.mark.browser
def test_tapping_pins_a_word_until_it_is_tapped_again(show) -> None:
    browser = show()
    words = all_of(browser, ".word")
    words[0].click()
    hover(browser, words[2])
    until(browser, lambda: texts(browser, ".chosen b") == ["runs"])
    hover(browser, one(browser, ".ramp"))
    until(browser, lambda: texts(browser, ".chosen b") == ["a"])
    words[0].click()
    until(browser, lambda: opacity(browser) == 0)
    assert texts(browser, ".chosen") == [] and words[0].get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_the_keyboard_alone(show) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = show()
    focused = "return document.activeElement.textContent"
    press(browser, Keys.RIGHT)  # at once, before anything has the focus
    assert browser.execute_script(focused).startswith("a63")
    browser = show()
    press(browser, Keys.TAB)
    assert browser.execute_script(focused).startswith("a63")
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    until(browser, lambda: texts(browser, ".chosen b") == ["a"])
    for key, word in (
        (Keys.RIGHT, "dog"),
        (Keys.END, "runs"),
        (Keys.RIGHT, "runs"),
        (Keys.LEFT, "dog"),
        (Keys.HOME, "a"),
    ):
        press(browser, key)
        assert browser.execute_script(focused).startswith(word) and texts(browser, ".chosen b") == [word]
    press(browser, Keys.RIGHT, Keys.TAB)
    assert browser.execute_script(focused).startswith("cat")
    assert texts(browser, ".badge b") == ["cat?"]
    press(browser, Keys.TAB, Keys.TAB, *[Keys.LEFT] * 10)
    assert one(browser, "input").get_property("value") == "90"
    until(browser, lambda: opacity(browser) == pytest.approx(0.9))
    press(browser, Keys.ESCAPE)
    until(browser, lambda: opacity(browser) == 0)


@pytest.mark.browser
@pytest.mark.parametrize("box", [(0, 0, 640, 400), (120.0, 0.0, 520.0, 400.0), (0.0, -120.0, 640.0, 520.0)])
def test_the_page_draws_what_python_draws(browser, box) -> None:
    """Two roads: canvas and NumPy, from the same photo, which is lossless here."""
    photo = blotches((640, 400), seed=3)
    random = np.random.default_rng(1).dirichlet(np.full(35, 0.3), size=2).reshape(2, 5, 7)
    view = caption_view((640, 400), "a b", ["a", "b"], [-1.0, -1.0], -2.0, True, random, box)
    photo.save(buffer := io.BytesIO(), "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    browser.get("data:text/html,<main></main>")
    browser.execute_script(pages.asset("attention.js"))
    browser.execute_async_script(
        """const [view, url, done] = arguments;
        captionerPage.show(document.querySelector("main"), view, url, {selected: 1});
        document.querySelector("img").decode().then(() => setTimeout(done, 100));""",
        view, url,
    )  # fmt: skip
    maps = np.array(view["attention"]["maps"][1]).reshape(5, 7)
    heat = heat_map(maps, 640, 400, box)
    expected = overlay(np.asarray(photo), level(heat, view["attention"]["top"])).astype(int)
    shown = pixels_of(browser)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() <= 2 and np.abs(shown - expected).mean() < 0.3


@pytest.mark.browser
def test_dead_attention_is_told(show) -> None:
    browser = show(blotches((640, 400)), **{**dog(), "attention": np.full((3, 7, 7), 1 / 49)})
    assert "every word attends to the whole photo" in one(browser, ".warning").text
    browser = show(blotches((640, 400)), **dog())
    assert not all_of(browser, ".warning")


@pytest.mark.browser
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_mark_is_hot_on_the_page(show, orientation) -> None:
    """What a person sees: the hottest place of the picture in the window, against the mark's place in the photo."""
    captioner, size, region = looker("crop"), (600, 360), (2, 4)
    left, top, right, bottom = box = captioner.preprocess.box(*size)
    caption = captioner.caption(marked_photo(size, box, region, orientation))
    browser = show(open_image(caption.photo), **caption._parts())
    all_of(browser, ".word")[0].click()
    until(browser, lambda: opacity(browser) == 1)
    browser.execute_script("document.querySelector('.badge').remove()")
    picture = Image.open(io.BytesIO(one(browser, ".stage").screenshot_as_png)).convert("L")
    picture.paste(0, (0, 0, 9, 9))  # the rounded corners are as bright as the page
    picture.paste(0, (picture.width - 9, 0, picture.width, 9))
    picture.paste(0, (0, picture.height - 9, 9, picture.height))
    picture.paste(0, (picture.width - 9, picture.height - 9, picture.width, picture.height))
    bright = np.asarray(picture, dtype=int)
    rows, columns = np.nonzero(bright > bright.max() - 12)
    x, y = left + (region[1] + 0.5) / 7 * (right - left), top + (region[0] + 0.5) / 7 * (bottom - top)
    assert abs(columns.mean() * size[0] / picture.width - x) < 12
    assert abs(rows.mean() * size[1] / picture.height - y) < 12


@pytest.mark.browser
@pytest.mark.parametrize("size", [(640, 400), (300, 900), (2400, 100), (20, 900), (7, 5)])
@pytest.mark.parametrize("width", [360, 1200])
def test_photos_of_any_shape_fit(show, look, size, width) -> None:
    look(width)
    words = (*["snowboarding"] * 14, "antidisestablishmentarianism" * 3)
    browser = show(blotches(size), **dog(words, size))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    all_of(browser, ".word")[3].click()
    places = browser.execute_script(
        """const places = {};
        for (const element of document.querySelectorAll(".stage, .word, .side, .other, .legend, .slider")) {
          (places[element.classList[0]] ??= []).push(element.getBoundingClientRect().toJSON());
        }
        return places;"""
    )
    assert len(places) == 6
    for place in itertools.chain(*places.values()):
        assert place["left"] >= 0 and place["right"] <= width and place["width"] > 0
    (stage,) = places["stage"]
    assert stage["height"] <= 560 and stage["width"] >= 4 and stage["height"] >= 4
    if 0.2 < size[0] / size[1] < 5:
        assert stage["width"] / stage["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    assert len({place["top"] for place in places["word"]}) > 1, "a long caption wraps"


@pytest.mark.browser
def test_the_strip_follows_on_a_phone(show, look) -> None:
    look(360, 700, calm=True)
    words = tuple(f"word{t}" for t in range(15))
    browser = show(**dog(words))
    middle = (
        "const r = document.querySelectorAll('.thumbnail')[14].getBoundingClientRect(); return (r.left + r.right) / 2"
    )
    assert browser.execute_script(middle) > 360
    browser.execute_script("document.querySelectorAll('.word')[14].click()")
    until(browser, lambda: browser.execute_script(middle) < 340)


@pytest.mark.browser
def test_nasty_words_are_words(show) -> None:
    words = (NASTY, "<b>", "&amp;")
    browser = show(**dog(words))
    assert texts(browser, ".word .text") == list(words)
    assert browser.title == " ".join(words) and len(all_of(browser, ".captioner b")) == 1  # the empty badge's


@pytest.mark.browser
def test_dark_and_calm(show, look) -> None:
    def colour(name: str) -> int:
        value = browser.execute_script(f"return getComputedStyle(document.querySelector('.captioner')).{name}")
        return sum(map(int, re.findall(r"\d+", value)[:3]))

    browser = show()
    assert colour("backgroundColor") > 700 and colour("color") < 120
    look(dark=True, calm=True)
    browser.refresh()
    until(browser, lambda: len(all_of(browser, ".thumbnail")) == 3)
    assert colour("backgroundColor") < 120 and colour("color") > 700
    browser.execute_script("document.querySelectorAll('.word')[1].click()")
    assert opacity(browser) == 1, "at once"


@pytest.mark.browser
def test_a_model_without_attention(show) -> None:
    browser = show(**{**dog(), "attention": None})
    assert "no attention" in one(browser, ".note").text
    assert all_of(browser, "canvas") == [] and all_of(browser, "input") == []
    all_of(browser, ".word")[1].click()
    assert texts(browser, ".other .text") == ["cat", "<end>"]
    assert all_of(browser, ".word")[1].get_attribute("aria-label") == "dog, 32\u00a0%"


@pytest.mark.browser
def test_the_script_in_another_page(browser) -> None:
    """As the web page uses it: shown again and again, revealed word by word, selected, destroyed."""
    url = pages.data_url(blotches((64, 40)))
    browser.get("data:text/html,<main>old</main>")
    browser.execute_script(pages.asset("attention.js"))
    browser.execute_script(
        """[window.view, window.url] = arguments;
        window.main = document.querySelector("main");
        window.seen = [];
        window.tell = {onSelect: (i) => seen.push(i)};
        window.start = (options) => captionerPage.show(main, view, url, {...tell, ...options});
        window.message = (act) => { try { act() } catch (error) { return error.message } };""",
        caption_view((64, 40), **dog(size=(64, 40))), url,
    )  # fmt: skip
    browser.execute_script("start(); window.handle = start({reveal: 30})")
    assert len(all_of(browser, ".captioner")) == 1
    until(browser, lambda: browser.execute_script("return seen.length") == 4)
    assert browser.execute_script("return seen") == [0, 1, 2, None]
    assert all_of(browser, ".unsaid") == []
    browser.execute_script("handle.select(2)")
    until(browser, lambda: one(browser, "[role=status]").get_property("textContent").startswith("runs, 21"))
    assert "3 words" in browser.execute_script("return message(() => handle.select(3))")
    browser.execute_script("window.handle = start({reveal: 5000, opacity: 0.5}); main.querySelector('.word').click()")
    assert all_of(browser, ".unsaid") == [], "a person interfered"
    assert browser.execute_script("return main.querySelector('.map').style.opacity") == "0.5"
    wrong = "captionerPage.show(main, {...view, attention: {maps: []}}, url)"
    assert "0 maps for 3 words" in browser.execute_script(f"return message(() => {wrong})")
    assert len(all_of(browser, ".captioner")) == 1, "what stood there still stands"
    browser.execute_script("handle.destroy()")
    assert one(browser, "main").get_property("innerHTML") == ""
    browser.execute_script("captionerPage.show(main, view, 'data:image/png;base64,AA')")
    until(browser, lambda: "could not be shown" in one(browser, "main").text)


@pytest.mark.browser
def test_several_captions_in_a_notebook(browser, tmp_path) -> None:
    one_photo, other_photo = blotches((64, 40)), blotches((40, 64), 1)
    parts = {key: value for key, value in dog().items() if key not in ("caption", "alternatives")}
    caption = Caption(text="a dog runs", score=-1.0, finished=True, **parts)
    shown = caption.of(one_photo)._repr_html_() + caption.of(other_photo)._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{shown}</body>")
    browser.get((tmp_path / "notebook.html").as_uri())
    for frame in all_of(browser, "iframe"):
        browser.switch_to.frame(frame)
        until(browser, lambda: len(all_of(browser, ".thumbnail")) == 3)
        all_of(browser, ".word")[1].click()
        assert texts(browser, ".chosen b") == ["dog"]
        browser.switch_to.default_content()
    assert browser.get_log("browser") == []
