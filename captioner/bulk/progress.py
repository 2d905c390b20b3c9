"""The progress of a run: its counts, and a progress bar for the terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tqdm import tqdm

WITH_TOTAL = "{n_fmt}/{total_fmt} photos |{bar}| {rate_noinv_fmt}, {remaining} left{postfix}"
WITHOUT_TOTAL = "{n_fmt} photos, {rate_noinv_fmt}, {elapsed}{postfix}"


@dataclass
class Counts:
    """The counts of one run, in photos."""

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    """Already done by earlier runs."""
    failed_before: int = 0
    """Errors among the skipped ones."""
    left_out: int = 0
    """Captions in the file, from all runs, whose confidence is too low; set when the run ends."""
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        before = f" ({self.failed_before:,} of them failed before)" if self.failed_before else ""
        seconds = time.monotonic() - self.start
        return (
            f"{self.captioned:,} captioned, {self.failed:,} failed, {self.skipped:,} skipped{before}, {seconds:.1f} s"
        )


class Bar:
    """A progress bar on standard error, for use in a `with` statement, if `shown` is true and standard error is a
    terminal. `count` is called in a thread and returns the number of photos; without it, the remaining time is not
    shown."""

    def __init__(self, shown: bool, count: Callable[[], int] | None = None):
        self.counts = Counts()
        self._shown = shown and sys.stderr.isatty()
        self._count, self._total = count, 0
        look = {"unit": " photos", "dynamic_ncols": True, "bar_format": WITHOUT_TOTAL, "leave": False}
        self._tqdm = tqdm(disable=not self._shown, **look)

    def __enter__(self) -> Bar:
        if self._shown and self._count is not None:
            threading.Thread(target=self._find_total, args=(self._count,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tqdm.refresh()  # otherwise a short run ends before its counts are shown
        self._tqdm.close()

    def show(self, counts: Counts) -> None:
        self.counts = counts
        done = counts.captioned + counts.failed
        if self._total:
            self._tqdm.bar_format = WITH_TOTAL
            self._tqdm.total = max(done, self._total - counts.skipped)
        skipped = f", skipped: {counts.skipped:,}" if counts.skipped else ""
        self._tqdm.set_postfix_str(f"errors: {counts.failed:,}{skipped}", refresh=False)
        self._tqdm.update(done - self._tqdm.n)

    def print(self, line: str) -> None:
        """Print a line on standard error, above the bar."""
        tqdm.write(line, file=sys.stderr)

    def _find_total(self, count: Callable[[], int]) -> None:
        self._total = count()
