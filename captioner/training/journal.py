"""The log of a training run: one JSON object per line in `log.jsonl`, and the same figures for TensorBoard. A resumed
run drops what was logged after the step at which it resumes."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

from captioner import distributed


def read_log(path: Path) -> list[dict]:
    """The rows of a log. An incomplete last line, left by a crash, is dropped. Raises ValueError for any other damaged
    line."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number}: damaged; expected a JSON object with kind and step. Delete the line."
            )
    return rows


def _row(line: str) -> dict | None:
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row:
            return row
    return None


class Journal:
    def __init__(self, directory: Path, step: int = 0, validated: bool = True):
        """Continue after `step`; `validated` says whether to keep a validation at exactly that step."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = directory / "log.jsonl"
        kept = [
            row for row in read_log(self.path)
            if row["step"] < step or (row["step"] == step and (validated or row["kind"] != "validation"))
        ]  # fmt: skip
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, **values: object) -> None:
        """Log one row. Numbers also go to TensorBoard, as `kind/name`. A number that is not finite is logged as null
        and left out of TensorBoard."""
        values = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        self.file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


class SilentJournal(Journal):
    """Writes nothing."""

    def __init__(self, directory: Path):
        self.path = directory / "log.jsonl"

    def write(self, kind: str, step: int, **values: object) -> None:
        pass

    def close(self) -> None:
        pass


def open_journal(directory: Path, step: int, validated: bool) -> Journal:
    """If there are several processes, only the main one writes."""
    return Journal(directory, step, validated) if distributed.is_main() else SilentJournal(directory)
