"""All scores of a set of captions, kept as the contribution of each image. Files, intervals and tables are
elsewhere."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from captioner.metrics.bleu import BLEUS, bleu_of, bleu_statistics
from captioner.metrics.cider import Consensus, DocumentFrequencies
from captioner.metrics.meteor import meteor_of
from captioner.metrics.ngrams import References, Shared, Tokens
from captioner.metrics.rouge import rouge_l
from captioner.vocabulary import tokenize

Key = TypeVar("Key", bound=Hashable)
# CIDEr-D is what the COCO toolkit prints as "CIDEr"; CIDEr-plain is what the paper first defines as CIDEr.
METRICS = (*BLEUS, "ROUGE-L", "CIDEr-D", "CIDEr-plain")


@dataclass(frozen=True)
class Scores:
    """The contribution of each image to the scores of a set of captions.

    `parts` maps a name to an array (images, columns). "BLEU" has the columns of `bleu_statistics` and "METEOR" those of
    its jar; both are summed over images before the division. Any other score has one column and is its mean.
    """

    ids: tuple[Hashable, ...]
    parts: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            assert part.ndim == 2 and len(part) == len(self.ids), (name, part.shape)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in (BLEUS if part == "BLEU" else (part,)))

    def table(self) -> np.ndarray:
        """All columns of all parts: (images, columns)."""
        return np.column_stack(list(self.parts.values()))

    def figures(self, sums: np.ndarray, images: int) -> np.ndarray:
        """The scores (…, scores) of a set of `images` images, from the sums of their rows in the table (…, columns)."""
        edges = np.cumsum([part.shape[1] for part in self.parts.values()])[:-1]
        columns = dict(zip(self.parts, np.split(sums, edges, axis=-1), strict=True))
        special = {"BLEU": bleu_of, "METEOR": meteor_of}
        return np.concatenate(
            [special[name](part) if name in special else part / max(images, 1) for name, part in columns.items()],
            axis=-1,
        )

    def corpus(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """The scores by name, of all images or of those in `rows` (indices or a mask)."""
        table = self.table() if rows is None else self.table()[rows]
        return dict(zip(self.names, self.figures(table.sum(axis=0), len(table)).tolist(), strict=True))

    def images(self) -> np.ndarray:
        """The scores of each image alone: (images, scores)."""
        return self.figures(self.table(), 1)

    def take(self, parts: Iterable[str]) -> Scores:
        """A copy with only these parts, in this order."""
        return Scores(self.ids, {name: self.parts[name] for name in parts})


def score_tokens(
    candidates: Tokens,
    references: References,
    frequencies: DocumentFrequencies | None = None,
    ids: Iterable[Hashable] | None = None,
) -> Scores:
    """Score tokenized captions, candidate i against `references[i]`.

    `frequencies`: document frequencies of another corpus for CIDEr; by default those of these references, as in the
    COCO evaluation. The CIDEr of a single image is NaN without them.
    """
    if not len(candidates):
        raise ValueError("there are no captions to score; expected at least one")
    consensus = Consensus(references, frequencies)
    ours, pairs = consensus.prepare(candidates)
    shared = Shared.of(ours, consensus.ngrams, pairs)
    unknown = np.nan if consensus.frequencies.images < 2 else 0.0
    parts = {
        "BLEU": bleu_statistics(ours, consensus.ngrams, pairs, shared),
        "ROUGE-L": rouge_l(candidates, references)[1][:, None],
        "CIDEr-D": consensus.score(ours, pairs, shared, defended=True)[:, None] + unknown,
        "CIDEr-plain": consensus.score(ours, pairs, shared, defended=False)[:, None] + unknown,
    }
    return Scores(tuple(range(len(candidates)) if ids is None else ids), parts)


def score_captions(
    candidates: Mapping[Key, str],
    references: Mapping[Key, Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """The scores of captions against references, both by image id: `BLEU-1` to `BLEU-4`, `ROUGE-L`, `CIDEr-D`,
    `CIDEr-plain`, and `CIDEr`, the COCO toolkit's name for CIDEr-D. The scale is 0 to 1; that of the CIDErs is 0 to 10.
    Images without a candidate are ignored, also in the document frequencies. Raises ValueError for a candidate without
    references and for captions that are not strings."""
    unknown = [key for key in candidates if not references.get(key)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(candidates)} captions have no references (first: image {unknown[0]!r}); "
            "expected references for each"
        )
    for key, candidate in candidates.items():
        if not isinstance(candidate, str):
            raise ValueError(f"the caption of image {key!r} is {candidate!r}; expected a string")
        if isinstance(references[key], str) or not all(isinstance(caption, str) for caption in references[key]):
            raise ValueError(f"the references of image {key!r} are {references[key]!r}; expected a list of strings")
    scores = score_tokens(
        [tokenize(caption) for caption in candidates.values()],
        [[tokenize(caption) for caption in references[key]] for key in candidates],
        frequencies,
        candidates,
    ).corpus()
    return {**scores, "CIDEr": scores["CIDEr-D"]}
