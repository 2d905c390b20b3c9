"""How a run goes on: its counts, and a bar for the terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tqdm import tqdm

BAR = "{n_fmt}/{total_fmt} photos |{bar}| {rate_fmt}, {remaining} left{postfix}"
BAR_WITHOUT_TOTAL = "{n_fmt} photos, {rate_fmt}, {elapsed}{postfix}"


@dataclass
class Counts:
    """Of one run, in photos."""

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    """Done by former runs."""
    failed_before: int = 0
    """Of those that were skipped."""
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        before = f" ({self.failed_before:,} of them failed before)" if self.failed_before else ""
        seconds = time.monotonic() - self.start
        return (
            f"{self.captioned:,} captioned, {self.failed:,} failed, {self.skipped:,} skipped{before}, {seconds:.1f} s"
        )


class Bar:
    """A bar on standard error, if that is a terminal and `shown` is true. `count` is called in a thread of its own and
    returns how many photos there are; without it no time is foretold."""

    def __init__(self, shown: bool, count: Callable[[], int] | None = None):
        self._total: int | None = None
        shown = shown and sys.stderr.isatty()
        self._tqdm = tqdm(disable=not shown, unit=" photos", dynamic_ncols=True, bar_format=BAR_WITHOUT_TOTAL)
        if shown and count is not None:
            threading.Thread(target=self._count, args=(count,), daemon=True).start()

    def _count(self, count: Callable[[], int]) -> None:
        self._total = count()

    def show(self, counts: Counts) -> None:
        done = counts.captioned + counts.failed
        if self._total is not None:
            self._tqdm.bar_format = BAR
            self._tqdm.total = max(done, self._total - counts.skipped)
        notes = f"{counts.failed:,} errors" + (f", {counts.skipped:,} skipped" if counts.skipped else "")
        self._tqdm.set_postfix_str(notes, refresh=False)
        self._tqdm.update(done - self._tqdm.n)

    def print(self, line: str) -> None:
        """A line above the bar."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self._tqdm.close()
