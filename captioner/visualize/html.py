"""The interactive page: one HTML file that contains the photo, data, script and style, and needs no network. Its script
is static/attention.js, its style static/attention.css; the web service serves the same two files."""

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


def save_page(path: str | Path, photo: Image.Image, view: dict[str, Any]) -> None:
    """Write `page` as a file."""
    with atomic_write(path) as partial:
        partial.write_bytes(page(photo, view).encode())


def page(photo: Image.Image, view: dict[str, Any], longest: int = PHOTO_PIXELS) -> str:
    """The HTML of the page for a `caption_view` and its photo. The photo is embedded as a JPEG of at most `longest`
    pixels per side. The content security policy allows the embedded script, style and pictures only."""
    script, style = asset("attention.js") + START, asset("attention.css") + BODY_STYLE
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = json.dumps({"data": view, "photo": data_url(photo, longest)}, allow_nan=False)
    return PAGE.format(
        policy=policy,
        title=html.escape(view["caption"]),
        style=style,
        data=data.replace("<", "\\u003c"),  # a word must not close the script element
        script=script,
    )


def frame(photo: Image.Image, view: dict[str, Any], longest: int = PHOTO_PIXELS, height: int = 720) -> str:
    """The page in a sandboxed iframe, for a notebook or another page. `height` is in pixels."""
    title, inside = html.escape(view["caption"]), html.escape(page(photo, view, longest))
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" srcdoc="{inside}" '
        f'style="width: 100%; height: {height}px; border: 0; resize: vertical;"></iframe>'
    )


@functools.cache
def asset(name: str) -> str:
    """The text of a file in static/."""
    return (STATIC / name).read_text(encoding="utf-8")


def data_url(photo: Image.Image, longest: int = PHOTO_PIXELS) -> str:
    """The photo as a data URL: a JPEG of at most `longest` pixels per side."""
    at_most(photo.convert("RGB"), longest).save(buffer := io.BytesIO(), "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def csp_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
