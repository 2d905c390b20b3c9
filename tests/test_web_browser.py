"""The web page in a real browser: what a person does with it. Pictures of it are left in artifacts/."""

import base64
import http.client
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.images import open_image
from captioner.web.app import create_app
from captioner.web.guard import Guard
from captioner.web.service import Limits

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
SECONDS = 20  # in which anything that happens must have happened


@pytest.fixture(scope="module")
def captioner(tiny):
    return Captioner.load(tiny, device="cpu")


@pytest.fixture(scope="module")
def address(captioner, serve):
    return f"http://127.0.0.1:{serve(Guard(create_app(captioner, Limits(max_bytes=100_000))))}/"


@pytest.fixture(scope="module")
def photo(photos):
    return photos / "b.jpg"


class Page:
    """The page in the browser, by what a person finds there."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.until(lambda: self.one("#model").text)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, condition):
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < end, f"{self.one('#message').text!r}, {self.one('#progress').text!r}"
            time.sleep(0.02)
        return found

    def pick(self, file):
        self.one("#file").send_keys(str(file))

    def words(self):
        return self.run("return [...document.querySelectorAll('.word .text')].map((e) => e.textContent)")

    def said(self):
        """The words, once there are some and no setting is being tried."""
        return self.until(lambda: not self.all("body.busy") and self.words())

    def message(self):
        return self.until(lambda: self.one("#message").is_displayed() and self.one("#message p").text)

    def overlay(self):
        """The map over the photo, once it has come to rest."""
        look = "const c = document.querySelector('canvas.map'); return [getComputedStyle(c).opacity, c.toDataURL()]"
        seen = [self.run(look)]
        while len(seen) < 3 or seen[-1] != seen[-3]:
            time.sleep(0.15)
            seen.append(self.run(look))
            assert len(seen) < 60
        return float(seen[-1][0]), seen[-1][1]

    def hover(self, element):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).move_to_element(element).perform()

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def keep(self, name):
        """A picture of the whole page."""
        (ROOT / "artifacts").mkdir(exist_ok=True)
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        (ROOT / "artifacts" / f"web-{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture
def page(browser, look, address):
    """The page for a person who wants less motion: words are there at once."""
    look(calm=True)
    page = Page(browser, address)
    yield page
    asked = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []
    complaints = [entry["message"] for entry in browser.get_log("browser")]  # the page's policy would be among them
    assert [text for text in complaints if "the server responded with a status of 4" not in text] == []


def test_words_appear_one_by_one_with_their_maps(page, look, captioner, photo):
    look(calm=False)
    page.pick(photo)
    seen = []
    while not seen or seen[-1][0] < seen[-1][1] or page.all(".unsaid"):
        seen.append((len(page.all(".word:not(.unsaid)")), len(page.words()) or 99, len(page.all(".thumbnail.on"))))
        time.sleep(0.03)
        assert len(seen) < 600
    expected = captioner.caption(photo).words
    assert page.words() == expected
    counts = [count for count, _, _ in seen]
    assert sorted(set(counts)) == list(range(len(expected) + 1)) and counts == sorted(counts)
    assert any(on for count, _, on in seen if 0 < count < len(expected))


def test_hovering_a_word_changes_the_overlay(page, photo):
    page.pick(photo)
    page.said()
    assert page.overlay()[0] == 0
    seen = []
    for word in page.all(".word")[:3]:
        page.hover(word)
        seen.append(page.overlay())
    assert all(opacity > 0.5 for opacity, _ in seen) and len({pixels for _, pixels in seen}) == 3


def test_by_keyboard_alone(page, photo):
    from selenium.webdriver import Keys

    page.keys(Keys.TAB)
    assert page.run("return document.activeElement.id") == "pick"
    page.pick(photo)
    beam = page.said()
    page.run("document.querySelector('[value=beam]').focus()")
    page.keys(Keys.ARROW_RIGHT)  # sampling
    page.until(lambda: page.words() not in (beam, []))
    for _ in range(20):
        page.keys(Keys.TAB)
        if page.run("return document.activeElement.className") == "word":
            break
    first = page.overlay()
    page.keys(Keys.ARROW_RIGHT)
    assert [word.get_attribute("aria-pressed") for word in page.all(".word")][:2] == ["false", "true"]
    assert page.overlay() != first
    page.keys(Keys.ESCAPE)
    assert page.overlay()[0] == 0


def test_settings(page, captioner, photo):
    page.pick(photo)
    page.said()
    page.one("[name=num_captions]").send_keys("5")
    page.until(lambda: len(page.all("#captions li")) == 5)
    best = captioner.caption(photo, beam_size=5, num_captions=5)
    second = page.all("#captions button")[1]
    assert second.text.splitlines()[0].startswith(best.other_captions[0].text)
    second.click()
    assert page.words() == best.other_captions[0].words and second.get_attribute("aria-pressed") == "true"
    page.one("[value=greedy] + span").click()
    page.until(lambda: not page.one("#captions").is_displayed())
    page.until(lambda: page.words() == captioner.caption(photo, beam_size=1).words)
    page.one("[value=sample] + span").click()
    page.one("[name=seed]").clear()
    page.one("[name=seed]").send_keys("11")
    drawn = captioner.caption(photo, method="sample", top_p=0.9, seed=11, num_captions=5)
    page.until(lambda: page.words() == drawn.words)
    assert "seed=11" in page.one("#curl").get_attribute("textContent")
    page.one("[name=seed]").clear()  # no number; greedily, it does not matter
    page.one("[value=greedy] + span").click()
    page.until(lambda: page.words() == captioner.caption(photo, beam_size=1).words)


def test_dropped_and_pasted(page, captioner, photos):
    give = """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "a.png", { type: "image/png" }));
        document.body.dispatchEvent(arguments[1] === "drop"
          ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    """
    for how, name in (("drop", "a.png"), ("paste", "b.jpg")):
        page.run(give, base64.b64encode((photos / name).read_bytes()).decode(), how)
        page.until(lambda name=name: page.words() == captioner.caption(photos / name).words)


def test_the_camera(page):
    page.one("#camera").click()
    page.until(lambda: page.run("return document.getElementById('video').videoWidth"))
    page.keep("camera")
    page.one("#shoot").click()
    assert page.said() and not page.one("#viewfinder").is_displayed()
    page.until(lambda: page.run("return document.getElementById('video').srcObject === null"))  # the camera is off


def test_the_camera_is_asked_for_once(page):
    page.run("""
        window.tracks = [];
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (...how) => {
          const stream = await ask(...how);
          tracks.push(...stream.getTracks());
          return stream;
        };
        document.getElementById("camera").click();
        document.getElementById("camera").click();
    """)
    page.until(lambda: page.run("return document.getElementById('video').videoWidth"))
    page.one("#cancel").click()
    # a dialog reports that it has closed in a task of its own, so the camera goes off a moment later
    page.until(lambda: page.run("return tracks.map((track) => track.readyState)") == ["ended"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_webp_that_is_stored_turned(page, tmp_path, orientation):
    """Browsers do not agree what its EXIF data mean; it is shown as the server sees it."""
    corners = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(corners).resize((120, 80), Image.Resampling.NEAREST)
    stored.save(tmp_path / "a.webp", exif=exif, lossless=True)
    upright = open_image(tmp_path / "a.webp")
    page.pick(tmp_path / "a.webp")
    page.said()
    shown = page.run("""
        const image = document.querySelector(".stage img");
        const canvas = Object.assign(document.createElement("canvas"),
          { width: image.naturalWidth, height: image.naturalHeight });
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL("image/png");
    """)
    picture = Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))).convert("RGB")
    assert picture.size == upright.size == ((120, 80) if orientation < 5 else (80, 120))
    for x, y in ((15, 15), (65, 15), (15, 65), (65, 65)):
        np.testing.assert_allclose(picture.getpixel((x, y)), upright.getpixel((x, y)), atol=30)


def test_of_two_photos_the_last_is_shown(page, captioner, photos, tmp_path):
    """Also if the first is large and takes long to read."""
    Image.new("L", (6000, 4000)).save(tmp_path / "large.png")  # few bytes
    files = [base64.b64encode(path.read_bytes()).decode() for path in (tmp_path / "large.png", photos / "a.png")]
    give = """
        const file = (text, name) => new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name);
        for (const [i, text] of [...arguments].entries()) {
          const data = new DataTransfer();
          data.items.add(file(text, `${i}.png`));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }
    """
    page.run(give, *files)
    page.until(lambda: page.words() == captioner.caption(photos / "a.png").words)
    time.sleep(1.5)
    assert page.words() == captioner.caption(photos / "a.png").words
    assert page.run("return document.querySelector('.stage img').naturalWidth") == 50


def test_files_that_are_no_photos(page, photo, tmp_path):
    page.run("""
        const read = Blob.prototype.arrayBuffer; // a slow disk: the last photo's words and message must not outlive it
        Blob.prototype.arrayBuffer = async function () {
          await new Promise((resolve) => { setTimeout(resolve, 200); });
          return read.call(this);
        };
    """)
    page.pick(photo)
    page.said()
    for name, content, message in (
        ("cut.jpg", photo.read_bytes()[:500], "The photo: truncated or damaged"),
        ("text.png", b"no photo", "The photo: not a photo"),
        ("empty.jpg", b"", "The file is empty."),
        ("large.jpg", bytes(100_001), "The photo has more than 0.1 MB, the limit of this server."),
    ):
        (tmp_path / name).write_bytes(content)
        page.pick(tmp_path / name)
        assert message in page.message() and not page.one("#result").is_displayed()
        assert not page.one("#retry").is_displayed()
        page.keep(f"no-photo-{name.split('.')[0]}")
        page.pick(photo)
        page.said()
        assert not page.one("#message").is_displayed()


def test_the_server_is_gone_and_comes_back(page, photo):
    page.browser.execute_cdp_cmd("Network.enable", {})

    def connection(offline):
        conditions = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    connection(offline=True)
    try:
        page.pick(photo)
        assert "The server does not answer." in page.message()
        page.browser.get_log("browser")  # tells of it, too
    finally:
        connection(offline=False)
    page.one("#retry").click()
    assert page.said() and not page.one("#message").is_displayed()


def test_a_full_queue_is_waited_for(browser, look, tiny, serve, photo):
    captioner, gate = Captioner.load(tiny, device="cpu"), threading.Event()
    encode = captioner.backend.encode
    captioner.backend.encode = lambda images: gate.wait(SECONDS) and encode(images)
    port = serve(Guard(create_app(captioner, Limits(max_requests=1))))
    look(calm=True)
    page = Page(browser, f"http://127.0.0.1:{port}/")
    other = http.client.HTTPConnection("127.0.0.1", port)
    other.request("POST", "/api/caption", photo.read_bytes())
    page.pick(photo)
    page.until(lambda: "Many photos are waiting" in page.one("#progress").text)
    gate.set()
    assert page.said() and other.getresponse().status == 200
    other.close()


def test_downloads(page, photo, tmp_path):
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.pick(photo)
    words = page.said()
    for ending in ("json", "html", "png"):
        page.one(f"#save-{ending}").click()
        page.until((tmp_path / f"b.caption.{ending}").exists)
    data = json.loads((tmp_path / "b.caption.json").read_text())
    assert [entry["word"] for entry in data["words"]] == words and len(data["attention"]["maps"]) == len(words)
    picture = Image.open(tmp_path / "b.caption.png")
    assert picture.width == 1600 and picture.height > 400
    colourful = np.ptp(np.asarray(picture.convert("RGB"), dtype=int), axis=2) > 60
    assert 0.05 < colourful.mean() < 0.95
    (ROOT / "artifacts" / "web-download.png").write_bytes((tmp_path / "b.caption.png").read_bytes())
    page.browser.get((tmp_path / "b.caption.html").as_uri())
    assert page.words() == words and len(page.all(".thumbnail canvas")) == len(words)
    page.hover(page.all(".word")[0])
    assert page.overlay()[0] > 0.5


def test_the_api_is_described(page, address):
    page.browser.get(address + "docs")
    page.until(lambda: page.all(".route"))
    text = page.one("main").text
    for part in ("POST /api/caption", "beam_size", "integer, 1 to 20", "above 0 to 1", "503", "multipart/form-data"):
        assert part in text
    page.keep("docs")


def test_on_a_phone(page, look, photo):
    look(360, 740, calm=True)
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        page.browser.refresh()
        page.pick(photo)
        beam = page.said()
        page.one("[value=sample] + span").click()
        page.until(lambda: page.words() not in (beam, []))
        assert page.run("return document.documentElement.scrollWidth") == 360
        assert page.one("#take").is_displayed() and not page.one("#camera").is_displayed()
        small = [each.text for each in page.all("button") if each.is_displayed() and each.size["height"] < 32]
        assert small == []
        page.keep("phone")
    finally:
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_the_shipped_model_on_a_large_photo(browser, look, serve, tmp_path):
    """Also the pictures to look at: light and dark, before and after."""
    with Image.open(ROOT / "datasets" / "sample" / "dog.jpg") as dog:
        dog.resize((2400, 1800)).save(tmp_path / "dog.jpg")
    port = serve(Guard(create_app(Captioner.load(device="cpu"))))
    for dark in (False, True):
        look(calm=True, dark=dark)
        page = Page(browser, f"http://127.0.0.1:{port}/")
        theme = "dark" if dark else "light"
        page.keep(f"{theme}-empty")
        page.one("[name=num_captions]").send_keys("3")
        page.pick(tmp_path / "dog.jpg")
        assert "dog" in page.said()
        page.all(".word")[3].click()
        page.overlay()
        page.keep(theme)
        shade = page.run("return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]")
        assert (int(shade) < 60) == dark
        assert page.run("return document.querySelector('.stage img').naturalWidth") == 1600
