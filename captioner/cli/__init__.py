"""The command line. Each verb imports what it needs when it runs, so `--help` is instant.

Exit status: 0 success; 1 some photos could not be captioned, the others were; 2 wrong input, nothing was done;
130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from captioner import __version__
from captioner.cli import (
    caption,
    confidence,
    diagnose,
    evaluate,
    export,
    inside,
    look,
    push,
    score,
    search,
    streams,
    train,
    web,
    write,
)
from captioner.cli.help_page import page, wants_page
from captioner.cli.hints import check_words
from captioner.cli.options import app
from captioner.extras import MissingExtraError, name_missing_extras

# Importing a module of verbs adds them to the application.
__all__ = [
    "caption",
    "confidence",
    "diagnose",
    "evaluate",
    "export",
    "inside",
    "look",
    "main",
    "push",
    "score",
    "search",
    "train",
    "web",
    "write",
]

DESCRIPTION = (
    "Photos in, sentences out, and a picture of where the model looked for each word. captioner VERB --help explains a "
    "verb; captioner --version prints the version."
)
VERBS = (  # as --help lists them: what most people come for first
    *("caption", "attend", "search", "web", "evaluate", "score", "compare", "check", "train", "find-lr", "average"),
    *("calibrate", "diagnose", "export", "push", "pretrain", "write", "toy", "gradients"),
)
app._subcommands = dict(sorted(app._subcommands.items(), key=lambda verb: VERBS.index(verb[0])))


def main() -> None:
    streams.prepare()
    status = 0
    try:
        status = _run(sys.argv[1:] or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) was closed
        streams.discard()
    except OSError as error:
        streams.report(str(error))
        status = 2
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    try:
        if tuple(arguments) == ("--version",):
            print(f"captioner {__version__}")
            return 0
        if wants_page(arguments):
            print(page(arguments[0]))
            return 0
        check_words(arguments, tuple(app._subcommands))
        with name_missing_extras():
            return app.cli(
                prog="captioner", description=DESCRIPTION, args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as end:  # --help, or a line that tyro could not parse
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt as interrupt:
        streams.report(str(interrupt) or "interrupted")
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError, MissingExtraError) as error:
        streams.report(str(error))
        return 2
