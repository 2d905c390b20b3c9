"""The run of the recipe `pretrain`, which learns from text. It is started here, or resumed from `last/`; the steps are
in `loop`, their order in `pretrain`. Long documents are arranged as parallel streams, and the state is carried from
segment to segment; short ones, one per line, are batched whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from captioner import distributed
from captioner.data.text import Documents, Segment, Streams, Text, read_documents
from captioner.decoder import Decoder
from captioner.device import choose_device
from captioner.language_model import LanguageModel
from captioner.model import build_language_model
from captioner.training.config import PretrainConfig, Stage
from captioner.training.initial import Initial
from captioner.training.loop import counted
from captioner.training.run import (
    Progress,
    Run,
    Selection,
    check_unused,
    load_last,
    settings_of_model,
    write_settings,
)
from captioner.vocabulary import UNK

HELD_OUT = 0.1  # share of the text, at its end, to validate on if no other text is given
VALIDATION_STREAMS = 8  # few, because each starts without the context before it


class TextBatch(NamedTuple):
    segment: Segment  # all (B, T)
    continues: bool  # its rows continue those of the previous batch, so the state is carried over
    ids: list[str]

    def to(self, device: torch.device) -> TextBatch:
        return self._replace(segment=Segment(*(part.to(device, non_blocking=True) for part in self.segment)))


class Corpus:
    """An encoded text as batches."""

    def __init__(self, targets: Any, starts: Any, document: str, rows: int):
        """Targets (n,) and document starts (n,), as in `Text`; `rows` is B, the rows of a batch."""
        self.rows = rows
        self.tokens = len(targets)
        self.unknown = float((targets == UNK).mean())  # share
        if document == "file" and len(targets) < 2 * rows:
            raise ValueError(
                f"a text of {counted(len(targets), 'token')} cannot be cut into {counted(rows, 'stream')}. "
                "Lower --batch-size, or add text."
            )
        self.text = Streams(targets, starts, rows) if document == "file" else Documents(targets, starts)
        self.unit = "segment" if document == "file" else "document"

    def order(self, bptt: int, seed: Sequence[int] | None, vary: bool = False) -> list[list[Any]]:
        """The items of each batch of an epoch: documents, or one segment of each stream as (stream, begin, end).
        Without a seed, in order."""
        if isinstance(self.text, Streams):
            spans = self.text.spans(bptt, seed if vary else None)
            return [[(stream, begin, end) for stream in range(self.rows)] for begin, end in spans]
        return self.text.batches(self.rows, seed)

    def load(self, order: list[list[Any]]) -> Iterator[TextBatch]:
        for items in order:
            if isinstance(self.text, Streams):
                streams, (begin, *_), (end, *_) = zip(*items, strict=True)
                segment = Segment(*(part[list(streams)] for part in self.text[begin, end]))
                names = [f"tokens {begin} to {end - 1} of stream {stream}" for stream in streams]
                yield TextBatch(segment, continues=begin > 0, ids=names)
            else:
                yield TextBatch(self.text[items], continues=False, ids=[f"document {index}" for index in items])


@dataclass(kw_only=True)
class TextRun(Run):
    config: PretrainConfig
    model: Decoder
    language_model: LanguageModel
    training: Corpus
    validation: Corpus

    def rate(self, batches: Sequence[TextBatch]) -> float:
        """The learning rate is scaled by the length of the segment (Merity, Keskar and Socher 2018, section 4.1)."""
        if self.config.document == "line":
            return 1.0
        return sum(batch.segment.inputs.shape[1] for batch in batches) / (len(batches) * self.config.bptt)

    def describe(self, scores: Mapping[str, float] | None) -> dict[str, Any]:
        training = {
            "data": ", ".join(path.name for path in self.config.text),
            "tokens": self.training.tokens,
            "step": self.progress.step,
            "hours": round(self.progress.seconds / 3600, 2),
            "settings": settings_of_model(self.config) | {"init": self.config.init and self.config.init.name},
        }
        return self.language_model.to_config() | {"training": training, "scores": scores}


def open_text_run(config: PretrainConfig) -> tuple[TextRun, dict[str, Any]]:
    """A new run, or with `--resume` the one in `--output`, and the state from its `last/` (empty for a new run)."""
    if config.document == "file" and config.batch_size < distributed.count():
        raise ValueError(
            f"--batch-size is {config.batch_size}; expected at least one stream for each of the "
            f"{distributed.count()} processes. Start fewer processes, or raise --batch-size."
        )
    training, validation = read_texts(config)
    digest = _digest(training, validation)
    state: dict[str, Any] = {}
    if config.resume:
        state = load_last(config, digest)
        language_model = LanguageModel.load(config.output / "last", config.device)
    else:
        check_unused(config.output)
        language_model = build(config, training)
    vocabulary = language_model.vocabulary
    corpora = [
        Corpus(text.encode(vocabulary), text.starts, config.document, rows)
        for text, rows in ((training, config.batch_size), (validation, min(config.batch_size, VALIDATION_STREAMS)))
    ]
    if not config.resume:
        write_settings(config, digest)
    score = "perplexity" if config.level == "word" else "bits per character"
    run = TextRun(
        config=config,
        stages=[Stage("decoder", config.epochs, "language-model")],
        model=language_model.decoder,
        progress=Progress(**state.get("progress", {})),
        selection=Selection(score, larger_is_better=False),
        shown=("loss", score),
        language_model=language_model,
        training=corpora[0],
        validation=corpora[1],
    )
    return run, state


def read_texts(config: PretrainConfig) -> tuple[Text, Text]:
    """The text to train on and the text to validate on. Raises ValueError if either is empty."""

    def read(paths: Sequence[Path], split: str) -> Text:
        text = Text.of(read_documents(paths, config.level, config.document, split))
        if not len(text):
            raise ValueError(f"{', '.join(map(str, paths))}: no text. Expected UTF-8 files with words.")
        return text

    text = read(config.text, "train")
    if config.validation:
        return text, read(config.validation, "val")
    end = len(text) - round(HELD_OUT * len(text))
    later = text.starts[end:].nonzero()[0]
    end += int(later[0]) if len(later) else 0  # at the start of a document, if there is one
    if not 0 < end < len(text):
        raise ValueError(
            f"{counted(len(text), 'token')} of text are too few to hold out a part. Pass --validation FILE."
        )
    return text.part(0, end), text.part(end, len(text))


def build(config: PretrainConfig, training: Text) -> LanguageModel:
    """An untrained model with the vocabulary of the training text. Raises ValueError if that is empty."""
    torch.manual_seed(config.seed)
    vocabulary = training.vocabulary(config.min_count)
    if not vocabulary.words:
        raise ValueError(f"no {config.level} occurs {config.min_count} times in the text. Lower --min-count.")
    initial = Initial.load(config.init, config.level) if config.init else None
    decoder = build_language_model(config.model, len(vocabulary))
    if initial:
        initial.place(decoder, vocabulary, config.model)
    decoder.to(choose_device(config.device))
    return LanguageModel(decoder, vocabulary, config.model, config.level, config.document)


def _digest(*texts: Text) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update("\0".join(text.tokens).encode("utf-8", "surrogatepass"))
        digest.update(text.ids.tobytes() + text.starts.tobytes())
    return digest.hexdigest()
