"""The tensors of a checkpoint: written, read, and loaded into a module. A checkpoint is one directory with
`model.safetensors`, `config.json` and `README.md` (the model card); a run's `last/` also has `state.safetensors` and
`state.json`, its training state. Nothing is ever unpickled. The config is not interpreted here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
    check_file,
    describe_mismatch,
    find_checkpoint,
    parse_json,
    read_config,
    read_json,
    size_and_hash,
    write_json,
)
from captioner.checkpoint.replace import replace_checkpoint
from captioner.checkpoint.weights import check_finite

# Writing


def save_checkpoint(
    directory: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    half: bool = True,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, replacing an older one of that name as a whole.

    With `half`, matrices are stored in half precision (see `halve`). `state` is a training state: dicts, lists,
    tuples, strings, numbers, arrays and tensors, which `load_state` returns bit for bit. Raises CheckpointError.
    """
    assert not {"format_version", "weights"} & config.keys(), "these two entries belong to the format"
    with replace_checkpoint(directory) as writing:
        weights = _write_tensors(writing / WEIGHTS, tensors, half)
        write_json(writing / CONFIG, {"format_version": FORMAT_VERSION, **config, "weights": weights})
        (writing / CARD).write_text(card, encoding="utf-8")
        if state is not None:
            named: dict[str, Tensor] = {}
            tree = _encode(state, "state", named)
            about = _write_tensors(writing / STATE_TENSORS, named, half=False)
            write_json(writing / STATE, {"tensors": about, "state": tree})


def halve(tensor: Tensor) -> Tensor:
    """A matrix in float16 if that changes it by at most 1/1000, relatively; any other tensor unchanged.

    Vectors (biases, and the scales, shifts and statistics of batch norm) stay in float32: they take a hundredth of the
    bytes, each number acts on a whole channel, and a running variance may exceed float16's range.
    """
    if tensor.ndim < 2 or tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    rounded = tensor.half()  # a number that overflows makes the change infinite
    change = torch.linalg.vector_norm(rounded.to(tensor.dtype) - tensor, dtype=torch.float64)
    size = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return rounded if change <= 1e-3 * size else tensor


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], half: bool) -> dict[str, Any]:
    """Write the file and return its size and hash."""
    first: dict[tuple[object, ...], str] = {}
    tied = {}  # the name of a tied weight: the name under which the same tensor is stored
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
    stored = {
        # The format refuses views that share memory, hence the clone.
        name: (halve(tensor) if half else tensor).detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
        if name not in tied
    }
    # Not save_file, which would create a file that only its owner can read.
    path.write_bytes(save(stored, metadata={"tied": json.dumps(tied)}))
    return size_and_hash(path)


# Reading


def load_checkpoint(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, floating-point ones in float32, and the config as it was saved, plus the size and hash of the
    weights under `weights`. Raises CheckpointError."""
    directory = find_checkpoint(directory)
    config = read_config(directory)
    tensors = _read_tensors(directory / WEIGHTS, config.get("weights"), directory / CONFIG, torch.float32)
    if not tensors:
        raise CheckpointError(
            f"{directory} has its weights in eight-bit graphs only, which the ONNX runtime runs on a CPU. For torch, "
            "use the checkpoint that it was exported from."
        )
    check_finite(directory / WEIGHTS)
    return tensors, config


def load_state(directory: str | Path) -> Any:
    """The training state that was saved with a checkpoint, bit for bit. Raises CheckpointError."""
    directory = find_checkpoint(directory)
    path = directory / STATE
    content = read_json(path)
    tensors = _read_tensors(directory / STATE_TENSORS, content.get("tensors"), path)
    try:
        return _decode(content.get("state"), tensors)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds no training state ({error!s:.200}). {AGAIN}") from None


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path = "the checkpoint") -> None:
    """Load `tensors` into `module`, which must have the same names and shapes. A module on the meta device takes the
    tensors themselves, without a copy. If it raises CheckpointError, the module is unchanged.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    remedy = "Was it made by another model, or by another version of captioner?"
    if mismatch := describe_mismatch(missing, unknown):
        raise CheckpointError(f"{source} does not fit the model: it {mismatch}. {remedy}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source} does not fit the model: {name} has shape {[*tensors[name].shape]}, "
                f"the model expects {[*tensor.shape]}. {remedy}"
            )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    parameters = dict(module.named_parameters(remove_duplicate=False))
    module.load_state_dict(dict(tensors), assign=on_meta)
    if on_meta:  # assigning made one parameter per name: tie the shared ones again
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
    """The tensors of a file whose size and hash are `expected`, as `source` says. Floating-point tensors are converted
    to `floating` if it is given."""
    check_file(path, expected, source)
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name)
                kind = floating if floating and tensor.is_floating_point() else tensor.dtype
                # Copied, because memory-mapped tensors may be aligned differently, which changes the last bits of
                # results on a CPU.
                tensors[name] = tensor.to(kind, copy=True)
            tied = parse_json((file.metadata() or {}).get("tied", "{}"))
        return tensors | {name: tensors[other] for name, other in tied.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error!s:.200}). {AGAIN}") from None


# A training state as JSON and tensors. Values that JSON lacks become tagged objects, such as {"<tuple>": [...]}.


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    def inner(items: Any) -> list[Any]:
        return [_encode(item, f"{path}.{i}", tensors) for i, item in enumerate(items)]

    if isinstance(value, Tensor):
        name = f"{len(tensors)} {path}"  # the number distinguishes equal paths
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
            if np.dtype(kind).hasobject:
                raise ValueError(f"it has an array of {kind!r}")
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
