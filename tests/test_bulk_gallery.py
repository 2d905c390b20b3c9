"""The gallery, in a browser: opened as a file, as people open it."""

import shutil
import time
from itertools import islice
from pathlib import Path

import pytest
from chaos.fast_captioner import FastCaptioner
from PIL import Image

from captioner.bulk.database import Row
from captioner.bulk.formats import html
from captioner.bulk.listing import list_photos
from captioner.bulk.run import caption_into

pytestmark = pytest.mark.browser


class CaptionsFromBytes(FastCaptioner):
    """Reads what it captions."""

    def caption_many(self, photos, *settings):
        return super().caption_many((photo for photo in photos if photo.read()), *settings)


def rows(photos: Path) -> list[Row]:
    paths = [photos / "b.jpg", photos / "a.png", photos / "c.webp"]
    captions = ["a dog on a beach", 'a cat & a "dog" </script><b>', "a horse"]
    found = [Row(str(paths[n % 3]), f"{captions[n % 3]} {n}", 0.9, finished=True) for n in range(600)]
    return [*found, Row(str(photos / "broken#?.jpg"), error="broken#?.jpg: not a photo")]


def gallery(browser, path: Path):
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []


def state(browser):
    """The text of the counter; captions in the document; whether each photo in it is there."""
    return browser.execute_script("""
        return [document.querySelector("output").textContent,
            [...document.querySelectorAll("figcaption")].map((each) => each.textContent),
            [...document.images].map((image) => image.complete && image.naturalWidth > 0)]""")


def wait(browser, condition):
    end = time.monotonic() + 20
    while not condition(*state(browser)) and time.monotonic() < end:
        time.sleep(0.05)
    return state(browser)


def search(browser, query):
    browser.execute_script(
        """const field = document.querySelector("input"); field.value = arguments[0];
        field.dispatchEvent(new Event("input"))""",
        query,
    )
    return state(browser)


@pytest.mark.parametrize("embed", [False, True])
def test_a_gallery(browser, look, photos, tmp_path, embed):
    folder = tmp_path / "a # folder"
    folder.mkdir()
    path = folder / "gallery.html"
    html.write(path, rows(photos), embed=embed)
    gallery(browser, path)
    counter, captions, loaded = wait(browser, lambda counter, captions, loaded: all(loaded))
    assert counter == "601 photos"
    assert captions[:3] == ["a dog on a beach 0", 'a cat & a "dog" </script><b> 1', "a horse 2"]
    assert 10 < len(captions) < 100  # the others are not in the document
    assert all(loaded) and len(loaded) == len(captions)
    some = [f"a dog on a beach {n}" for n in (30, 300, 303, 306, 309, 330)]
    assert search(browser, "DOG bea 30")[:2] == ["6 of 601 photos", some]
    assert search(browser, "zebra")[:2] == ["0 of 601 photos", []]
    assert search(browser, "a.png 598")[1] == ['a cat & a "dog" </script><b> 598']
    search(browser, "")
    look(390, 800, dark=True)
    browser.execute_script("scrollTo(0, document.body.scrollHeight)")
    last = "broken#?.jpg: not a photo"
    _, captions, _ = wait(browser, lambda counter, captions, loaded: captions[-1] == last)
    assert captions[-2:] == ["a horse 599", last]
    assert captions[:-1] == sorted(captions[:-1], key=lambda text: int(text.split()[-1]))
    browser.execute_script("scrollTo(0, 0)")
    assert wait(browser, lambda counter, captions, loaded: captions[0][-1] == "0")[1][0] == "a dog on a beach 0"
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert all(name.startswith("data:" if embed else "file:") for name in asked)


def test_an_embedded_gallery_needs_nothing_but_itself(photos, tmp_path):
    html.write(tmp_path / "gallery.html", [Row(str(photos / "b.jpg"), "a dog", finished=True)], embed=True)
    text = (tmp_path / "gallery.html").read_text()
    assert "data:image/webp;base64," in text and "img-src data:;" in text
    html.write(tmp_path / "gallery.html", [Row(str(tmp_path / "gone.jpg"), "a dog", finished=True)], embed=True)
    assert "data:image" not in (tmp_path / "gallery.html").read_text()


def test_photos_that_browsers_do_not_show_have_thumbnails(browser, photos, tmp_path):
    Image.open(photos / "b.jpg").save(tmp_path / "b.tif")
    html.write(tmp_path / "gallery.html", [Row(str(tmp_path / "b.tif"), "a dog", finished=True)])
    gallery(browser, tmp_path / "gallery.html")
    assert wait(browser, lambda counter, captions, loaded: all(loaded))[1:] == [["a dog"], [True]]


def test_what_is_unsure_and_what_is_left_out_is_marked(browser, photos, tmp_path):
    path, reason = tmp_path / "gallery.html", "confidence 0.11 is below 0.2"
    photo = str(photos / "b.jpg")
    html.write(path, [Row(photo, "a dog", 0.3, finished=True), Row(photo, confidence=0.117, left_out=reason)])
    gallery(browser, path)
    assert state(browser)[1] == ["a dog (unsure)", f"left out: {reason}"]
    assert search(browser, "unsure")[1] == ["a dog (unsure)"]
    titles = browser.execute_script("return [...document.querySelectorAll('figure')].map((each) => each.title)")
    assert titles == [f"{photo}\nconfidence 0.30"]


def test_photos_that_are_no_files(photos, tmp_path):
    """Thumbnails come from the bytes that were read, even if a former run had no use for them."""
    shutil.make_archive(tmp_path / "00", "tar", photos)
    captioner, gallery = CaptionsFromBytes(), tmp_path / "gallery.html"

    def run(**options):
        counts = caption_into(gallery, list_photos([str(tmp_path / "00.tar")]), captioner, **options)
        return counts.captioned, gallery.read_text().count("data:image/webp")

    assert run() == (4, 0)
    caption_into(gallery, islice(list_photos([str(tmp_path / "00.tar")]), 2), captioner, embed=True)
    assert gallery.read_text().count("data:image/webp") == 2
    assert run(embed=True) == (0, 4)
    once = gallery.read_text()
    assert run(embed=True, redo=True) == (4, 4)
    assert gallery.read_text() == once
    gallery.unlink()  # and is written from the database
    caption_into(gallery, [], captioner, embed=True)
    assert gallery.read_text() == once
