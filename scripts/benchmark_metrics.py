"""Time our scores against the COCO toolkit's (pycocoevalcap), in one run on one core:

    python scripts/benchmark_metrics.py captions_val2017.json

All captions of an image are references. The candidate is the first half of the first and the second half of the second.
Times are processor times, the best of several rounds in which ours and the toolkit's take turns. The toolkit gets
tokens, so its Java tokenizer is not timed; ours is timed where the line says so. Without pycocoevalcap ours are timed
alone.
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
from captioner.metrics.files.references import read_coco_references
from captioner.vocabulary import tokenize

Work = Callable[[], Any]


def race(rounds: int, *works: Work) -> list[tuple[float, Any]]:
    """The shortest processor time of each function over rounds in which they take turns, and its result."""
    best = [(float("inf"), None)] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            start = time.process_time()
            result = work()
            best[number] = min(best[number], (time.process_time() - start, result), key=lambda pair: pair[0])
    return best


def mixed(first: str, second: str) -> str:
    """The first half of one caption and the second half of another: about as good as a model's."""
    a, b = first.split(), second.split()
    return " ".join(a[: len(a) // 2] + b[len(b) // 2 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", help="a COCO annotation file with captions")
    parser.add_argument("--images", type=int, default=None, help="use only the first images, this many")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    captions = dict(list(read_coco_references(arguments.references).items())[: arguments.images])
    captions = {key: texts for key, texts in captions.items() if len(texts) > 1}
    given = {key: mixed(*texts[:2]) for key, texts in captions.items()}
    candidates = [tokenize(caption) for caption in given.values()]
    references = [[tokenize(caption) for caption in texts] for texts in captions.values()]
    count = sum(map(len, references))
    print(f"{len(candidates):,} images, {count:,} references; processor seconds, best of {arguments.rounds}")

    ours: dict[str, Work] = {
        "BLEU-1..4": lambda: bleu(candidates, references),
        "ROUGE-L": lambda: rouge_l(candidates, references),
        "CIDEr-D": lambda: cider_d(candidates, references),
    }
    theirs: dict[str, Work] = {}
    if importlib.util.find_spec("pycocoevalcap"):
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        truth = {key: [" ".join(words) for words in texts] for key, texts in enumerate(references)}
        strings = {key: [" ".join(words)] for key, words in enumerate(candidates)}
        theirs = {
            "BLEU-1..4": lambda: Bleu(4).compute_score(truth, strings, verbose=0),
            "ROUGE-L": lambda: Rouge().compute_score(truth, strings),
            "CIDEr-D": lambda: Cider().compute_score(truth, strings),
        }
    print(f"{'':<34}{'ours':>8}{'toolkit':>9}{'ratio':>7}")
    total = 0.0
    for name, work in ours.items():
        (mine, (figure, _)), *other = race(arguments.rounds, work, *([theirs[name]] if theirs else []))
        line = f"{name:<34}{mine:>8.2f}"
        for took, (expected, _) in other:
            total += took
            difference = float(np.abs(np.asarray(figure) - np.asarray(expected)).max())
            line += f"{took:>9.2f}{took / mine:>7.1f}   largest difference of the figures {difference:.0e}"
        print(line)
    ((mine, _),) = race(arguments.rounds, lambda: score_captions(given, captions))
    ratio = f"{total:>9.2f}{total / mine:>7.1f}   (the toolkit's without tokenizing)" if theirs else ""
    print(f"{'all of these, with tokenizing':<34}{mine:>8.2f}{ratio}")
    if importlib.util.find_spec("nltk"):
        ((mine, _),) = race(1, lambda: nltk_bleu(candidates, references))
        print(f"{'BLEU-1..4 by nltk':<34}{mine:>8.2f}")

    reward = Consensus(references)
    images = np.repeat(np.linspace(0, len(references) - 1, 32, dtype=int), 5)
    samples = [candidates[image] for image in images]
    ((mine, _),) = race(20, lambda: reward.cider_d(samples, images))
    print(f"CIDEr-D of 160 samples against their references, as a reward: {1000 * mine:.1f} ms")


if __name__ == "__main__":
    main()
