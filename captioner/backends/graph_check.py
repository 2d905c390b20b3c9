"""Checks an ONNX file before the runtime sees it. Old runtimes follow external data to any path, and even to an address
in memory; captioner's own graphs refer only to `model.safetensors` beside them. `signature` checks that a graph's
inputs and outputs fit its model.

ONNX is protobuf. This file reads its wire format (https://protobuf.dev/programming-guides/encoding) just deep enough to
find each tensor, node, attribute, input and output, so that captioning does not need the onnx package. Field numbers
are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from captioner.checkpoint.manifest import WEIGHTS, CheckpointError

LARGEST = 10**9  # bytes; ours have a few hundred thousand, eight-bit ones as many as their weights
MOST_FIELDS = 500_000  # our graphs have some ten thousand
NAMES = (
    "Add AveragePool BatchNormalization Cast Clip Concat Constant Conv DequantizeLinear Div DynamicQuantizeLinear "
    "Erf Expand Flatten GRU Gather GatherND Gelu Gemm GlobalAveragePool HardSigmoid HardSwish Identity LSTM "
    "LayerNormalization MatMul MatMulInteger MaxPool Mul QLinearConv QLinearMatMul QuantizeLinear RNN Range "
    "ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where"
)
# The operators that captioner exports, for any CNN and in eight bits. None of them reads files, runs foreign code or
# contains graphs. (A graph may still ask for any amount of memory, which `onnx_backend` bounds.)
OPERATORS = {
    "": frozenset(NAMES.split()),
    "com.microsoft": frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}),
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Message -> field number -> the type of the message in that field.
MESSAGES = {
    "model": {7: "graph", 8: "operator set", 14: "entry", 20: "forbidden: training info", 25: "forbidden: functions"},
    "graph": {1: "node", 5: "tensor", 11: "input", 12: "output", 15: "forbidden: sparse tensors"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        10: "tensor",
        **dict.fromkeys((6, 11), "forbidden: graphs inside graphs, such as loops"),
        **dict.fromkeys((22, 23), "forbidden: sparse tensors"),
    },
}
# Message -> the fields that are text. If one is not UTF-8, the runtime's Python code fails late and prints.
TEXTS = {
    "model": (2, 3, 4, 6),
    "operator set": (1,),
    "entry": (1, 2),
    "graph": (2, 10),
    "node": (1, 2, 3, 4, 6, 7, 8),
    "attribute": (1, 13, 21),
    "tensor": (8, 12),
    "input": (1, 3),
    "output": (1, 3),
}
NODE_OPERATOR, NODE_DOMAIN = 4, 7
TENSOR_DIMS, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 13, 14
TENSOR_DATA = (4, 5, 7, 9, 10, 11)  # one per number type, and one for raw bytes of any type
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_NUMBER = 1, 2, 1, 1, 2, 1, 1
DIM_TEXTS = (2, 3)
MOST_DIMS = 8

Fields = list[tuple[int, int | memoryview]]  # field number and value: an int, or the bytes of anything else


class _BadGraphError(ValueError):
    """The graph is not acceptable. The message does not name the file."""


class Value(NamedTuple):
    """An input or output of a graph."""

    element: int  # ONNX element type: 1 is float32, 7 is int64
    shape: tuple[int | None, ...]  # None: any size


class Signature(NamedTuple):
    """The inputs and outputs of a graph by name, in order. Two outputs may have the same name: with `dot` attention,
    the keys are the values."""

    inputs: list[tuple[str, Value]]
    outputs: list[tuple[str, Value]]


def check_graph(path: Path) -> Signature:
    """The inputs and outputs of a graph. Raises CheckpointError unless the graph stays within its checkpoint: its
    tensors lie in the file itself or in `model.safetensors` and are no larger than their data; all operators are ones
    that captioner exports; there are no functions or nested graphs (which loops need)."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise _BadGraphError(f"it has {size:,} bytes")
        return _check(memoryview(path.read_bytes()), path.with_name(WEIGHTS).stat().st_size)
    except (_BadGraphError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a graph that captioner wrote ({error}). Do not use it; make it again with captioner export."
        ) from None


