"""Full-text search in the captions of a database."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from captioner.bulk.database import database_of

TERM = re.compile(r'("[^"]*"|[^\s"*]+)(\*?)')
QUERY = """
SELECT path, captions.caption, confidence, log_probability FROM search JOIN captions ON captions.id = search.rowid
WHERE search MATCH ? ORDER BY search.rank, captions.id LIMIT ?
"""


class Found(NamedTuple):
    path: str
    caption: str
    confidence: float | None
    log_probability: float


def search(file: Path, query: str, limit: int = 20, some: bool = False) -> list[Found]:
    """The photos whose captions have all words of the query (with `some`: at least one), best first, ranked by BM25,
    which favours rare words and short captions. Words are stemmed: `dogs` finds `dog`.

    A query consists of words, prefixes (`surf*`) and phrases (`"on a beach"`). `file` is the database or a file that
    was written from it."""
    if limit < 1:
        raise ValueError(f"the limit is {limit}; expected at least 1.")
    path = database_of(file)
    if not path.is_file():
        if os.path.isfile(query) or os.path.isfile(f"{query}.sqlite"):
            raise ValueError(f"the words come before the file: captioner search {file} {query}")
        raise FileNotFoundError(f"no such file: {path}. Write it with: captioner caption PATH -o {file}")
    terms = [term if term[0] == '"' else f'"{term}"' for term, _ in TERM.findall(query)]
    terms = [f"{term} {star}" for term, (_, star) in zip(terms, TERM.findall(query), strict=True)]
    if not terms:
        raise ValueError("the query is empty; expected words, such as: dog beach.")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as sqlite:
            found = sqlite.execute(QUERY, ((" OR " if some else " AND ").join(terms), limit)).fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be searched ({error}); expected a file that captioner wrote.") from error
    return [Found(*row) for row in found]
