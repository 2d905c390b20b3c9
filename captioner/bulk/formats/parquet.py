"""Parquet: one row per photo, with the words as lists. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from captioner.bulk.database import Row

ROWS = 10_000  # in one row group


def write(path: Path | BinaryIO, rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float32())
    schema = pa.schema(
        {
            **{"path": pa.string(), "caption": pa.string(), "confidence": pa.float64()},
            **{"log_probability": pa.float64(), "finished": pa.bool_(), "left_out": pa.string(), "error": pa.string()},
            **{"words": texts, "log_probabilities": numbers, "other_captions": texts},
        }
    )
    waiting = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while part := [_columns(row) for row in islice(waiting, ROWS)]:
            writer.write_table(pa.Table.from_pylist(part, schema))


def _columns(row: Row) -> dict[str, Any]:
    columns = row._asdict()
    if (details := row.details) is not None:
        columns["words"] = [word["word"] for word in details["words"]]
        columns["log_probabilities"] = [word["log_probability"] for word in details["words"]]
        columns["other_captions"] = [other["caption"] for other in details.get("other_captions", [])]
    return columns
