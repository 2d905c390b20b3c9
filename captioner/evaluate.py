"""Evaluation of a model: every photo of a split is captioned once, and the captions are scored against the references.
The scores themselves are in `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.checks import check_damaged
from captioner.data.readers import Record
from captioner.decoding import Decoding
from captioner.images import ImageError
from captioner.metrics.attention import summary
from captioner.metrics.files.references import references_of
from captioner.metrics.files.results import Results
from captioner.metrics.files.score_file import ScoreFile, score_results


class Captioned(NamedTuple):
    results: Results
    attention: dict[str, float]  # means of the attention statistics
    damaged: list[str]  # what is wrong with each photo that cannot be read; such photos have no caption


def caption_records(
    captioner: Captioner,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    watch: Callable[[Record, Caption], None] | None = None,
) -> Captioned:
    """Caption the photo of each record once, with a progress bar. `watch` is called with each caption; after that its
    attention maps are freed."""
    captions: dict[int | str, str] = {}
    unfinished = set()
    statistics = []
    damaged = []
    stream = captioner.caption_many((record.path for record in records), decoding, batch_size)
    bar = tqdm(stream, total=len(records), desc="captions", unit="photo", disable=None)
    for record, result in zip(records, bar, strict=True):
        if isinstance(result, ImageError):
            damaged.append(str(result))
            continue
        captions[record.id] = result.text
        if watch is not None:
            watch(record, result)
        if (of_caption := result.attention_statistics) is not None:
            statistics.append(replace(of_caption, entropy=(), movement=()))  # the figures per word are not needed
        if not result.finished:
            unfinished.add(record.id)
    return Captioned(Results(captions, frozenset(unfinished)), summary(statistics), damaged)


def evaluate(
    captioner: Captioner, records: Sequence[Record], decoding: Decoding, split: str, batch_size: int = 32
) -> tuple[ScoreFile, dict[int | str, str]]:
    """Caption the records' photos and score the captions. Returns the scores, and the caption of each image by id.
    Damaged photos are left out and noted in the scores; ValueError if they are more than a quarter."""
    results, attention, damaged = caption_records(captioner, records, decoding, batch_size)
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
    training: Iterable[str] | None = None,
) -> ScoreFile:
    """Score the results and attention statistics of `caption_records`, with intervals, slices and provenance.
    `training` holds the training captions, among which copies are counted; `java` names scores that need Java."""
    provenance = {"decoding": asdict(decoding), "model": captioner.provenance}
    scored = score_results(
        results, references_of(records), split=split, training=training, java=java, provenance=provenance
    )
    scored.habits |= attention
    return scored
