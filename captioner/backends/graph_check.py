"""Checks an ONNX file before the runtime sees it. Old runtimes follow external data to any path, and even to an address
in memory; captioner's own graphs refer to `model.safetensors` beside them and to nothing else.

ONNX is protobuf. This file reads its wire format (https://protobuf.dev/programming-guides/encoding) just deep enough to
find each tensor, node and attribute, so that captioning does not need the onnx package. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from captioner.checkpoint.manifest import WEIGHTS, CheckpointError

MOST_FIELDS = 500_000  # a graph of ours has some ten thousand
DOMAINS = ("", "ai.onnx", "com.microsoft")  # operators that the ONNX runtime itself brings
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Message -> field number -> the message that lies there.
MESSAGES = {
    "model": {7: "graph", 20: "forbidden: training info", 25: "forbidden: functions"},
    "graph": {1: "node", 5: "tensor", 15: "forbidden: sparse tensors"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        10: "tensor",
        **dict.fromkeys((6, 11), "forbidden: graphs inside graphs, such as loops"),
        **dict.fromkeys((22, 23), "forbidden: sparse tensors"),
    },
    "tensor": {},
}
NODE_DOMAIN, TENSOR_EXTERNAL, TENSOR_LOCATION = 7, 13, 14


class _BadGraphError(ValueError):
    """What is wrong with a graph, without the name of its file."""


def check_graph(path: Path) -> None:
    """Raise CheckpointError unless the graph stays within its checkpoint: its tensors lie in the file itself or in
    `model.safetensors`; it has no custom operators, functions or nested graphs (which loops need)."""
    try:
        _check(memoryview(path.read_bytes()), path.with_name(WEIGHTS).stat().st_size)
    except (_BadGraphError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a graph that captioner wrote ({error}). Do not use it; make it again with captioner export."
        ) from None


def _check(content: memoryview, weights_size: int) -> None:
    fields = 0
    waiting = [("model", content)]
    while waiting:
        kind, message = waiting.pop()
        external, is_external = [], False
        for number, value in _fields(message):
            fields += 1
            if fields > MOST_FIELDS:
                raise _BadGraphError(f"it has more than {MOST_FIELDS:,} fields")
            inner = MESSAGES[kind].get(number)
            if inner is None and kind == "node" and number == NODE_DOMAIN:
                if (domain := _text(value)) not in DOMAINS:
                    raise _BadGraphError(f"it has operators of the domain {domain[:80]!r}")
            elif inner is None and kind == "tensor" and number == TENSOR_EXTERNAL:
                external.append(_entry(value))
            elif inner is None and kind == "tensor" and number == TENSOR_LOCATION:
                is_external |= value != 0
            elif inner is not None and inner.startswith("forbidden: "):
                raise _BadGraphError(f"it has {inner.removeprefix('forbidden: ')}")
            elif inner is not None:
                waiting.append((inner, _bytes(value)))
        if external or is_external:
            _check_external(external, weights_size)


def _check_external(entries: list[tuple[str, str]], weights_size: int) -> None:
    """External data have a location, an offset and a length in bytes, each once."""
    found = dict(entries)
    if found.get("location") != WEIGHTS:
        raise _BadGraphError(f"it takes data from {found.get('location', '')[:80]!r}, not from {WEIGHTS}")
    if sorted(key for key, _ in entries) != ["length", "location", "offset"]:
        raise _BadGraphError("its external data do not have one location, offset and length")
    numbers = [found["offset"], found["length"]]
    if not all(number.isdecimal() and number.isascii() and len(number) < 20 for number in numbers):
        raise _BadGraphError("the offset or length of its external data is not a number of bytes")
    if sum(map(int, numbers)) > weights_size:
        raise _BadGraphError(f"its external data lie beyond the end of {WEIGHTS}")


def _entry(value: int | memoryview) -> tuple[str, str]:
    """A StringStringEntryProto: key and value."""
    fields = [*_fields(_bytes(value))]
    if sorted(number for number, _ in fields) != [1, 2]:
        raise _BadGraphError("its external data are not pairs of key and value")
    pair = dict(fields)
    return _text(pair[1]), _text(pair[2])


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _BadGraphError("it is not an ONNX file")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message: an int for a number, the bytes for anything else."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == BYTES:
            size, place = _varint(message, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise _BadGraphError("it is not an ONNX file")
        if place + size > len(message):
            raise _BadGraphError("it is cut short")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Seven bits per byte, the lowest first, at most ten bytes -> the number, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _BadGraphError("it is cut short")
        byte, place = message[place], place + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise _BadGraphError("it is not an ONNX file")
