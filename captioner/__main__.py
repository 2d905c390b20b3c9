"""The program: `captioner`, or `python -m captioner`. While the package is being imported, Ctrl-C ends it at once.
After that, the first Ctrl-C raises KeyboardInterrupt, and further ones are ignored while the program ends."""

from __future__ import annotations

import signal


def main() -> None:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # for instance under nohup
    if not ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from captioner.cli import main as run

    if not ignored:
        signal.signal(signal.SIGINT, _interrupt_once)
    run()


def _interrupt_once(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
