"""How good a model is: every photo of a split captioned once, freely, and the captions scored against people's.
What the scores are is the business of `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.datasets import batches, in_order
from captioner.data.readers import Record
from captioner.decoding import Decoding
from captioner.encoder import Features
from captioner.images import ImageError
from captioner.metrics import score_captions
from captioner.metrics.attention import summary
from captioner.metrics.report import ScoreFile, score_results
from captioner.metrics.results import Results, references_of
from captioner.objectives import cross_entropy
from captioner.vocabulary import PAD


@torch.inference_mode()
def validate(
    captioner: Captioner,
    dataset: Dataset,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    workers: int = 0,
) -> dict[str, float]:
    """Caption the records' photos (the items of `dataset`, in the same order) and score the captions. Besides the
    scores there are the `loss` (nats a token, teacher-forced, no smoothing) and the share of captions that were
    `unfinished` or are `distinct`."""
    model, device = captioner.backend.model, captioner.backend.device
    model.eval()
    captions: list[Caption] = []
    loss, tokens = 0.0, 0
    order = in_order(len(records), batch_size)
    for batch in tqdm(batches(dataset, order, workers), total=len(order), desc="validation", leave=False):
        batch = batch.to(device)
        real = batch.targets != PAD
        features = batch.images if isinstance(batch.images, Features) else model.encoder(batch.images)
        memory = model.decoder.remember(features)
        logits, _, _ = model.decoder(batch.inputs, memory, real=real)
        loss += cross_entropy(logits, batch.targets[real]).item()
        tokens += int(real.sum())
        captions += captioner.search(memory, len(batch.ids), decoding)
    return {"loss": loss / max(1, tokens), **score(records, captions)}


def score(records: Sequence[Record], captions: Sequence[Caption]) -> dict[str, float]:
    """The scores of one caption a record, and the shares of captions that are `unfinished` or `distinct`."""
    candidates: dict[Hashable, str] = {
        record.id: caption.text for record, caption in zip(records, captions, strict=True)
    }
    references: dict[Hashable, Sequence[str]] = {record.id: record.captions for record in records}
    return {
        **score_captions(candidates, references),
        "unfinished": sum(not caption.finished for caption in captions) / len(captions),
        "distinct": len(set(candidates.values())) / len(captions),
    }


def evaluate(
    captioner: Captioner,
    records: Sequence[Record],
    decoding: Decoding,
    split: str,
    batch_size: int = 32,
    java: Sequence[str] = (),
    training: Iterable[str] | None = None,
    watch: Callable[[Record, Caption], None] | None = None,
) -> tuple[ScoreFile, dict[int | str, str]]:
    """Caption the records' photos, each once, and score the captions: a score file with intervals, slices and
    provenance, and the caption of each image. `training`: captions to look copies up in. `watch` is called
    with each caption. Raises `ImageError` for a photo that cannot be read."""
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
        if (look := result.looking) is not None:
            looks.append(look)
        if not result.finished:
            unfinished.add(record.id)
    results = Results(captions, frozenset(unfinished))
    provenance = {"decoding": asdict(decoding), "model": captioner.provenance}
    scored = score_results(
        results, references_of(records), split=split, training=training, java=java, provenance=provenance
    )
    scored.habits |= summary(looks)
    return scored, captions