def _check(content: memoryview, weights_size: int) -> Signature:
    signature = Signature([], [])
    fields = referenced = 0
    waiting = deque([("model", content)])  # in file order, which is the order of inputs and outputs
    while waiting:
        kind, message = waiting.popleft()
        values = [*islice(_fields(message), MOST_FIELDS + 1 - fields)]
        fields += len(values)
        if fields > MOST_FIELDS:
            raise _BadGraphError(f"it has more than {MOST_FIELDS:,} fields")
        for number, value in values:
            if number in TEXTS.get(kind, ()):
                _text(value)
            inner = MESSAGES.get(kind, {}).get(number, "")
            if inner.startswith("forbidden: "):
                raise _BadGraphError(f"it has {inner.removeprefix('forbidden: ')}")
            if inner:
                waiting.append((inner, _bytes(value)))
        if kind == "node":
            _check_operator(values)
        elif kind == "tensor":
            referenced += _check_tensor(values, weights_size)
        elif kind in ("input", "output"):
            (signature.inputs if kind == "input" else signature.outputs).append(_value_info(values))
    if referenced > 2 * weights_size:
        raise _BadGraphError(f"its tensors repeat the data of {WEIGHTS}")
    return signature


def _check_operator(node: Fields) -> None:
    operator, domain = (_text(_only(node, field, b"")) for field in (NODE_OPERATOR, NODE_DOMAIN))
    allowed = OPERATORS.get("" if domain == "ai.onnx" else domain)
    if allowed is None:
        raise _BadGraphError(f"it has operators of the domain {domain[:80]!r}")
    if operator not in allowed:
        raise _BadGraphError(f"it has the operator {operator[:80]!r}, which captioner does not export")


def _check_tensor(tensor: Fields, weights_size: int) -> int:
    """The number of bytes that a tensor takes from the weights' file. Each number must have at least one byte, because
    otherwise a small file could make the runtime allocate a large tensor."""
    dims: list[int] = []
    for value in _all(tensor, TENSOR_DIMS):
        dims += [value] if isinstance(value, int) else _varints(value)
    if len(dims) > MOST_DIMS:
        raise _BadGraphError(f"it has a tensor of {len(dims)} dimensions")
    external = [_entry(value) for value in _all(tensor, TENSOR_EXTERNAL)]
    referenced = 0
    if external or any(_all(tensor, TENSOR_LOCATION)):
        referenced = _check_external(external, weights_size)
    values = (value for field in TENSOR_DATA for value in _all(tensor, field))
    size = referenced + sum(1 if isinstance(value, int) else len(value) for value in values)
    if math.prod(dims) > size:
        raise _BadGraphError(f"it has a tensor of {math.prod(dims):,} numbers in {size:,} bytes")
    return referenced


def _check_external(entries: list[tuple[str, str]], weights_size: int) -> int:
    """Check that external data has a location, an offset and a length in bytes, each once. Returns the length."""
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
    return int(found["length"])


def _value_info(info: Fields) -> tuple[str, Value]:
    """A ValueInfoProto: the name and the type of an input or output."""

    def within(fields: Fields, number: int) -> Fields:
        return [*_fields(_bytes(_only(fields, number, b"")))]

    tensor = within(within(info, VALUE_TYPE), TYPE_TENSOR)
    element = _only(tensor, TENSOR_ELEMENT, 0)
    shape = [[*_fields(_bytes(dim))] for dim in _all(within(tensor, TENSOR_SHAPE), SHAPE_DIM)]
    dims = [_only(dim, DIM_NUMBER, None) for dim in shape]
    for dim in shape:
        for number in DIM_TEXTS:
            _text(_only(dim, number, b""))
    if not isinstance(element, int) or not all(dim is None or isinstance(dim, int) for dim in dims):
        raise _BadGraphError("it is not an ONNX file")
    return _text(_only(info, VALUE_NAME, b"")), Value(element, tuple(dims))


def _entry(value: int | memoryview) -> tuple[str, str]:
    """A StringStringEntryProto: key and value."""
    fields = [*_fields(_bytes(value))]
    if sorted(number for number, _ in fields) != [1, 2]:
        raise _BadGraphError("its external data are not pairs of key and value")
    pair = dict(fields)
    return _text(pair[1]), _text(pair[2])


def _all(fields: Fields, number: int) -> list[Any]:
    return [value for found, value in fields if found == number]


def _only(fields: Fields, number: int, default: Any) -> Any:
    """The value of a field that occurs once or not at all."""
    found = _all(fields, number)
    if len(found) > 1:
        raise _BadGraphError("it is not an ONNX file")
    return found[0] if found else default


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _BadGraphError("it is not an ONNX file")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The field numbers and values of a message: an int for a number, the bytes for anything else."""
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
    """Seven bits per byte, the lowest first, at most ten bytes -> the number, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _BadGraphError("it is cut short")
        byte, place = message[place], place + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise _BadGraphError("it is not an ONNX file")


def _varints(packed: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(packed):
        number, place = _varint(packed, place)
        numbers.append(number)
    return numbers
