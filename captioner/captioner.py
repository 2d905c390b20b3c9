"""The public interface: a trained model that captions photos. It joins preprocessing, a backend that runs the network,
the search and the vocabulary, each of which has a file of its own. Importing this file imports no torch."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from captioner.backends.choose import Backend, choose_backend
from captioner.backends.ensemble import EnsembleBackend
from captioner.backends.onnx_backend import OnnxBackend, load_runtime
from captioner.caption import Caption
from captioner.checkpoint.manifest import (
    AGAIN,
    CONFIG,
    DEFAULT,
    LANGUAGE_MODEL,
    CheckpointError,
    find_checkpoint,
    read_config,
)
from captioner.confidence import Confidence
from captioner.config import ModelConfig
from captioner.decoding import ALTERNATIVES, Decoding, Hypothesis, force, search
from captioner.extras import name_missing_extras
from captioner.images import ImageError, Preprocess, Source
from captioner.vocabulary import EOS, Vocabulary, detokenize, tokenize

if TYPE_CHECKING:
    from captioner.backends.torch_backend import TorchBackend
    from captioner.model import CaptionModel

logger = logging.getLogger("captioner")  # at INFO it logs the model, the backend and the device
WORKERS = 1 + min(os.cpu_count() or 1, 7)  # batches in progress at once; more than cores, as one may wait for files


class Captioner:
    """`Captioner.load().caption("photo.jpg").text`

    It can be pickled, for process pools. Each process loads an exported model from its directory again."""

    def __init__(
        self,
        backend: TorchBackend | OnnxBackend | EnsembleBackend,
        vocabulary: Vocabulary,
        preprocess: Preprocess,
        config: ModelConfig,
        decoding: Decoding | None = None,
        provenance: str = "in memory",
        confidence: Confidence | None = None,
    ):
        """`provenance` identifies the model: a checkpoint's name and the SHA-256 of its weights. `confidence` is fitted
        by `captioner.calibrate`; without it, captions have no confidence."""
        self.backend = backend
        self.vocabulary = vocabulary
        self.preprocess = preprocess
        self.config = config
        self.decoding = decoding or Decoding()
        self.provenance = provenance
        self.confidence = confidence

    def __repr__(self) -> str:
        return f"<Captioner {self.provenance}; {self.backend}>"

    @classmethod
    def load(cls, checkpoint: str | Path | None = None, device: str = "auto", backend: Backend = "auto") -> Captioner:
        """Load a model from its directory, by its name if it is shipped with captioner ("flickr8k"), or from the
        Hugging Face hub ("hf://owner/name" or "hf://owner/name@revision"); without any of these, the default model.

        The ONNX runtime runs exported models on a CPU and needs no torch; torch runs any model on any device. `auto`
        chooses torch if the model is not exported, or if torch is installed and there is an NVIDIA GPU; otherwise the
        ONNX runtime. Raises `CheckpointError` (a ValueError) naming what is wrong with the directory.
        """
        directory = find_checkpoint(checkpoint or DEFAULT)
        saved = read_config(directory)
        if saved.get("kind") == LANGUAGE_MODEL:
            raise CheckpointError(
                f"{directory} is a language model, which sees no photos. Write text with it (captioner write), or "
                "train a captioner from it (captioner train --init)."
            )
        try:
            config, vocabulary = ModelConfig.from_dict(saved["model"]), Vocabulary(saved["vocabulary"])
            preprocess, decoding = Preprocess.from_dict(saved["preprocess"]), Decoding(**saved["decoding"])
            confidence = None if saved.get("confidence") is None else Confidence.from_dict(saved["confidence"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else f"{error!s:.300}"
            raise CheckpointError(f"{directory / CONFIG} describes no model ({reason}). {AGAIN}") from None
        runs: TorchBackend | OnnxBackend
        if choose_backend(directory, device, backend) == "onnx":
            runs = load_runtime(directory, saved, config, len(vocabulary), preprocess.size)
        else:
            with name_missing_extras():
                from captioner.backends.torch_backend import load_backend

            runs = load_backend(directory, config, len(vocabulary), device)
        provenance = f"{directory.name}, SHA-256 {saved['weights']['sha256']}"
        captioner = cls(runs, vocabulary, preprocess, config, decoding, provenance, confidence)
        logger.info("%s runs with %s", provenance, runs)
        return captioner

    @classmethod
    def ensemble(cls, members: Sequence[Captioner]) -> Captioner:
        """An ensemble of several models: the probability of each word is the mean of theirs. Preprocessing, decoding
        settings and config come from the first model. Raises ValueError if vocabularies or preprocessing differ."""
        first = members[0]
        for member in members[1:]:
            for name in ("vocabulary", "preprocess"):
                if getattr(member, name) != getattr(first, name):
                    names = [each.provenance.partition(",")[0] for each in (first, member)]
                    raise ValueError(
                        f"{' and '.join(names)} differ in their {name}, but all models of an ensemble must have the "
                        "same. Train them on the same data with the same settings."
                    )
        backend = EnsembleBackend([member.backend for member in members], len(first.vocabulary))
        provenance = " + ".join(member.provenance for member in members)
        return cls(backend, first.vocabulary, first.preprocess, first.config, first.decoding, provenance)

    @property
    def model(self) -> CaptionModel:
        """The torch module. Raises ValueError if the model runs on the ONNX runtime or is an ensemble, because neither
        has such a module."""
        if isinstance(self.backend, EnsembleBackend):
            raise ValueError("an ensemble has no single torch module: load one of its checkpoints.")
        if isinstance(self.backend, OnnxBackend):
            raise ValueError("this needs torch, but ONNX Runtime runs this model. Load it with backend='torch'.")
        return self.backend.model

    def to_config(self) -> dict[str, Any]:
        """The entries of a checkpoint's config.json that describe the model."""
        return {
            "model": asdict(self.config),
            "preprocess": self.preprocess.to_dict(),
            "decoding": asdict(self.decoding),
            "vocabulary": list(self.vocabulary.words),
        }

    @overload
    def caption(self, photos: Source, decoding: Decoding | None = None, **changes: Any) -> Caption: ...
    @overload
    def caption(self, photos: Sequence[Source], decoding: Decoding | None = None, **changes: Any) -> list[Caption]: ...

    def caption(
        self, photos: Source | Sequence[Source], decoding: Decoding | None = None, **changes: Any
    ) -> Caption | list[Caption]:
        """Caption a photo, or a list of photos: paths, bytes, open files, Pillow images or arrays.

        `changes` override single settings of the model (see `Decoding.override`): `caption(photo, beam_size=5)`. At
        least 4 alternatives per word are reported unless `changes` say otherwise. `decoding` replaces all of the
        model's settings. Raises `ImageError` for the first photo that cannot be read.
        """
        settings = (decoding or self.decoding.for_display()).override(**changes)
        if isinstance(photos, list | tuple):
            return self._caption_all(photos, settings)
        return self._caption_all([cast("Source", photos)], settings)[0]

    def _caption_all(self, photos: Iterable[Source], decoding: Decoding) -> list[Caption]:
        captions = []
        for result in self.caption_many(photos, decoding):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    def caption_many(
        self, photos: Iterable[Source], decoding: Decoding | None = None, batch_size: int = 32
    ) -> Iterator[Caption | ImageError]:
        """Caption any number of photos, in order, `batch_size` at a time. Several batches are in progress at once, so
        that photos are read while others are captioned. A photo that cannot be read yields its `ImageError` in place of
        a caption."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        settings = decoding or self.decoding
        waiting = iter(photos)
        coming: deque[Future[list[Caption | ImageError]]] = deque()
        stopped = Event()
        pool = ThreadPoolExecutor(WORKERS)
        try:
            while True:
                while len(coming) <= WORKERS and (batch := list(islice(waiting, batch_size))):
                    coming.append(pool.submit(self._caption_batch, batch, settings, stopped))
                if not coming:
                    return
                yield from coming.popleft().result()
        finally:  # also after an interrupt: start no further photo
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def _caption_batch(
        self, photos: Sequence[Source], decoding: Decoding, stopped: Event
    ) -> list[Caption | ImageError]:
        read: list[tuple[np.ndarray, tuple[int, int], Source]] = []  # pixels (3, S, S), width and height, photo
        errors: dict[int, ImageError] = {}
        for index, photo in enumerate(photos):
            if stopped.is_set():
                return []
            try:
                read.append((*self.preprocess.read(photo), photo))
            except ImageError as error:
                errors[index] = error
        captions: Iterator[Caption] = iter(())
        if read:
            memory = self.backend.encode(np.stack([pixels for pixels, _, _ in read]))
            found = self.search(memory, len(read), decoding, [size for _, size, _ in read])
            captions = (caption.of(photo) for caption, (_, _, photo) in zip(found, read, strict=True))
        return [errors[index] if index in errors else next(captions) for index in range(len(photos))]

    @overload
    def read(self, photo: Source, captions: str) -> Caption: ...  # type: ignore[overload-overlap]  # str comes first
    @overload
    def read(self, photo: Source, captions: Sequence[str]) -> list[Caption]: ...

    def read(self, photo: Source, captions: str | Sequence[str]) -> Caption | list[Caption]:
        """Score given captions of a photo by forced decoding. Each result has the probability that the model gives to
        each word, the most probable alternatives, and the attention. A word that is not in the vocabulary becomes
        "<unk>" and gets the probability of that token.

        Raises `ImageError` if the photo cannot be read, and ValueError for a caption without words."""
        if isinstance(captions, str):
            return self.read(photo, [captions])[0]
        words = [tokenize(caption) for caption in captions]
        if not words or not all(words):
            raise ValueError(f"captions are {list(captions)!r:.80}; expected at least one, each with words.")
        pixels, size = self.preprocess.read(photo)
        memory: Any = self.backend.encode(pixels[None])
        (hypotheses,) = force(self.backend.step(memory), [[*map(self.vocabulary.encode, words)]], ALTERNATIVES)
        found = (self._to_caption(each, self.preprocess.box(*size)).of(photo) for each in hypotheses)
        return [replace(each, text=text) for each, text in zip(found, captions, strict=True)]

    def with_evidence(self, photo: Source, captions: Sequence[Caption]) -> list[Caption]:
        """Add evidence to captions of a photo from `caption` or `read`. The evidence of a region for a word is the
        word's log-probability minus its log-probability when that region is hidden from the attention. The words are
        fed by forced decoding. The state after the photo is not recomputed, so it still depends on the whole photo.

        This is the difference of Li et al. 2016 (https://arxiv.org/abs/1612.08220), not divided by the log-probability.
        Raises `ImageError` if the photo cannot be read, and ValueError for a model without attention."""
        if self.config.attention == "none":
            raise ValueError("this model has no attention, so no region can be left out.")
        pixels, _ = self.preprocess.read(photo)
        memory: Any = self.backend.encode(pixels[None])
        step = self.backend.step_without_each_region(memory)
        grid = cast("np.ndarray", captions[0].attention).shape[1:]
        words = [self.vocabulary.encode(caption.words) for caption in captions]
        by_region = force(step, [words] * math.prod(grid))  # R x captions
        found = []
        for caption, without in zip(captions, zip(*by_region, strict=True), strict=True):
            left = np.array([each.log_probabilities for each in without])  # (R, T)
            evidence = np.array(caption.log_probabilities)[:, None] - left.T  # (T, R)
            found.append(replace(caption, evidence=evidence.reshape(-1, *grid)))
        return found

    def search(
        self, memory: Any, photos: int, decoding: Decoding, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Caption]:
        """The captions of photos whose `memory` is from `backend.encode`; `sizes` are the original (width, height)."""
        found = search(self.backend.step(memory), photos, decoding, self.vocabulary.function_words)
        strangeness = None
        if self.confidence is not None:
            strangeness = self.confidence.strangeness(self.backend.grid_mean(memory), photos).tolist()
        captions = []
        for i, hypotheses in enumerate(found):
            box, strange = self.preprocess.box(*sizes[i]) if sizes else None, strangeness and strangeness[i]
            best, *others = (self._to_caption(each, box, strange) for each in hypotheses)
            captions.append(replace(best, other_captions=tuple(others)))
        return captions

    def _to_caption(
        self, best: Hypothesis, box: tuple[float, float, float, float] | None, strangeness: float | None = None
    ) -> Caption:
        words = self.vocabulary.decode(best.words)
        attention = None
        if best.attention is not None and best.attention.shape[-1]:
            side = round(best.attention.shape[-1] ** 0.5)
            attention = best.attention.reshape(len(words), side, -1)  # (T, h, w)
        alternatives = None
        if best.alternatives is not None:
            alternatives = [
                [("<end>" if word == EOS else self.vocabulary[word], p) for word, p in step]
                for step in best.alternatives
            ]
        return Caption(
            text=detokenize(words),
            words=words,
            log_probabilities=best.log_probabilities,
            log_probability=best.log_probability,
            score=best.score,
            finished=best.finished,
            confidence=None if strangeness is None else self.confidence.of(best, strangeness),  # type: ignore[union-attr]
            attention=attention,
            box=box,
            alternatives=alternatives,
        )
