"""The command line: verbs and what they print. Each verb imports what it needs when it runs: `--help` is instant.

Exit status: 0 all done; 1 some photos could not be captioned, the others were; 2 wrong input, nothing done;
130 interrupted."""

from __future__ import annotations

import os
import sys

import tyro

from captioner.cli import caption, diagnose, export, inside, look, score, train, web
from captioner.cli.options import app
from captioner.extras import remedy

# The files of verbs: imported, they join the application.
__all__ = ["caption", "diagnose", "export", "inside", "look", "main", "score", "train", "web"]

DESCRIPTION = "Photos in, sentences out, and a picture of where the model looked for each word."


def main() -> None:
    if hasattr(sys.stdout, "reconfigure"):  # captions and file names are Unicode, whatever the terminal's locale
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app.cli(prog="captioner", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt as interrupt:
        print(f"captioner: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        status = 130
    except ModuleNotFoundError as error:
        if (line := remedy(error)) is None:
            raise
        print(f"captioner: {line}", file=sys.stderr)
        status = 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"captioner: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
