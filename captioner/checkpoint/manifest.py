"""The files of a checkpoint, without torch: finding its directory, reading its config, and checking sizes and hashes.
Tensors are read in `tensors`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from captioner.checkpoint.hub import download, is_address

FORMAT_VERSION = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
STATE_TENSORS, STATE = "state.safetensors", "state.json"
GRAPHS = ("photo", "word")  # of an exported checkpoint: photo.onnx and word.onnx
FILES = (CONFIG, WEIGHTS, CARD, *(f"{graph}.onnx" for graph in GRAPHS))  # the files of a model, to copy or publish
LANGUAGE_MODEL = "language model"  # the `kind` of a checkpoint that captions no photos
LARGEST_JSON = 32_000_000  # bytes
AGAIN = "Copy or download the checkpoint again."
DEFAULT = "everyday-mobilenet_v2"  # of the models that are shipped with captioner


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message says which file, what was found, what was expected and what to do."""


def has_checkpoint(directory: str | Path) -> bool:
    """Whether a checkpoint can be loaded from `directory`, even if its writer was killed between two renames."""
    return (locate(directory) / CONFIG).is_file()


def shipped_checkpoints() -> dict[str, Path]:
    """The shipped models, by name: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "shipped", package.parent / "checkpoints"):
        if directory.is_dir():
            return {path.parent.name: path.parent for path in sorted(directory.glob(f"*/{CONFIG}"))}
    return {}


def find_checkpoint(directory: str | Path = DEFAULT) -> Path:
    """The directory of a checkpoint, given by its path, by the name of a shipped model or the part of it before the
    hyphen ("flickr8k"), or as hf://owner/name[@revision], which is downloaded to the hub's cache. The folder of a
    training run stands for its best/. Raises CheckpointError if there is no such checkpoint, ValueError if the hub has
    none."""
    if is_address(directory):
        return download(directory, FILES)
    path = locate(directory)
    if path.is_dir():
        best = locate(path / "best")
        return best if (best / CONFIG).is_file() and not (path / CONFIG).exists() else path
    shipped = shipped_checkpoints()
    for name, place in shipped.items():
        if str(directory) in (name, name.partition("-")[0]):
            return place
    names = [name.partition("-")[0] for name in shipped]
    close = get_close_matches(str(directory), names, n=1)
    raise CheckpointError(
        f"{path} {'is a file' if path.exists() else 'does not exist'}; expected a checkpoint: a directory "
        f"with {CONFIG} and {WEIGHTS}, such as best/ of a training run, or a shipped model: "
        f"{', '.join(names) or 'none here'}.{f' Did you mean {close[0]}?' if close else ''}"
    )


def find_own_checkpoint(directory: str | Path) -> Path:
    """Like `find_checkpoint`, for a checkpoint that is to be changed. Raises CheckpointError for an address on the hub
    and for the name of a shipped model, because these must not be changed."""
    if is_address(directory):
        raise CheckpointError(
            "a model on the Hub cannot be changed here. Download it first: hf download owner/name --local-dir DIRECTORY"
        )
    found = find_checkpoint(directory)
    if not locate(directory).is_dir():
        raise CheckpointError(f"{directory} is a shipped model, which cannot be changed. Copy {found} first.")
    return found


def read_config(directory: Path) -> dict[str, Any]:
    """The config as it was saved, plus the size and hash of the weights under `weights`. Raises CheckpointError."""
    path = directory / CONFIG
    config = read_json(path)
    found = config.pop("format_version", None)
    if found is True or found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}, but this captioner reads version {FORMAT_VERSION}. "
            "Use the captioner that wrote it, or train or download the model again."
        )
    for name in ("training", "scores"):
        if not isinstance(config.get(name), dict | None):
            raise CheckpointError(f"{path}: {name} is {config[name]!r:.60}; expected a JSON object. {AGAIN}")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that anyone may have written. Raises CheckpointError."""
    _check_exists(path)
    again = "It was edited or cut short: copy or save the checkpoint again."
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise CheckpointError(f"{path} has {size:,} bytes; expected at most {LARGEST_JSON:,}. {again}")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error!s:.200}). {again}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a JSON object. {again}")
    return content


