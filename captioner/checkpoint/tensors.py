"""A checkpoint is one directory: `model.safetensors`, `config.json` and `README.md` (the model card); a run's
`last/` also holds `state.safetensors` and `state.json`, its training state. Here lives how such a directory
is written, so that a kill at any moment leaves either the old or the new one whole, and how its tensors are read;
what needs no torch of it is in `manifest`. Nothing is ever unpickled. What a config means is not known here.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from captioner.checkpoint.manifest import (
    AGAIN,
    CARD,
    CONFIG,
    FORMAT_VERSION,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    CheckpointError,
    beside,
    check_file,
    find_checkpoint,
    first_few,
    has_checkpoint,
    read_config,
    read_json,
    sha256_of,
)

# Writing


def save_checkpoint(
    directory: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    half: bool = True,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, in place of an older one of that name if there is one.

    With `half`, matrices take half the space (see `halve`). `state` is a training state: dicts, lists,
    tuples, strings, numbers, arrays and tensors, which `load_state` returns to the bit. The directory is
    written beside and renamed; only one process may write it.
    """
    assert not {"format_version", "weights"} & config.keys(), "these two entries are the format's own"
    directory = Path(os.path.realpath(directory))  # a link stays a link, to what is replaced
    writing, new, old = beside(directory)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and not has_checkpoint(directory)):
        raise CheckpointError(
            f"{directory} exists and is no checkpoint (it has no {CONFIG}), and would be replaced by one. "
            "Choose another directory."
        )
    if new.exists() and not directory.exists():
        os.replace(new, directory)  # what a killed writer left to do
    for left_over in (writing, new, old):
        _remove(left_over)

    writing.mkdir(parents=True)
    weights = _write_tensors(writing / WEIGHTS, tensors, half)
    _write_json(writing / CONFIG, {"format_version": FORMAT_VERSION, **config, "weights": weights})
    _write_text(writing / CARD, card)
    if state is not None:
        named: dict[str, Tensor] = {}
        tree = _encode(state, "state", named)
        about = _write_tensors(writing / STATE_TENSORS, named, half=False)
        _write_json(writing / STATE, {"tensors": about, "state": tree})
    _sync(writing)

    os.replace(writing, new)  # from here on the new checkpoint is whole
    if directory.exists():
        os.replace(directory, old)
    os.replace(new, directory)
    _sync(directory.parent)
    _remove(old)


def halve(tensor: Tensor) -> Tensor:
    """A matrix in float16, if that changes it by less than a thousandth; anything else as it is.

    Vectors (biases, the scales, shifts and statistics of batch norm) are a hundredth of the bytes, act on
    whole channels, and a running variance may lie outside of float16's range.
    """
    if tensor.ndim < 2 or tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    rounded = tensor.half()  # where a number overflows, the change is infinite
    change = torch.linalg.vector_norm(rounded.to(tensor.dtype) - tensor, dtype=torch.float64)
    size = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return rounded if change <= 1e-3 * size else tensor


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], half: bool) -> dict[str, Any]:
    """Write the file, and say what it must look like when it is read."""
    first: dict[tuple[object, ...], str] = {}
    tied = {}  # name -> the name under which the same tensor (a tied weight) is stored
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
    stored = {
        # A clone, as the format refuses views that share memory.
        name: (halve(tensor) if half else tensor).detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
        if name not in tied
    }
    path.write_bytes(save(stored, metadata={"tied": json.dumps(tied)}))  # save_file would hide it from other users
    _sync(path)
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until the disk has it: a rename must not outrun the content."""
    with suppress(PermissionError):  # Windows opens no directories
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


def load_checkpoint(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, floating ones in float32, and the config as it was saved, with the `sha256` and size of its
    `weights`. Raises CheckpointError."""
    directory = find_checkpoint(directory)
    config = read_config(directory)
    tensors = _read_tensors(directory / WEIGHTS, config.get("weights"), directory / CONFIG, torch.float32)
    return tensors, config


