"""The inputs and outputs that the graphs of a model must have. Graphs are loaded only if names, types and sizes agree
with the config, the vocabulary and the preprocessing, as in those that `export` writes."""

from __future__ import annotations

from pathlib import Path

from captioner.backends.graph_check import Signature, Value
from captioner.checkpoint.manifest import CONFIG, CheckpointError
from captioner.config import ModelConfig

FLOAT, INT64 = 1, 7
B = K = None  # any number of photos and of rows per photo
ANY_R = None  # the word graph also runs on a part of the regions

Values = list[tuple[str, Value]]


def check_signatures(
    directory: Path, photo: Signature, word: Signature, config: ModelConfig, vocabulary_size: int, side: int
) -> None:
    """Raise CheckpointError unless the two graphs fit the config. R and D, which depend on the encoder, are taken from
    the photo graph; the word graph must have the same D. `side` is S, the side of the CNN's input."""
    R, D = _grid(directory, photo, side) if config.attention != "none" else (0, 0)
    photo_wanted, word_wanted = expected_signatures(config, vocabulary_size, side, R, D)
    _compare(directory, "photo", "inputs", photo.inputs, photo_wanted.inputs)
    _compare(directory, "photo", "outputs", photo.outputs, photo_wanted.outputs)
    _compare(directory, "word", "inputs", word.inputs, word_wanted.inputs)
    _compare(directory, "word", "outputs", word.outputs, word_wanted.outputs)


def _compare(directory: Path, graph: str, kind: str, found: Values, expected: Values) -> None:
    """Inputs are matched by name, outputs by position."""
    same = len(found) == len(expected) if kind == "outputs" else [*dict(found)] == [*dict(expected)]
    if not same:
        theirs, ours = (", ".join(name for name, _ in values) for values in (found, expected))
        raise _misfit(directory, graph, f"its {kind} are {theirs[:200] or 'missing'}; expected {ours}")
    for (_, value), (name, wanted) in zip(found, expected, strict=True):
        if value != wanted:
            raise _misfit(directory, graph, f"{name} is {_describe(value)}; expected {_describe(wanted)}")


def expected_signatures(
    config: ModelConfig, vocabulary_size: int, side: int, R: int, D: int
) -> tuple[Signature, Signature]:
    """The signatures of the photo graph and the word graph, as described in `export`. B and K may be any number."""
    H, layers = config.hidden_size, [count for count in (config.layers_below, config.layers_above) if count]
    parts = [count for count in layers for _ in range(2 if config.cell == "lstm" else 1)]  # an LSTM has h and c

    def memory(regions: int | None) -> dict[str, Value]:
        return {"values": Value(FLOAT, (B, regions, D)), "keys": Value(FLOAT, (B, regions, H))}

    encoded, attended, attention = {}, {}, {}
    if config.attention != "none":
        encoded, attended, attention = memory(R), memory(ANY_R), {"attention": Value(FLOAT, (B, K, ANY_R))}
    after_photo = {f"state.{i}": Value(FLOAT, (count, B, H)) for i, count in enumerate(parts)}
    state = {f"state.{i}": Value(FLOAT, (count, B, K, H)) for i, count in enumerate(parts)}
    images, words = {"images": Value(FLOAT, (B, 3, side, side))}, {"words": Value(INT64, (B, K))}
    logits = {"logits": Value(FLOAT, (B, K, vocabulary_size))}
    after_word = {f"next.{name}": value for name, value in state.items()}
    photo = Signature([*images.items()], [*(encoded | after_photo).items()])
    return photo, Signature([*(words | attended | state).items()], [*(logits | attention | after_word).items()])


def _grid(directory: Path, photo: Signature, side: int) -> tuple[int, int]:
    """R and D. R may not exceed the number of pixels of the CNN's input."""
    found = photo.outputs[0][1] if photo.outputs else None
    match found:
        case Value(element=1, shape=(None, int(R), int(D))) if 0 < R <= side * side and 0 < D < 2**16:
            return R, D
    what = _describe(found) if found else "missing"
    raise _misfit(directory, "photo", f"values is {what}; expected float32 [any, regions, features]")


def _misfit(directory: Path, graph: str, difference: str) -> CheckpointError:
    again = "Make it again with captioner export."
    return CheckpointError(f"{directory / graph}.onnx does not fit its {CONFIG}: {difference}. {again}")


def _describe(value: Value) -> str:
    element = {FLOAT: "float32", INT64: "int64"}.get(value.element, f"ONNX type {value.element}")
    return f"{element} [{', '.join('any' if size is None else str(size) for size in value.shape)}]"
