"""A gallery: one HTML page with the photos, their captions and a search field, that asks no network.

The page shows the photos themselves, by their paths relative to the page, so it has to stay where it is. With `embed`
it holds small copies of them and can go anywhere. Photos in .tar shards are shown by their captions only."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from captioner.bulk.database import Row
from captioner.images import ImageError, open_reduced
from captioner.visualize.html import csp_hash
from captioner.visualize.page import at_most

STATIC = Path(__file__).parents[1] / "static"
THUMBNAIL = 256  # pixels of the longer side
CHUNK = 100  # photos that are scaled down at a time

START = """<!DOCTYPE html>
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
<header>
<h1>{title}</h1>
<input type="search" placeholder="Search the captions" aria-label="Search the captions">
<output></output>
</header>
<main></main>
<noscript>The photos are shown by a script, which is switched off in this browser.</noscript>
<script type="application/json" id="photos">[
"""
END = "]</script>\n<script>{script}</script>\n</body>\n</html>\n"


def write(path: Path, rows: Iterable[Row], title: str = "Captions", embed: bool = False) -> None:
    style = (STATIC / "gallery.css").read_text(encoding="utf-8")
    script = (STATIC / "gallery.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; "
        f"img-src {'data:' if embed else '* file:'}; base-uri 'none'; form-action 'none'"
    )
    with path.open("w", encoding="utf-8") as file:
        file.write(START.format(policy=policy, title=html.escape(title), style=style))
        pictures = _with_thumbnails(rows) if embed else ((row, _address(row.path, path)) for row in rows)
        for number, (row, picture) in enumerate(pictures):
            file.write(",\n" if number else "")
            file.write(_entry(row, picture))
        file.write(END.format(script=script))


def _entry(row: Row, picture: str | None) -> str:
    """What gallery.js knows of a photo."""
    text = row.error if row.caption is None else row.caption + ("" if row.finished else " …")
    entry = json.dumps([row.path, text, picture, row.caption is None], ensure_ascii=False)
    return entry.replace("<", "\\u003c")  # a path must not close the script element


def _address(photo: str, page: Path) -> str | None:
    """The photo's URL, relative to the page."""
    if not os.path.isfile(photo):
        return None
    try:
        return quote(Path(os.path.relpath(photo, page.parent)).as_posix())
    except ValueError:  # another drive
        return Path(photo).absolute().as_uri()


def _with_thumbnails(rows: Iterable[Row]) -> Iterator[tuple[Row, str | None]]:
    waiting = iter(rows)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(waiting, CHUNK)):
            yield from zip(chunk, pool.map(_thumbnail, chunk), strict=True)


def _thumbnail(row: Row) -> str | None:
    """A small WebP inside a URL; None if the photo cannot be opened any more."""
    if row.caption is None:
        return None
    try:
        image, _ = open_reduced(row.path, THUMBNAIL)
    except ImageError:
        return None
    at_most(image, THUMBNAIL).save(buffer := io.BytesIO(), "WEBP", quality=60, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
