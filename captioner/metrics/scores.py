"""All scores of a set of captions at once, from captions or from their words, kept as what each image adds to them.
Files, intervals and tables are made elsewhere."""

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
    """What each image adds to the scores of a set of captions.

    `parts`: a name -> (images, columns). "BLEU" has the columns of `bleu_statistics` and "METEOR" those of the jar,
    both of which are summed over images before anything is divided; any other score has one, and is its mean.
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
        """The figures (…, scores) that sums of the table over so many images (…, columns) come to."""
        edges = np.cumsum([part.shape[1] for part in self.parts.values()])[:-1]
        columns = dict(zip(self.parts, np.split(sums, edges, axis=-1), strict=True))
        special = {"BLEU": bleu_of, "METEOR": meteor_of}
        return np.concatenate(
            [special[name](part) if name in special else part / max(images, 1) for name, part in columns.items()],
            axis=-1,
        )

    def corpus(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """The figures by name, of all images or of those in `rows` (indices or a mask)."""
        table = self.table() if rows is None else self.table()[rows]
        return dict(zip(self.names, self.figures(table.sum(axis=0), len(table)).tolist(), strict=True))

    def images(self) -> np.ndarray:
        """The figures of each image by itself: (images, scores)."""
        return self.figures(self.table(), 1)

    def take(self, parts: Iterable[str]) -> Scores:
        """The same with these parts only, in this order."""
        return Scores(self.ids, {name: self.parts[name] for name in parts})


def score_tokens(
    candidates: Tokens,
    references: References,
    frequencies: DocumentFrequencies | None = None,
    ids: Iterable[Hashable] | None = None,
) -> Scores:
    """Score tokenized captions, candidate i against `references[i]`.

    `frequencies`: those of another corpus for CIDEr (default: these references, as the COCO evaluation does). A single
    image makes none, and its CIDEr is not a number.
    """
    if not len(candidates):
        raise ValueError("there are no captions to score; expected one or more")
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
    """The official figures of captions against references, both by image id: `BLEU-1` to `BLEU-4`, `ROUGE-L`,
    `CIDEr-D`, the same once more under the COCO toolkit's name for it, `CIDEr`, and `CIDEr-plain`. Scale 0 to 1, and
    0 to 10 for the CIDErs. Every candidate is scored; images without one are left out, also of the document
    frequencies. ValueError for a candidate without references, and for captions that are no strings."""
    unknown = [key for key in candidates if not references.get(key)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(candidates)} captions are of images without references (first: {unknown[0]!r}); "
            "expected references of each"
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
