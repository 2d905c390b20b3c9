"""The ONNX backend: runs an exported checkpoint on a CPU without torch, with the same preprocessing, search and
captions as the torch backend. Which of the two runs a checkpoint is decided in `choose`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioner.backends.graph_check import check_graph
from captioner.backends.signature import check_signatures
from captioner.checkpoint.manifest import CONFIG, GRAPHS, WEIGHTS, CheckpointError, check_file
from captioner.checkpoint.weights import check_finite
from captioner.config import ModelConfig
from captioner.step import Choices, Choose, Step, all_but_one, choose_words

WEIGHTS_KEY = "captioner.weights.sha256"  # in a graph's metadata: the hash of its weights
EXPORT = "captioner export DIRECTORY (which needs torch: pip install 'captioner[train]')"
MEMORY = 4_000_000_000  # bytes for the tensors of all models of a process
PHOTOS_AT_ONCE = 4  # more do not fit into a CPU's caches and take longer per photo


class Encoded(NamedTuple):
    """What the word graph needs of B photos and their N rows: first the output of the photo graph (N = B), then the
    state after each step."""

    memory: tuple[np.ndarray, ...]  # values (B, R, D) and keys (B, R, H), or nothing without attention
    recurrent: tuple[np.ndarray, ...]  # the recurrent state, each part (L, N, H)
    images: np.ndarray  # (B,) the indices of the photos


class OnnxBackend:
    def __init__(self, photo: Any, word: Any, has_attention: bool, reload: Callable[[], OnnxBackend] | None = None):
        """`photo` and `word` are the runtime's sessions of the two graphs. They cannot be pickled; `reload` creates
        them again in the process that unpickles this."""
        self.photo, self.word = photo, word
        self.inputs = [each.name for each in word.get_inputs()]
        self.has_attention = has_attention
        self.reload = reload

    def __reduce__(self) -> Any:
        if self.reload is None:
            raise TypeError("this backend was not loaded from a checkpoint, so it cannot be pickled.")
        return self.reload, ()

    def __str__(self) -> str:
        return "the ONNX runtime on cpu"

    def encode(self, images: np.ndarray) -> Encoded:
        """Preprocessed photos (B, 3, S, S) -> what the word graph needs of them."""
        name = self.photo.get_inputs()[0].name
        parts = [
            run(self.photo, {name: images[start : start + PHOTOS_AT_ONCE]})
            for start in range(0, len(images), PHOTOS_AT_ONCE)
        ]
        size = 2 if self.has_attention else 0  # tensors of the memory; the state follows
        memory = tuple(np.concatenate([part[i] for part in parts]) for i in range(size))
        recurrent = tuple(np.concatenate([part[i] for part in parts], axis=1) for i in range(size, len(parts[0])))
        return Encoded(memory, recurrent, np.arange(len(images)))

    def grid_mean(self, encoded: Encoded) -> np.ndarray | None:
        """The mean features of the grid (B, D); None without attention."""
        return encoded.memory[0].mean(axis=1) if encoded.memory else None

    def step(self, encoded: Encoded) -> Step:
        return partial(self._step, encoded)

    def step_without_each_region(self, encoded: Encoded) -> Step:
        """The step of one photo as R photos, each without one region of the grid. The state after the photo is that of
        the whole photo."""
        regions = encoded.memory[0].shape[1]
        kept = all_but_one(regions)
        memory = tuple(part[0, kept] for part in encoded.memory)  # (R, R - 1, D) and (R, R - 1, H)
        recurrent = tuple(part.repeat(regions, axis=1) for part in encoded.recurrent)  # (L, R, H)
        return self.step(Encoded(memory, recurrent, np.arange(regions)))

    def _step(
        self,
        encoded: Encoded,
        words: np.ndarray,
        rows: np.ndarray,
        state: Encoded | None,
        images: np.ndarray,
        choose: Choose,
    ) -> tuple[Choices, Encoded]:
        """A `Step` once `encoded` is bound. Without a state it starts from these photos."""
        memory, recurrent, before = state or encoded
        if len(images) < len(before):
            kept = np.searchsorted(before, images)
            memory = tuple(part[kept] for part in memory)
        B, N = len(images), len(words)
        beams = [part[:, rows].reshape(len(part), B, N // B, -1) for part in recurrent]  # (L, B, K, H)
        given = (words.reshape(B, -1), *memory, *beams)
        logits, *found = run(self.word, dict(zip(self.inputs, given, strict=True)))
        attention = found.pop(0).reshape(N, -1) if self.has_attention else None  # (N, R)
        recurrent = tuple(part.reshape(len(part), N, -1) for part in found)  # (L, N, H)
        return choose_words(logits.reshape(N, -1), choose, attention), Encoded(memory, recurrent, images)


def run(session: Any, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph. Raises CheckpointError if it cannot be run, for instance because it needs more than
    `MEMORY`."""
    try:
        return session.run(None, given)
    except Exception as error:
        raise CheckpointError(
            f"the model's graph cannot be run ({_reason(error)}). Make it again with {EXPORT}."
        ) from None


def _reason(error: Exception) -> str:
    """The runtime's message, on one line. Its exceptions have no common base class."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"…{text[-300:]}"


@cache
def _bound_memory() -> None:
    """Let all sessions of this process share one arena of `MEMORY` bytes, because even a small graph can ask for any
    amount."""
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(RuntimeError):  # the program that uses captioner has created its own arena
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": MEMORY}))


def load_runtime(
    directory: Path, saved: Mapping[str, Any], config: ModelConfig, vocabulary_size: int, side: int
) -> OnnxBackend:
    """The backend of an exported checkpoint. `saved` is all of its config.json, with the sizes and hashes of weights
    and graphs; `side` is that of the preprocessed photos. Raises CheckpointError."""
    import onnxruntime

    weights, graphs = saved.get("weights"), saved.get("graphs")
    check_file(directory / WEIGHTS, weights, directory / CONFIG)
    check_finite(directory / WEIGHTS)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores also read photos and search
    paths = [directory / f"{name}.onnx" for name in GRAPHS]
    signatures = []
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; the ONNX backend needs exported models. Use {EXPORT}.")
        if not isinstance(graphs, dict):
            raise CheckpointError(f"{directory / CONFIG} has no hashes of the graphs. Make them again with {EXPORT}.")
        check_file(path, graphs.get(path.name), directory / CONFIG)
        signatures.append(check_graph(path))
    photo, word = signatures
    check_signatures(directory, photo, word, config, vocabulary_size, side)
    _bound_memory()
    sessions = []
    for path in paths:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be loaded by the ONNX runtime ({_reason(error)}). Make it again with {EXPORT}."
            ) from None
        if session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != saved["weights"]["sha256"]:
            raise CheckpointError(
                f"{path} was exported from weights other than those beside it. Make it again with {EXPORT}."
            )
        sessions.append(session)
    reload = partial(load_runtime, directory, dict(saved), config, vocabulary_size, side)
    return OnnxBackend(sessions[0], sessions[1], config.attention != "none", reload)
