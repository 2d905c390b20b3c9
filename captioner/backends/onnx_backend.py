"""The ONNX backend: runs an exported checkpoint on a CPU without torch, with the same preprocessing, search and
captions as the torch backend. Which of the two runs a checkpoint is decided in `choose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioner.checkpoint.manifest import CONFIG, GRAPHS, WEIGHTS, CheckpointError, check_file
from captioner.decoding import Choices, Choose, choose_words

WEIGHTS_KEY = "captioner.weights.sha256"  # in a graph's metadata: whose weights it computes with
EXPORT = "captioner export DIRECTORY (which needs torch: pip install 'captioner[train]')"
PHOTOS_AT_ONCE = 4  # more do not fit into a CPU's caches and take longer, each


class Encoded(NamedTuple):
    """What the photo graph says of B photos."""

    looked_at: tuple[np.ndarray, ...]  # values (B, R, D) and keys (B, R, H), or nothing without attention
    state: tuple[np.ndarray, ...]  # after the photo, each part (L, B, H)


class OnnxBackend:
    def __init__(self, photo: Any, word: Any, has_attention: bool):
        """The runtime's sessions of the two graphs."""
        self.photo, self.word = photo, word
        self.has_attention = has_attention

    def encode(self, images: np.ndarray) -> Encoded:
        """Preprocessed photos (B, 3, S, S) -> what the word graph needs of them."""
        name = self.photo.get_inputs()[0].name
        parts = [
            self.photo.run(None, {name: images[start : start + PHOTOS_AT_ONCE]})
            for start in range(0, len(images), PHOTOS_AT_ONCE)
        ]
        looked_at = 2 if self.has_attention else 0
        joined = [
            np.concatenate(part, axis=0 if i < looked_at else 1) for i, part in enumerate(zip(*parts, strict=True))
        ]
        return Encoded(tuple(joined[:looked_at]), tuple(joined[looked_at:]))

    def step(self, memory: Encoded) -> OnnxStep:
        return OnnxStep(self, memory)


class OnnxStep:
    """`decoding.Step` over the word graph and the photos that the photo graph saw."""

    def __init__(self, backend: OnnxBackend, memory: Encoded):
        self.backend = backend
        self.all = memory
        self.looked_at = memory.looked_at
        self.images = np.arange(memory.state[0].shape[1])
        self.state: Sequence[np.ndarray] = memory.state
        self.names = [each.name for each in backend.word.get_inputs()]

    def __call__(self, words: np.ndarray, rows: np.ndarray | None, images: np.ndarray, choose: Choose) -> Choices:
        if rows is None:
            self.looked_at, self.state, self.images = self.all.looked_at, self.all.state, images
        else:
            self.state = [part[:, rows] for part in self.state]  # (L, N, H)
            if len(images) < len(self.images):
                kept = np.searchsorted(self.images, images)
                self.looked_at, self.images = tuple(part[kept] for part in self.looked_at), images
        photos = len(images)
        state = [part.reshape(len(part), photos, -1, part.shape[-1]) for part in self.state]  # (L, B, K, H)
        given = (words.reshape(photos, -1), *self.looked_at, *state)
        logits, *found = self.backend.word.run(None, dict(zip(self.names, given, strict=True)))
        attention = found.pop(0).reshape(len(words), -1) if self.backend.has_attention else None  # (N, R)
        self.state = [part.reshape(len(part), len(words), -1) for part in found]
        return choose_words(logits.reshape(len(words), -1), choose, attention)


def load_runtime(directory: Path, weights: Any, has_attention: bool) -> OnnxBackend:
    """The backend of an exported checkpoint with these weights: their size and sha256, as the config has them.
    Raises CheckpointError."""
    import onnxruntime

    check_file(directory / WEIGHTS, weights, directory / CONFIG)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores also read photos and search
    sessions = []
    for name in GRAPHS:
        path = directory / f"{name}.onnx"
        if not path.is_file():
            raise CheckpointError(f"{path} is not there: the ONNX runtime runs exported models. Make it with {EXPORT}.")
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own classes, which have nothing else in common
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{path} cannot be loaded by the ONNX runtime ({reason}). Make it again with {EXPORT}."
            ) from None
        if session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != weights["sha256"]:
            raise CheckpointError(
                f"{path} was exported from other weights than lie beside it. Make it again with {EXPORT}."
            )
        sessions.append(session)
    return OnnxBackend(sessions[0], sessions[1], has_attention)