def parse_json(text: str) -> Any:
    """`json.loads` with bounds: no key twice, no number of more than 100 digits (random states have up to 39), at most
    100 levels. Raises ValueError."""

    def parse_int(digits: str) -> int:
        if len(digits) > 100:
            raise ValueError(f"it has a number of {len(digits)} digits")
        return int(digits)

    def parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = Counter(key for key, _ in pairs)
            raise ValueError(f"it has {keys.most_common(1)[0][0][:80]!r} twice")
        return found

    deep = "it has more than 100 levels"
    try:
        content = json.loads(text, parse_int=parse_int, object_pairs_hook=parse_object)
    except RecursionError:
        raise ValueError(deep) from None
    level = [content]
    for _ in range(100):
        level = [item for each in level if isinstance(each, dict | list) for item in _items(each)]
        if not level:
            return content
    raise ValueError(deep)


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_file(path: Path, expected: Any, source: Path) -> None:
    """Raise CheckpointError unless the file has the size and hash that `source` says it has."""
    match expected:
        case {"sha256": str(sha256), "bytes": int(size)}:
            pass
        case _:
            raise CheckpointError(f"{source} does not give the size and sha256 of {path.name}. {AGAIN}")
    _check_exists(path)
    if (found := path.stat().st_size) != size:
        fault = "is cut short" if found < size else "is too long"
        raise CheckpointError(f"{path} {fault}: it has {found} bytes, {source.name} says {size}. {AGAIN}")
    if (digest := sha256_of(path)) != sha256:
        raise CheckpointError(
            f"{path} is damaged or belongs to another checkpoint: its sha256 is {digest[:12]}…, "
            f"{source.name} says {sha256[:12]}…. {AGAIN}"
        )


def checked_files(directory: Path) -> dict[str, Path]:
    """The files of a model, by name, after a check of their sizes and hashes. Raises CheckpointError."""
    config = read_config(directory)
    check_file(directory / WEIGHTS, config.get("weights"), directory / CONFIG)
    _check_exists(directory / CARD)
    graphs = config.get("graphs") or {}
    found = {name: directory / name for name in FILES if (directory / name).is_file()}
    for name in set(found) - {CONFIG, WEIGHTS, CARD}:
        check_file(found[name], graphs.get(name), directory / CONFIG)
    return found


def size_and_hash(path: Path) -> dict[str, Any]:
    """The entry that `check_file` compares this file with later."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def beside(directory: Path) -> tuple[Path, Path, Path]:
    """The paths of a checkpoint while it is being written, once it is complete, and after it has been replaced."""
    parent, name = directory.parent, directory.name
    return parent / f".{name}.writing", parent / f".{name}.new", parent / f".{name}.old"


def locate(directory: str | Path) -> Path:
    """The path from which to read the checkpoint. Nothing is renamed, because a writer may be active."""
    path = Path(os.path.realpath(directory))
    _, new, _ = beside(path)
    return new if new.is_dir() and not path.exists() else Path(directory)


def describe_mismatch(missing: list[str], unknown: list[str]) -> str:
    """What is wrong with a file's tensors, such as "lacks a, b and holds the unknown c"; empty if nothing is wrong."""
    lacks = [f"lacks {_first_few(missing)}"] if missing else []
    holds = [f"holds the unknown {_first_few(unknown)}"] if unknown else []
    return " and ".join(lacks + holds)


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        files = sorted(file.name for file in path.parent.iterdir())
        training = " Only last/ of a training run has it." if path.name in (STATE, STATE_TENSORS) else ""
        raise CheckpointError(
            f"{path} does not exist; the directory has: {_first_few(files) or 'no files'}.{training} "
            "Copy or save the whole checkpoint again."
        )
