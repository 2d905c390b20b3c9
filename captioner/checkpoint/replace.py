"""A checkpoint's directory is written under another name and then renamed, so a writer that is killed at any moment
leaves either the complete old checkpoint or the complete new one. Only one process may write a checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.checkpoint.manifest import CONFIG, CheckpointError, beside, has_checkpoint


@contextmanager
def replace_checkpoint(directory: str | Path) -> Iterator[Path]:
    """Yield an empty directory to write into. It replaces `directory` when the context ends, and is deleted if the
    context ends with an exception. Raises CheckpointError if `directory` holds something that is not a checkpoint."""
    directory = Path(os.path.realpath(directory))  # a symbolic link is kept and its target replaced
    writing, new, old = beside(directory)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and not has_checkpoint(directory)):
        raise CheckpointError(
            f"{directory} exists but is not a checkpoint (it has no {CONFIG}); it would be replaced. "
            "Choose another directory."
        )
    if new.exists() and not directory.exists():
        os.replace(new, directory)  # complete the rename of a killed writer
    for left_over in (writing, new, old):
        _remove(left_over)

    writing.mkdir(parents=True)
    try:
        yield writing
        for path in writing.rglob("*"):
            _sync(path)
        _sync(writing)
    except Exception:
        _remove(writing)
        raise

    os.replace(writing, new)  # from here on the new checkpoint is complete
    if directory.exists():
        os.replace(directory, old)
    os.replace(new, directory)
    _sync(directory.parent)
    _remove(old)


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _sync(path: Path) -> None:
    """Wait until the content is on the disk, so that the rename does not get there first."""
    with suppress(PermissionError):  # Windows cannot open directories; a copied file may be read-only
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
