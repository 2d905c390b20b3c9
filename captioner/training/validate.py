"""Validation: the loss on human captions, and the scores of the captions that the model generates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from captioner import distributed
from captioner.captioner import Caption, Captioner
from captioner.data.datasets import batches, in_order
from captioner.data.records import Record
from captioner.decoding import Decoding
from captioner.metrics import score_captions
from captioner.metrics.habits import habits
from captioner.training.objectives.cross_entropy import cross_entropy
from captioner.vocabulary import PAD, tokenize


def by_name(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores of several data sets in one row: the means under the plain names, and the scores of each data set
    under names such as coco/CIDEr-D. A mean is NaN if a data set has no such score."""
    row = {name: sum(each[name] for each in scores.values()) / len(scores) for name in next(iter(scores.values()))}
    return row | {f"{source}/{name}": score for source, own in scores.items() for name, score in own.items()}


@torch.inference_mode()
def validate(
    captioner: Captioner,
    dataset: Dataset,
    records: Sequence[Record],
    decoding: Decoding,
    batch_size: int = 32,
    workers: int = 0,
) -> dict[str, float]:
    """Caption the photos of the records (the items of `dataset`, in the same order) and score the captions. With
    several processes, each captions a share, and all return the scores of the whole. Besides the scores, returns the
    `loss` (nats per token, teacher forcing, without label smoothing) and the shares of captions that are `unfinished`
    (no end token within the maximum length), that are `distinct`, and that have `bad_endings` ("with a").
    """
    model = captioner.model.eval()
    written: list[Caption] = []
    loss, tokens = 0.0, 0
    order = distributed.share(in_order(len(records), batch_size))
    for batch in tqdm(batches(dataset, order, workers), total=len(order), desc="validation", leave=False, disable=None):
        batch = batch.to(model.device)
        real = batch.targets != PAD
        memory = model.encode(batch.images)
        logits, _, _ = model.decoder(batch.inputs, memory, real=real)
        loss += cross_entropy(logits, batch.targets[real]).item()
        tokens += int(real.sum())
        written += captioner.search(memory, len(batch.ids), decoding)
    places = [index for indices in order for index in indices]
    own = loss, tokens, [(place, each.text, each.finished) for place, each in zip(places, written, strict=True)]
    losses, counts, found = zip(*distributed.gather(own), strict=True)
    loss, tokens = sum(losses), sum(counts)
    in_place = sorted(each for of_process in found for each in of_process)
    captions = [text for _, text, _ in in_place]
    unfinished = sum(not finished for _, _, finished in in_place)
    candidates: dict[Hashable, str] = {record.id: text for record, text in zip(records, captions, strict=True)}
    styles = habits([tokenize(text) for text in captions])
    references: dict[Hashable, Sequence[str]] = {record.id: record.captions for record in records}
    return {
        "loss": loss / max(1, tokens),
        **score_captions(candidates, references),
        "unfinished": unfinished / len(captions),
        **{name: styles[name] for name in ("distinct", "bad_endings")},
    }
