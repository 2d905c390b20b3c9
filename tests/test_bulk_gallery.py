"""The gallery, in a browser: opened as a file, as people open it."""

import time
from pathlib import Path

import pytest

from captioner.bulk.database import Row
from captioner.bulk.formats import html

pytestmark = pytest.mark.browser


def rows(photos: Path) -> list[Row]:
    paths = [photos / "b.jpg", photos / "a.png", photos / "c.webp"]
    captions = ["a dog on a beach", 'a cat & a "dog" </script><b>', "a horse"]
    found = [Row(str(paths[n % 3]), f"{captions[n % 3]} {n}", -1.0, True) for n in range(600)]
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
    html.write(tmp_path / "gallery.html", [Row(str(photos / "b.jpg"), "a dog", -1.0, True)], embed=True)
    text = (tmp_path / "gallery.html").read_text()
    assert "data:image/webp;base64," in text and "img-src data:;" in text
    html.write(tmp_path / "gallery.html", [Row(str(tmp_path / "gone.jpg"), "a dog", -1.0, True)], embed=True)
    assert "data:image" not in (tmp_path / "gallery.html").read_text()
