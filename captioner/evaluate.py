"""How good a model is: every photo of a split captioned once, freely, and the captions scored against people's.
What the scores are is the business of `metrics`."""

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

Watch = Callable[[Record, Caption], None]


def caption_records(
    captioner: Captioner,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    watch: Watch | None = None,
) -> tuple[Results, dict[str, float]]:
    """Caption the records' photos, each once, with a progress bar: the text of each image, and means of how the model
    looked at them. Photos and maps are gone when their batch is. `watch` is called with each caption. Raises
    `ImageError` for a photo that cannot be read."""
    captions: dict[int | str, str] = {}
    unfinished = set()
    looks = []
    stream = captioner.caption_many((record.path for record in records), decoding, batch_size)
    bar = tqdm(stream, total=len(records), desc="captions", unit="photo")
    for record, result in zip(records, bar, strict=True):
        if isinstance(result, ImageError):
            raise result
        captions[record.id] = result.text
        if watch is not None:
            watch(record, result)
        if (look := result.attention_statistics) is not None:
            looks.append(replace(look, entropy=(), movement=()))  # one number a caption, not one a word
        if not result.finished:
            unfinished.add(record.id)
    return Results(captions, frozenset(unfinished)), summary(looks)


def evaluate(
    captioner: Captioner, records: Sequence[Record], decoding: Decoding, split: str, batch_size: int = 32
) -> tuple[ScoreFile, dict[int | str, str]]:
    """Caption the records' photos and score the captions: the scores, and the caption of each image."""
    results, looks = caption_records(captioner, records, decoding, batch_size)
    return score_split(captioner, results, looks, records, decoding, split), results.captions


def score_split(
    captioner: Captioner,
    results: Results,
    looks: dict[str, float],
    records: Sequence[Record],
    decoding: Decoding,
    split: str,
    java: Sequence[str] = (),
    training: Iterable[str] | None = None,
) -> ScoreFile:
    """The scores of what `caption_records` gave, with intervals, slices and provenance. `training`: captions to look
    copies up in."""
    provenance = {"decoding": asdict(decoding), "model": captioner.provenance}
    scored = score_results(
        results, references_of(records), split=split, training=training, java=java, provenance=provenance
    )
    scored.habits |= looks
    return scored
