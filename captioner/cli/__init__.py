"""The command line. Each verb imports what it needs when it runs, so `--help` is instant.

Exit status: 0 success; 1 some photos could not be captioned, the others were; 2 wrong input, nothing was done;
130 interrupted."""

from __future__ import annotations

import os
import sys

import tyro

from captioner.cli import caption, diagnose, export, inside, look, score, search, train, web
from captioner.cli.options import app
from captioner.extras import MissingExtraError, name_missing_extras

# Importing a module of verbs adds them to the application.
__all__ = ["caption", "diagnose", "export", "inside", "look", "main", "score", "search", "train", "web"]

DESCRIPTION = "Photos in, sentences out, and a picture of where the model looked for each word."


def main() -> None:
    if hasattr(sys.stdout, "reconfigure"):  # captions and file names are Unicode, whatever the terminal's locale
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with name_missing_extras():
            status = app.cli(prog="captioner", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    except BrokenPipeError:  # the reader (head, less) was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt as interrupt:
        print(f"captioner: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        status = 130
    except (ValueError, OSError, FloatingPointError, MissingExtraError) as error:
        print(f"captioner: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
