"""Standard input, output and error of the program, however they were given to it: closed, in another encoding, or a
pipe whose reader has gone. Nothing here knows a verb."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from contextlib import suppress


def prepare() -> None:
    """Make the three streams usable, and keep Pillow's own lines off them: they do not name the photo."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    nothing = io.TextIOWrapper(io.BufferedReader(io.BytesIO()))
    for name, replacement in (("stdin", nothing), ("stdout", _Closed()), ("stderr", io.StringIO())):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # else the next file that is opened would take the stream's number
            setattr(sys, name, replacement)
    if isinstance(sys.stdout, io.TextIOWrapper):  # captions and file names are Unicode, whatever the terminal's locale
        sys.stdout.reconfigure(errors="backslashreplace")


def report(message: str) -> None:
    """A line on standard error, if anyone reads it. Names in it may have line ends, which are escaped."""
    from captioner.images import printable

    with suppress(BrokenPipeError):
        print(f"captioner: {printable(message)}", file=sys.stderr, flush=True)


def discard() -> None:
    """Drop what is still buffered for a reader that has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Closed(io.TextIOBase):
    def write(self, text: str) -> int:
        raise OSError("standard output is closed; expected an open one. Redirect it to a file, or to /dev/null.")