def load_state(directory: str | Path) -> Any:
    """The training state of a checkpoint that was saved with one, to the bit. Raises CheckpointError."""
    directory = find_checkpoint(directory)
    path = directory / STATE
    content = read_json(path)
    tensors = _read_tensors(directory / STATE_TENSORS, content.get("tensors"), path)
    return _decode(content.get("state"), tensors)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path = "the checkpoint") -> None:
    """Give `module` the tensors, all of them and no others; one on the meta device takes them as its own.

    Raises CheckpointError, with nothing changed.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    remedy = "Was it made by another model, or another version of captioner?"
    if missing or unknown:
        lacks = [f"lacks {first_few(missing)}"] if missing else []
        holds = [f"holds the unknown {first_few(unknown)}"] if unknown else []
        raise CheckpointError(f"{source} does not fit the model: it {' and '.join(lacks + holds)}. {remedy}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source} does not fit the model: {name} has shape {[*tensors[name].shape]}, "
                f"the model expects {[*tensor.shape]}. {remedy}"
            )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    parameters = dict(module.named_parameters(remove_duplicate=False))
    module.load_state_dict(dict(tensors), assign=on_meta)
    if on_meta:  # which makes a parameter for each name: tie again what was one
        _tie(module, parameters)
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def _tie(module: nn.Module, before: Mapping[str, nn.Parameter]) -> None:
    first: dict[int, str] = {}
    for name, parameter in before.items():
        other = first.setdefault(id(parameter), name)
        if other != name:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(other))


def _read_tensors(path: Path, expected: Any, source: Path, floating: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors of a file that must be as `source` says; floating-point ones as `floating`, if given."""
    check_file(path, expected, source)
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                tensor = file.get_tensor(name)
                kind = floating if floating and tensor.is_floating_point() else tensor.dtype
                # A copy: memory lent by a file may be aligned otherwise, which changes the last bits of what
                # a CPU computes.
                tensors[name] = tensor.to(kind, copy=True)
            tied = json.loads((file.metadata() or {}).get("tied", "{}"))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}). {AGAIN}") from None
    return tensors | {name: tensors[other] for name, other in tied.items()}


# A training state as JSON and tensors. What JSON has not is a tagged object, such as {"<tuple>": [...]}.


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    def inner(items: Any) -> list[Any]:
        return [_encode(item, f"{path}.{i}", tensors) for i, item in enumerate(items)]

    if isinstance(value, Tensor):
        name = f"{len(tensors)} {path}"  # a number, as two paths may read alike
        tensors[name] = value
        return {"<tensor>": name}
    if isinstance(value, np.ndarray):
        return {"<array>": [value.dtype.str, list(value.shape), inner(value.ravel().tolist())]}
    if isinstance(value, np.generic):
        return _encode(value.item(), path, tensors)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"<float>": str(value)}
    if isinstance(value, list):
        return inner(value)
    if isinstance(value, tuple):
        return {"<tuple>": inner(value)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("<") for key in value):
            return {key: _encode(item, f"{path}.{key}", tensors) for key, item in value.items()}
        return {"<items>": inner([list(pair) for pair in value.items()])}
    raise TypeError(f"{path} is a {type(value).__name__}, which a training state cannot hold")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case list():
            return [_decode(item, tensors) for item in value]
        case {"<tensor>": name}:
            return tensors[name]
        case {"<array>": [kind, shape, flat]}:
            return np.array(_decode(flat, tensors), dtype=kind).reshape(shape)
        case {"<float>": text}:
            return float(text)
        case {"<tuple>": items}:
            return tuple(_decode(items, tensors))
        case {"<items>": pairs}:
            return {_decode(key, tensors): _decode(item, tensors) for key, item in pairs}
        case dict():
            return {key: _decode(item, tensors) for key, item in value.items()}
    return value
