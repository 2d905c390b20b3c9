"""Scores of captions as the COCO evaluation computes them, without Java. Nothing here imports torch.

`score_captions` takes captions and references by image id. `bleu`, `rouge_l`, `cider_d` and `cider_plain` take words.
`Consensus` prepares the references of a training set, for repeated scoring. `files` holds the formats."""

from captioner.metrics.bleu import bleu
from captioner.metrics.cider import Consensus, DocumentFrequencies, cider_d, cider_plain
from captioner.metrics.rouge import rouge_l
from captioner.metrics.scores import METRICS, Scores, score_captions, score_tokens

__all__ = [
    "METRICS",
    "Consensus",
    "DocumentFrequencies",
    "Scores",
    "bleu",
    "cider_d",
    "cider_plain",
    "rouge_l",
    "score_captions",
    "score_tokens",
]
