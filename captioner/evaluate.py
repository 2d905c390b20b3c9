"""Evaluation of a model: every photo of a split is captioned once, and the captions are scored against the references.
The scores themselves are in `metrics`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.checks import check_damaged
from captioner.data.readers import Record
from captioner.decoding import Decoding
from captioner.images import ImageError
from captioner.metrics.attention import AttentionStatistics, summary
from captioner.metrics.files.reading import Id
from captioner.metrics.files.references import references_of
from captioner.metrics.files.results import Results
from captioner.metrics.files.score_file import ScoreFile, score_results


class Captioned(NamedTuple):
    results: Results
    attention: dict[str, float]  # means of the attention statistics
    damaged: list[str]  # one line per photo that cannot be read; such photos have no caption
    confidences: dict[Id, float]  # of the captions, if the model is calibrated


@dataclass(frozen=True)
class Entry:
    """What is kept of a caption for its evaluation."""

    caption: str
    finished: bool
    confidence: float | None
    looks: AttentionStatistics | None  # without the figures per word

    @classmethod
    def of(cls, caption: Caption) -> Entry:
        looks = caption.attention_statistics
        looks = None if looks is None else replace(looks, entropy=(), movement=())
        return cls(caption.text, caption.finished, caption.confidence, looks)


class Kept:
    """The captions of an evaluation in progress, as JSON lines in a file: first the settings, then one caption per
    line. If the evaluation is killed, a later one with the same settings continues from them."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        """Raises ValueError if the file has captions of an evaluation with other settings, or something else."""
        self.path, self.entries = path, dict[str, Entry]()
        first = json.dumps(settings).encode()
        content = path.read_bytes() if path.is_file() else b""
        *lines, _ = content.split(b"\n")  # a killed writer leaves an incomplete line
        if lines and lines[0] != first:
            raise ValueError(
                f"{path} has captions of an evaluation with other settings. Use the same settings, or remove it."
            )
        for number, line in enumerate(lines[1:], 2):
            try:
                photo, entry = json.loads(line)
                looks = AttentionStatistics((), (), **entry["looks"]) if entry["looks"] else None
                self.entries[photo] = Entry(**{**entry, "looks": looks})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}:{number}: not a caption of an evaluation ({error!s:.100}). Remove it."
                ) from None
        path.write_bytes(b"".join(line + b"\n" for line in lines or [first]))

    def add(self, photo: str, entry: Entry) -> None:
        looks = entry.looks and {k: v for k, v in asdict(entry.looks).items() if k not in ("entropy", "movement")}
        with self.path.open("ab") as file:
            file.write(json.dumps([photo, {**vars(entry), "looks": looks}]).encode() + b"\n")

    def remove(self) -> None:
        self.path.unlink()


def _stamp(record: Record) -> str:
    """A string that identifies a photo and the state of its file."""
    try:
        status = record.path.stat()
    except OSError:
        return f"{record.id!r} cannot be read"
    return f"{record.id!r} {status.st_size} {status.st_mtime_ns}"


def caption_records(
    captioner: Captioner,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    watch: Callable[[Record, Caption], None] | None = None,
    kept: Kept | None = None,
) -> Captioned:
    """Caption the photo of each record once, with a progress bar. `watch` is called with each caption; after that its
    attention maps are freed. Photos whose captions are `kept` are not captioned again."""
    captions: dict[Id, str] = {}
    confidences: dict[Id, float] = {}
    unfinished = set()
    looks = []
    damaged = []
    stamps = ["" if kept is None else _stamp(record) for record in records]
    done = {} if kept is None else kept.entries
    missing = (record.path for record, stamp in zip(records, stamps, strict=True) if stamp not in done)
    stream = captioner.caption_many(missing, decoding, batch_size)
    bar = tqdm(records, desc="captions", unit="photo", disable=None)
    for record, stamp in zip(bar, stamps, strict=True):
        entry = done.get(stamp)
        if entry is None:
            result = next(stream)
            if isinstance(result, ImageError):
                damaged.append(str(result))
                continue
            if watch is not None:
                watch(record, result)
            entry = Entry.of(result)
            if kept is not None:
                kept.add(stamp, entry)
        captions[record.id] = entry.caption
        if entry.confidence is not None:
            confidences[record.id] = entry.confidence
        if entry.looks is not None:
            looks.append(entry.looks)
        if not entry.finished:
            unfinished.add(record.id)
    return Captioned(Results(captions, frozenset(unfinished)), summary(looks), damaged, confidences)


def evaluate(
    captioner: Captioner, records: Sequence[Record], decoding: Decoding, split: str, batch_size: int = 32
) -> tuple[ScoreFile, dict[int | str, str]]:
    """Caption the records' photos and score the captions. Returns the scores, and the caption of each image by id.
    Damaged photos are left out and noted in the scores; raises ValueError if they are more than a quarter."""
    results, attention, damaged, _ = caption_records(captioner, records, decoding, batch_size)
    check_damaged(damaged, len(records))
    return score_split(captioner, results, attention, records, decoding, split), results.captions


def score_split(
    captioner: Captioner,
    results: Results,
    attention: dict[str, float],
    records: Sequence[Record],
    decoding: Decoding,
    split: str,
    java: Sequence[str] = (),
    nltk: bool = False,
    training: Iterable[str] | None = None,
) -> ScoreFile:
    """Score the results and attention statistics of `caption_records`, with intervals, slices and provenance.
    `training` holds the training captions, for counting captions that copy one; `java` names the scores that need Java;
    `nltk` also computes BLEU as nltk does."""
    provenance = {"decoding": asdict(decoding), "model": captioner.provenance}
    scored = score_results(
        results, references_of(records), split=split, training=training, java=java, nltk=nltk, provenance=provenance
    )
    scored.habits |= attention
    return scored
