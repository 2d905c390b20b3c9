"""The verb search: photos by their captions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from captioner.cli.options import app, print_json


@app.command
def search(
    query: tyro.conf.Positional[str],
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help_behavior_hint="")],
    /,
    limit: int = 20,
    json: bool = False,
) -> int:
    """Find photos by words in their captions, best match first. The exit status is 1 if there are none.

    Args:
        query: Words, prefixes ('begin*') or phrases ('"a phrase"'). Lists photos with all of them, or else with some.
        file: A file written by `captioner caption -o FILE`.
        limit: Maximum number of photos to list.
        json: One JSON object per line, for programs.
    """
    from captioner.bulk.search import search
    from captioner.confidence import is_unsure
    from captioner.images import printable

    found = search(file, query, limit)
    if not found and (found := search(file, query, limit, some=True)):
        print("captioner: no caption has all of these words; these have some of them.", file=sys.stderr)
    for photo in found:
        if json:
            print_json(photo._asdict())
        else:
            mark = " (unsure)" if is_unsure(photo.confidence) else ""
            print(f"{printable(photo.path)}: {printable(photo.caption)}{mark}")
    if not found:
        print("captioner: no caption has any of these words.", file=sys.stderr)
    return 0 if found else 1
