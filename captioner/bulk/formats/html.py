"""A gallery: one HTML page with the photos, their captions and a search field, which needs no network.

The page refers to the photos by their paths relative to the page, so it must not be moved; of photos in .tar shards and
at addresses only the captions are shown. With `embed` it holds small copies of all photos and can be moved. Without it,
it holds copies only of photos in formats that browsers do not show."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from captioner.bulk.database import Row
from captioner.bulk.listing import path_of
from captioner.bulk.thumbnails import thumbnail
from captioner.confidence import is_unsure
from captioner.visualize.html import csp_hash

STATIC = Path(__file__).parents[1] / "static"
SHOWN = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # by all browsers
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
<noscript>This page needs JavaScript, which is turned off in this browser.</noscript>
<script type="application/json" id="photos">[
"""
END = "]</script>\n<script>{script}</script>\n</body>\n</html>\n"


def write(path: Path, rows: Iterable[Row], title: str = "Captions", embed: bool = False) -> None:
    style = (STATIC / "gallery.css").read_text(encoding="utf-8")
    script = (STATIC / "gallery.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; "
        f"img-src {'data:' if embed else '* file: data:'}; base-uri 'none'; form-action 'none'"
    )
    with path.open("w", encoding="utf-8") as file:
        file.write(START.format(policy=policy, title=html.escape(title), style=style))
        picture_of = _thumbnail if embed else partial(_address, page=path)
        for number, (row, picture) in enumerate(_with_pictures(rows, picture_of)):
            file.write(",\n" if number else "")
            file.write(_entry(row, picture))
        file.write(END.format(script=script))


def _entry(row: Row, picture: str | None) -> str:
    """The data of a photo for gallery.js."""
    if row.error is not None:
        kind, text = "error", row.error
    elif row.left_out is not None:
        kind, text = "left-out", f"left out: {row.left_out}"
    else:
        kind, text = "unsure" if is_unsure(row.confidence) else "", f"{row.caption}{'' if row.finished else ' …'}"
    entry = json.dumps([row.path, text, picture, kind, row.confidence], ensure_ascii=False)
    return entry.replace("<", "\\u003c")  # a path must not close the script element


def _address(row: Row, page: Path) -> str | None:
    """The photo's URL, relative to the page, or its thumbnail."""
    photo = path_of(row.path)
    if not photo.lower().endswith(SHOWN):
        return _thumbnail(row)
    if not os.path.isfile(photo):
        return None
    try:
        return quote(os.fsencode(Path(os.path.relpath(photo, page.parent)).as_posix()))
    except ValueError:  # on another drive
        return Path(photo).absolute().as_uri()


def _with_pictures(rows: Iterable[Row], picture_of: Callable[[Row], str | None]) -> Iterator[tuple[Row, str | None]]:
    waiting = iter(rows)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(waiting, CHUNK)):
            yield from zip(chunk, pool.map(picture_of, chunk), strict=True)


def _thumbnail(row: Row) -> str | None:
    """The thumbnail as a data URL; None if the photo can no longer be opened."""
    if row.error is not None:
        return None
    small = row.thumbnail or thumbnail(path_of(row.path))
    return None if small is None else f"data:image/webp;base64,{base64.b64encode(small).decode('ascii')}"
