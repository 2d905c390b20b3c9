"""Photos at addresses: https://, s3:// and others that fsspec supports. The network is used only if an address is
given.

A server may be slow, drop connections, or send something other than announced. So each photo has a time limit, a size
limit and a few attempts; the result is its bytes or an `ImageError`."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from captioner.images import ENDINGS, ImageError

ATTEMPTS = 3
SECONDS = 60  # per attempt
LARGEST = 200_000_000  # bytes of a photo
BLOCK = 1 << 16


@dataclass(frozen=True)
class RemotePhoto:
    """A photo at an address. It is read like an open file, and fetched each time it is read."""

    name: str
    """The address."""
    files: Any
    """The fsspec file system."""
    size: int | None = None
    modified: float | None = None
    """Seconds since 1970, if the file system knows."""

    def read(self) -> bytes:
        reason = ""
        for attempt in range(ATTEMPTS):
            time.sleep(attempt)
            try:
                return self._fetch()
            except ImageError:
                raise
            except FileNotFoundError as error:
                raise ImageError(f"{self.name}: no such file; expected the address of a photo.") from error
            except Exception as error:  # each file system has errors of its own
                reason = str(error) or type(error).__name__
        raise ImageError(f"{self.name}: cannot be fetched ({reason:.100}), in {ATTEMPTS} attempts. Try again later.")

    def _fetch(self) -> bytes:
        fetched, end = bytearray(), time.monotonic() + SECONDS
        with _open(self.files, self.name) as stream:
            while block := stream.read(BLOCK):
                fetched += block
                if len(fetched) > LARGEST:
                    raise ImageError(f"{self.name}: more than {LARGEST / 1e6:g} MB; expected a photo.")
                if time.monotonic() > end:
                    raise TimeoutError(f"not complete after {SECONDS} seconds")
        return bytes(fetched)


@dataclass(frozen=True)
class FetchedPhoto:
    """A photo from a remote shard, which is a stream and cannot be read again."""

    name: str
    content: bytes
    size: int
    modified: float

    def read(self) -> bytes:
        return self.content


def remote_photo(address: str) -> RemotePhoto:
    """The photo at an address; nothing is requested yet."""
    files, _ = _file_system(address)
    return RemotePhoto(address, files)


def is_address(path: str) -> bool:
    return "://" in path


def find_remote(address: str, recursive: bool, report: Callable[[str], None]) -> Iterator[RemotePhoto | FetchedPhoto]:
    """The photo at an address, or the photos in the folder or .tar shard there. HTTP has no folders."""
    try:
        files, path = _file_system(address)
        is_folder = not _is_http(address) and files.isdir(path)
    except ModuleNotFoundError:  # an extra of ours
        raise
    except Exception as error:  # each file system has errors of its own
        return report(f"{address}: cannot be reached ({error}); its photos are missing.")
    if address.lower().endswith(".tar"):
        yield from _in_shard(address, files, report)
    elif is_folder:
        yield from _in_folder(path, files, recursive, report)
    else:
        yield RemotePhoto(address, files)


def _in_folder(path: str, files: Any, recursive: bool, report: Callable[[str], None]) -> Iterator[RemotePhoto]:
    def tell(error: Exception) -> None:
        report(f"{files.unstrip_protocol(path)}: the folder cannot be listed ({error}); its photos are missing.")

    for _, folders, found in files.walk(path, maxdepth=None if recursive else 1, detail=True, on_error=tell):
        for name in [name for name in folders if name.startswith(".")]:
            del folders[name]
        for name, entry in sorted(found.items()):
            if name[:1] != "." and name.lower().endswith(tuple(ENDINGS)):
                changed = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
                modified = changed.timestamp() if hasattr(changed, "timestamp") else changed
                yield RemotePhoto(files.unstrip_protocol(entry["name"]), files, entry.get("size"), modified)


def _in_shard(address: str, files: Any, report: Callable[[str], None]) -> Iterator[FetchedPhoto]:
    try:
        with _open(files, address) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps every member that it has seen
                name = member.name.removeprefix("./")
                if member.isreg() and name.lower().endswith(tuple(ENDINGS)) and member.size <= LARGEST:
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]  # a regular file has content
                    yield FetchedPhoto(f"{address}/{name}", content, member.size, member.mtime)
    except Exception as error:  # each file system has errors of its own
        report(f"{address}: the shard cannot be read to its end ({error or type(error).__name__}); photos are missing.")


def _is_http(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if _is_http(address):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(sock_connect=SECONDS, sock_read=SECONDS)}
    return fsspec.core.url_to_fs(address, **options)


def _open(files: Any, address: str) -> Any:
    """Open a stream. An HTTP server is not asked for the size first, which may be wrong anyway."""
    options = {"block_size": 0, "size": 1} if _is_http(address) else {}
    return files.open(files._strip_protocol(address), "rb", **options)
