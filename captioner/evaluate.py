"""Evaluation of a model: every photo of a split is captioned once, and the captions are scored against the references.
The scores themselves are in `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.readers import Record
from captioner.decoding import Decoding
from captioner.images import ImageError
from captioner.metrics.attention import summary
from captioner.metrics.files.results import Results, references_of
from captioner.metrics.files.score_file import ScoreFile, score_results


def caption_records(
    captioner: Captioner,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    watch: Callable[[Record, Caption], None] | None = None,
) -> tuple[Results, dict[str, float]]:
    """Caption the photo of each record once, with a progress bar. Returns the captions, and means of their attention
    statistics. `watch` is called with each caption; after that its attention maps are freed. Raises `ImageError` for a
    photo that cannot be read."""
    captions: dict[int | str, str] = {}
    unfinished = set()
    statistics = []
    stream = captioner.caption_many((record.path for record in records), decoding, batch_size)
    bar = tqdm(stream, total=len(records), desc="captions", unit="photo")
    for record, result in zip(records, bar, strict=True):
        if isinstance(result, ImageError):
            raise result
        captions[record.id] = result.text
        if watch is not None:
            watch(record, result)
        if (of_caption := result.attention_statistics) is not None:
            statistics.append(replace(of_caption, entropy=(), movement=()))  # the figures per word are not needed
        if not result.finished:
            unfinished.add(record.id)
    return Results(captions, frozenset(unfinished)), summary(statistics)


def evaluate(
    captioner: Captioner, records: Sequence[Record], decoding: Decoding, split: str, batch_size: int = 32
) -> tuple[ScoreFile, dict[int | str, str]]:
    """Caption the records' photos and score the captions. Returns the scores, and the caption of each image by id."""
    results, attention = caption_records(captioner, records, decoding, batch_size)
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
