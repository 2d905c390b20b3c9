"""The Hugging Face hub: files of a repository at an address hf://owner/name[@revision], by way of huggingface_hub,
whose cache also works offline. The names and contents of the files are defined elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.extras import name_missing_extras

ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@(\S+))?")  # a Path collapses the two slashes


def is_address(place: str | Path) -> bool:
    return _text(place).startswith("hf:/")


def download(address: str | Path, files: Sequence[str]) -> Path:
    """The cache directory with those of `files` that exist in the repository; no other files are downloaded. Raises
    ValueError if the repository, its revision or all of the files are missing, or the hub does not answer."""
    match = ADDRESS.fullmatch(_text(address))
    if not match:
        raise ValueError(f"{_text(address)!r} is not an address of the hub; expected hf://owner/name[@revision].")
    repository, revision = match.groups()
    shown = f"hf://{repository}" + (f"@{revision}" if revision else "")
    with name_missing_extras():
        from huggingface_hub import snapshot_download
    with _reported(shown):
        directory = Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    if not directory.is_dir():
        raise ValueError(f"{shown} is not a model of captioner: it has none of {', '.join(files)}.")
    return directory


def upload(repository: str, files: Mapping[str, Path | bytes], message: str, private: bool = False) -> str:
    """Upload `files` to the repository in one commit, creating the repository if it does not exist. Returns its
    address. Raises ValueError."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not a repository; expected owner/name.")
    with name_missing_extras():
        from huggingface_hub import CommitOperationAdd, HfApi
    api = HfApi(library_name="captioner")
    with _reported(f"hf://{repository}"):
        api.create_repo(repository, private=private, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repository, additions, commit_message=message)
    return f"hf://{repository}"


@contextmanager
def _reported(shown: str) -> Iterator[None]:
    """Turn errors of the hub's client into one-line ValueErrors. Progress bars are shown on terminals only."""
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():  # no bars in log files
        disable_progress_bars()
    try:
        yield
    except errors.RevisionNotFoundError:
        raise ValueError(f"{shown} does not exist: the repository has no such revision.") from None
    except errors.GatedRepoError:
        raise ValueError(f"{shown} is gated. Ask for access on its page, then log in: hf auth login.") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(f"{shown} does not exist or is private. Check its name, or log in: hf auth login.") from None
    except errors.LocalEntryNotFoundError:
        raise ValueError(f"{shown} is not in the cache, and the hub does not answer. Try again when online.") from None
    except Exception as error:  # the client's errors, and those of its HTTP library, have no common base class
        reason = " ".join(str(error).split()) or type(error).__name__
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        advice = "Log in with a token that may do this: hf auth login." if refused else "Try again."
        raise ValueError(f"{shown}: the transfer failed ({reason:.300}). {advice}") from error


def _text(place: str | Path) -> str:
    return place.as_posix() if isinstance(place, Path) else place
