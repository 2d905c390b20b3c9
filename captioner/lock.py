"""A lock that the operating system holds for one process and releases when the process ends, even if it is killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock on `path`, a file that is created for it and removed afterwards. A file left by a killed process is
    taken over. If another process holds the lock, wait for it if `wait`, else raise BlockingIOError."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(file)
            if _is_still_there(file, path):
                break
        except BlockingIOError:
            os.close(file)
            if not wait:
                raise
            time.sleep(0.2)
            continue
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder removed it between our two calls: create a new one
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows does not remove an open file; the next run takes it over
            path.unlink(missing_ok=True)
        os.close(file)


def _take(file: int) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise BlockingIOError(error.errno, "another process holds the lock") from None


def _is_still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
