"""Where a run on a cluster keeps its files: a folder that all nodes can access, or an address in an object store."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any


class Store:
    """Small files, by names such as parts/000012-0.parquet. Whenever a process is killed, a file is either complete or
    absent. A store can be pickled. Needs fsspec, and what fsspec needs for the address (s3fs for s3://)."""

    def __init__(self, place: str):
        self.is_local = "://" not in place
        self.place = os.path.abspath(place) if self.is_local else place.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_files"}

    @cached_property
    def _files(self) -> Any:
        import fsspec

        if self.is_local:
            return fsspec.filesystem("file")
        return fsspec.core.url_to_fs(self.place, use_listings_cache=False)[0]

    def _path(self, name: str) -> str:
        return f"{self._files._strip_protocol(self.place)}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """In an object store an object appears only when it is complete; in a folder, a temporary file is written and
        renamed."""
        if not self.is_local:
            self._files.pipe_file(self._path(name), content)
            return
        path = Path(self.place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_bytes(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        return self._files.cat_file(self._path(name))

    def exists(self, name: str) -> bool:
        return self._files.exists(self._path(name))

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty if there is no such folder. Temporary files of killed processes are
        removed."""
        try:
            found = sorted(path.rsplit("/", 1)[1] for path in self._files.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return []
        for name in found:
            if name.startswith("."):
                self.remove(f"{folder}/{name}")
        return [name for name in found if name and not name.startswith(".")]

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))
