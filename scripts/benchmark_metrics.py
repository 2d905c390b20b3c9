"""Time our scores beside the COCO toolkit's (pycocoevalcap), in one run on one core, and print the ratio:

    python scripts/benchmark_metrics.py captions_val2017.json

The first caption of each image is scored against its others. Times are of the processor, the best of some rounds, so
that other programs disturb little. Without pycocoevalcap ours are timed alone; the toolkit's Java tokenizer is not
timed, ours is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from captioner.metrics import Consensus, bleu, cider_d, rouge_l, score_captions
from captioner.metrics.bleu import nltk_bleu
from captioner.metrics.results import read_coco_references
from captioner.vocabulary import tokenize


def seconds(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The least processor time of some rounds, and what the work returned."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", help="a COCO annotation file with captions")
    parser.add_argument("--images", type=int, default=None, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    captions = dict(list(read_coco_references(arguments.references).items())[: arguments.images])
    captions = {key: texts for key, texts in captions.items() if len(texts) > 1}
    first = {key: texts[0] for key, texts in captions.items()}
    others = {key: texts[1:] for key, texts in captions.items()}
    candidates = [tokenize(caption) for caption in first.values()]
    references = [[tokenize(caption) for caption in texts] for texts in others.values()]
    count = sum(map(len, references))
    print(f"{len(candidates):,} images, {count:,} references; seconds of the processor, best of {arguments.rounds}")

    theirs: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("pycocoevalcap"):
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        truth = {key: [" ".join(words) for words in texts] for key, texts in enumerate(references)}
        given = {key: [" ".join(words)] for key, words in enumerate(candidates)}
        theirs = {
            "BLEU-1..4": lambda: Bleu(4).compute_score(truth, given, verbose=0),
            "ROUGE-L": lambda: Rouge().compute_score(truth, given),
            "CIDEr-D": lambda: Cider().compute_score(truth, given),
        }
    ours: dict[str, Callable[[], Any]] = {
        "BLEU-1..4": lambda: bleu(candidates, references),
        "ROUGE-L": lambda: rouge_l(candidates, references),
        "CIDEr-D": lambda: cider_d(candidates, references),
    }
    print(f"{'':<34}{'ours':>8}{'toolkit':>9}{'ratio':>7}")
    total = 0.0
    for name, work in ours.items():
        mine, (figure, _) = seconds(work, arguments.rounds)
        line = f"{name:<34}{mine:>8.2f}"
        if name in theirs:
            other, (expected, _) = seconds(theirs[name], 1)
            total += other
            difference = float(np.abs(np.asarray(figure) - np.asarray(expected)).max())
            line += f"{other:>9.2f}{other / mine:>7.1f}   largest difference of the figures {difference:.0e}"
        print(line)
    mine, _ = seconds(lambda: score_captions(first, others), arguments.rounds)
    ratio = f"{total:>9.2f}{total / mine:>7.1f}   (the toolkit's without tokenizing)" if theirs else ""
    print(f"{'all of these, with tokenizing':<34}{mine:>8.2f}{ratio}")
    mine, _ = seconds(lambda: nltk_bleu(candidates, references), 1)
    print(f"{'BLEU-1..4 by nltk':<34}{mine:>8.2f}")

    reward = Consensus(references)
    images = np.repeat(np.linspace(0, len(references) - 1, 32, dtype=int), 5)
    samples = [candidates[image] for image in images]
    mine, _ = seconds(lambda: reward.cider_d(samples, images), 20)
    print(f"CIDEr-D of 160 samples against their references, as a reward: {1000 * mine:.1f} ms")


if __name__ == "__main__":
    main()
