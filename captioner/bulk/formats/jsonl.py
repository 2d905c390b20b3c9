"""JSON lines: one object per photo, the same as `captioner caption --json` prints; an error in place of a caption."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from captioner.bulk.database import Row


def write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            entry = {"path": row.path, **({"error": row.error} if row.details is None else row.details)}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
