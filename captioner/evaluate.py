"""How good a model is: every photo of a split captioned once, freely, and the captions scored against people's.
What the scores are is the business of `metrics`."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.datasets import batches, in_order
from captioner.data.readers import Record
from captioner.decoding import Decoding
from captioner.device import autocast
from captioner.encoder import Features
from captioner.images import ImageError
from captioner.metrics import score_captions
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
        with autocast(device):
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
    captioner: Captioner, records: Sequence[Record], decoding: Decoding, batch_size: int = 32
) -> tuple[dict[str, float], list[dict[str, int | str]]]:
    """Caption the records' photos, each once, and score the captions: the scores, and the captions as COCO's results
    file has them (`[{"image_id": …, "caption": …}]`). Raises `ImageError` for a photo that cannot be read."""
    captions: list[Caption] = []
    stream = captioner.caption_many((record.path for record in records), decoding, batch_size)
    for result in tqdm(stream, total=len(records), desc="captions", unit="photo"):
        if isinstance(result, ImageError):
            raise result
        captions.append(result)
    results = [
        {"image_id": record.id, "caption": caption.text} for record, caption in zip(records, captions, strict=True)
    ]
    return score(records, captions), results


def write_results(path: Path, results: list[dict[str, int | str]]) -> None:
    """COCO's results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def format_scores(scores: dict[str, float], photos: int, split: str, decoding: Decoding) -> str:
    """The scores for people, with what they were measured on."""
    how = f"beam {decoding.beam_size}" if decoding.method == "beam" else f"sampling, seed {decoding.seed}"
    lines = [f"{photos} photos of the split {split}, {how}, free-running, tokens as in the COCO evaluation"]
    lines += [f"{name:12s} {value:.4f}" for name, value in scores.items()]
    return "\n".join(lines)
