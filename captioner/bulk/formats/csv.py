"""CSV: one line per photo, with the best caption or the reason why there is none."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from captioner.bulk.database import Row

COLUMNS = ("path", "caption", "confidence", "log_probability", "finished", "left_out", "error")


def write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
