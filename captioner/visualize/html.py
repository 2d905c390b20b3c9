"""The interactive page: one HTML file with photo, data, script and style in it, that asks no network. How it behaves is
written in static/attention.js, how it looks in static/attention.css; the web service serves the same two files."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.visualize.page import at_most, atomic_write

STATIC = Path(__file__).with_name("static")
PHOTO_PIXELS = 1280

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="captioner">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="caption"><p>{title}</p></main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
BODY_STYLE = """
html { background: #ffffff; }
body { margin: 0 auto; padding: 1.25rem; max-width: 72rem; font-family: sans-serif; }
@media (prefers-color-scheme: dark) { html { background: #161618; color: #f2f2f4; } }
"""
START = """
const { data, photo } = JSON.parse(document.getElementById("data").textContent);
captionerPage.show(document.getElementById("caption"), data, photo);
"""


def save_page(path: str | Path, photo: Image.Image, entry: dict[str, Any]) -> None:
    """`page`, written as a file."""
    with atomic_write(path) as partial:
        partial.write_bytes(page(photo, entry).encode())


def page(photo: Image.Image, entry: dict[str, Any], longest: int = PHOTO_PIXELS) -> str:
    """The HTML of the page that shows a `record` over its photo, which is embedded as a JPEG with at most `longest`
    pixels a side. Its policy allows the script and the style that are in it, pictures that are in it, and no more."""
    script, style = asset("attention.js") + START, asset("attention.css") + BODY_STYLE
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = json.dumps({"data": entry, "photo": data_url(photo, longest)}, allow_nan=False)
    return PAGE.format(
        policy=policy,
        title=html.escape(entry["caption"]),
        style=style,
        data=data.replace("<", "\\u003c"),  # so that no word ends the script element
        script=script,
    )


def frame(photo: Image.Image, entry: dict[str, Any], longest: int = PHOTO_PIXELS, height: int = 720) -> str:
    """The page inside an element of another page, such as a notebook, that it cannot touch. `height` in pixels."""
    title, inside = html.escape(entry["caption"]), html.escape(page(photo, entry, longest))
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" srcdoc="{inside}" '
        f'style="width: 100%; height: {height}px; border: 0; resize: vertical;"></iframe>'
    )


@functools.cache
def asset(name: str) -> str:
    """The text of a file in static/."""
    return (STATIC / name).read_text(encoding="utf-8")


def data_url(photo: Image.Image, longest: int = PHOTO_PIXELS) -> str:
    """The photo inside a URL: a JPEG with at most `longest` pixels a side."""
    at_most(photo.convert("RGB"), longest).save(buffer := io.BytesIO(), "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
