"""JSON lines: one object per photo, as `captioner caption --json` prints it, with an error in place of a missing
caption."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.bulk.database import Row


def write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"path": row.path, **_entry(row)}, ensure_ascii=False) + "\n")


def _entry(row: Row) -> dict[str, Any]:
    if row.left_out is not None:
        return {"confidence": row.confidence, "left_out": row.left_out}
    return {"error": row.error} if row.details is None else row.details
