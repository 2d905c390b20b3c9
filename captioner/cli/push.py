"""The verb push: a checkpoint to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from captioner.cli.options import app


@app.command
def push(
    checkpoint: tyro.conf.Positional[Path],
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")],
    /,
    private: bool = False,
) -> int:
    """Upload a model to the Hugging Face Hub. Others can then load it as hf://OWNER/NAME.

    The model card (README.md) and its pictures become the repository's page. State the licence in its first lines
    before you push.

    Args:
        checkpoint: Directory of the model.
        repository: Repository on the Hub, created if it does not exist.
        private: Create the repository as private.
    """
    from captioner.checkpoint.card import pictures, with_metadata
    from captioner.checkpoint.hub import upload
    from captioner.checkpoint.manifest import CARD, checked_files, find_checkpoint, read_config

    directory = find_checkpoint(checkpoint)
    files: dict[str, Path | bytes] = dict(checked_files(directory))
    card = (directory / CARD).read_text(encoding="utf-8")
    files |= {name: directory / name for name in pictures(card) if (directory / name).is_file()}
    files[CARD] = with_metadata(card, read_config(directory)).encode()
    print(upload(repository, files, "A checkpoint of captioner", private))
    return 0
