"""Our figures beside those of the official toolkit (`golden/metrics.json`), and beside the definitions."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from captioner.metrics import (
    Consensus,
    DocumentFrequencies,
    bleu,
    cider_d,
    cider_plain,
    rouge_l,
    score_captions,
    score_tokens,
)
from captioner.metrics.bleu import nltk_bleu
from captioner.metrics.files.references import read_coco_references
from captioner.metrics.files.score_file import score_people
from captioner.metrics.meteor import forgive_whole_matches, meteor_of
from captioner.vocabulary import tokenize

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text(encoding="utf-8"))
DATA = Path(__file__).parents[2] / "shared" / "data"
REFERENCES = [image["references"] for image in GOLDEN["images"]]
KINDS = ("human", "machine")
EXACT = {"rtol": 0, "atol": 1e-9}


def candidates(kind):
    return [image[kind] for image in GOLDEN["images"]]


@pytest.mark.parametrize("kind", KINDS)
def test_bleu_is_the_toolkits(kind):
    corpus, images = bleu(candidates(kind), REFERENCES)
    np.testing.assert_allclose(corpus, GOLDEN[kind]["BLEU"][0], **EXACT)
    np.testing.assert_allclose(images, GOLDEN[kind]["BLEU"][1], **EXACT)


@pytest.mark.parametrize(("name", "metric"), [("ROUGE-L", rouge_l), ("CIDEr-D", cider_d)])
@pytest.mark.parametrize("kind", KINDS)
def test_rouge_and_cider_are_the_toolkits(kind, name, metric):
    corpus, images = metric(candidates(kind), REFERENCES)
    assert corpus == pytest.approx(GOLDEN[kind][name][0], abs=1e-9)
    np.testing.assert_allclose(images, GOLDEN[kind][name][1], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_meteor_of_the_jars_counts(kind):
    counts = np.array(GOLDEN[kind]["METEOR counts"])
    assert meteor_of(counts.sum(axis=0))[0] == pytest.approx(GOLDEN[kind]["METEOR"][0], abs=1e-9)
    np.testing.assert_allclose(meteor_of(counts)[:, 0], GOLDEN[kind]["METEOR"][1], **EXACT)
    np.testing.assert_array_equal(forgive_whole_matches(counts), counts)


def test_bleu_is_nltks():
    long = [words if len(words) > 3 else ["a", "man", "sits", "there"] for words in candidates("human")]
    np.testing.assert_allclose(bleu(long, REFERENCES)[0], nltk_bleu(long, REFERENCES), rtol=0, atol=1e-9)


def test_bleu_takes_the_closest_length_and_of_two_the_shorter():
    candidate = ["a"] * 6
    for lengths, closest in [([9, 7], 7), ([5, 7], 5), ([7, 5], 5), ([1, 8], 8)]:
        penalty = min(1, math.exp(1 - closest / 6))
        assert bleu([candidate], [[["a"] * length for length in lengths]])[0][0] == pytest.approx(
            penalty * min(1, max(lengths) / 6), abs=1e-6
        )


def cider_by_definition(candidates, references, corpus, defended):
    """Equations 1 to 4 of the paper, word by word."""

    def count(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for candidate, captions in zip(candidates, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            documents = Counter(
                gram for image in corpus for gram in {g for caption in image for g in count(caption, n)}
            )

            def weigh(words, n=n, documents=documents):
                grams = count(words, n)
                return {g: k * math.log(len(corpus) / max(1, documents[g])) for g, k in grams.items()}

            ours = weigh(candidate)
            for caption in captions:
                theirs = weigh(caption)
                product = sum(
                    (min(weight, theirs.get(gram, 0)) if defended else weight) * theirs.get(gram, 0)
                    for gram, weight in ours.items()
                )
                scale = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                similar = product / scale if scale else 0.0
                if defended:
                    similar *= math.exp(-((len(candidate) - len(caption)) ** 2) / (2 * 6**2))
                total += 10 * similar / len(captions) / 4
        scores.append(total)
    return scores


@pytest.mark.parametrize("defended", [True, False])
def test_ciders_are_the_papers(defended):
    given = [words or ["a"] for words in candidates("machine")]
    expected = cider_by_definition(given, REFERENCES, REFERENCES, defended)
    found = (cider_d if defended else cider_plain)(given, REFERENCES)[1]
    np.testing.assert_allclose(found, expected, **EXACT)


def test_document_frequencies_of_another_corpus():
    corpus, some = REFERENCES, slice(3, 9)
    given, references = candidates("human")[some], REFERENCES[some]
    found = cider_d(given, references, DocumentFrequencies.of(corpus))[1]
    np.testing.assert_allclose(found, cider_by_definition(given, references, corpus, True), **EXACT)
    np.testing.assert_allclose(found, cider_d(candidates("human"), corpus)[1][some], **EXACT)
    assert not np.allclose(found, cider_d(given, references)[1])


def test_a_reward_is_the_score():
    reward = Consensus(REFERENCES)
    images = [5, 5, 0, 17, 5, 39]
    samples = [candidates("machine")[image] for image in images]
    np.testing.assert_allclose(
        reward.cider_d(samples, images), cider_d(candidates("machine"), REFERENCES)[1][images], **EXACT
    )
    assert reward.cider_d([[]], [0]).tolist() == [0.0]


def test_rouge_of_long_captions():
    words = [str(number) for number in range(200)]
    assert rouge_l([words], [[words]])[0] == pytest.approx(1)
    half = rouge_l([words[::2]], [[words]])[0]  # precision 1, recall 1/2
    assert half == pytest.approx((1 + 1.2**2) * 0.5 / (0.5 + 1.2**2))
    assert rouge_l([words[::-1]], [[words]])[0] == pytest.approx(1 / 200)


def test_captions_by_id():
    found = score_captions(
        {7: "A dog runs on the beach.", "x": "Two cats sit, on a sofa!"},
        {"x": ["Two cats on a sofa"], 7: ["a dog on the beach", "A dog is running."], 8: ["not scored"]},
    )
    assert list(found) == [*("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "CIDEr-plain", "CIDEr")]
    tokens = [tokenize("a dog runs on the beach"), tokenize("two cats sit on a sofa")]
    references = [[["a", "dog", "on", "the", "beach"], ["a", "dog", "is", "running"]], [tokenize("two cats on a sofa")]]
    assert found["BLEU-4"] == bleu(tokens, references)[0][3]
    assert found["CIDEr"] == found["CIDEr-D"] == cider_d(tokens, references)[0]


def test_one_image_has_no_cider():
    found = score_captions({1: "a dog"}, {1: ["a dog"]})
    assert math.isnan(found["CIDEr-D"]) and math.isnan(found["CIDEr"])
    assert found["BLEU-1"] == pytest.approx(1)


def test_no_captions_and_no_references():
    with pytest.raises(ValueError, match="no captions to score"):
        score_captions({}, {1: ["a dog"]})
    for references in ({2: ["a dog"]}, {1: []}):
        with pytest.raises(ValueError, match="have no references"):
            score_captions({1: "a dog"}, references)
    for candidate in (None, ["a dog"]):
        with pytest.raises(ValueError, match=r"the caption of image 2 is .*; expected a string"):
            score_captions({1: "a dog", 2: candidate}, {1: ["a dog"], 2: ["a dog"]})
    for references in ("a dog", ["a dog", None]):
        with pytest.raises(ValueError, match=r"the references of image 2 are .*; expected a list of strings"):
            score_captions({1: "a dog", 2: "a dog"}, {1: ["a dog"], 2: references})
    with pytest.raises(ValueError, match="image 1 has no reference"):
        score_tokens([["a"], ["a"]], [[["a"]], []])
    assert score_captions({1: "", 2: "..."}, {1: ["a dog"], 2: ["!"]})["BLEU-1"] == pytest.approx(0, abs=1e-6)


def test_captions_without_a_common_word():
    found = score_captions({1: "x y", 2: "z"}, {1: ["a b"], 2: ["c d"]})
    assert found["CIDEr-D"] == found["ROUGE-L"] == 0 and found["BLEU-4"] < 1e-6


def test_the_human_score_of_coco():
    path = DATA / "coco" / "captions_val2017.json"
    if not path.exists():
        pytest.skip("needs the development data")
    found = score_people(path, samples=1).scores.corpus()
    shown = [f"{found[name]:.5f}" for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")]
    assert shown == ["0.63447", "0.43738", "0.29413", "0.19554", "0.47176", "0.88654"]


def test_scoring_needs_no_torch():
    import subprocess

    program = "import sys, captioner.metrics, captioner.metrics.files.tables; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the toolkit leaves METEOR's pipes open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_golden_figures_are_the_toolkits(kind):
    pytest.importorskip("pycocoevalcap")
    from captioner.metrics.java import java_problem, meteor_counts

    if java_problem("METEOR"):
        pytest.skip(str(java_problem("METEOR")))
    sys.path.insert(0, str(Path(__file__).parent / "golden"))
    from make_metrics import figures

    made = figures(GOLDEN["images"], kind)
    for name, (corpus, images) in made.items():
        np.testing.assert_allclose(corpus, GOLDEN[kind][name][0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(images, GOLDEN[kind][name][1], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(meteor_counts(candidates(kind), REFERENCES), GOLDEN[kind]["METEOR counts"])


@pytest.mark.reference
def test_parity_on_real_captions():
    """Human captions and machine-like ones (cut, repeated, shuffled words) of COCO against the toolkit."""
    pytest.importorskip("pycocoevalcap")
    path = DATA / "coco" / "captions_val2017.json"
    if not path.exists():
        pytest.skip("needs the development data")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions = [[tokenize(caption) for caption in image] for image in read_coco_references(path).values()][:1500]
    changes = [lambda w: w, lambda w: w[:3], lambda w: w + w[-3:] * 2, lambda w: w[::-1], lambda w: [], lambda w: w[:1]]
    given = [changes[number % len(changes)](image[0]) for number, image in enumerate(captions)]
    references = [image[1 : 2 + number % 5] for number, image in enumerate(captions)]
    ours = score_tokens(given, references)
    truth = {number: [" ".join(words) for words in image] for number, image in enumerate(references)}
    strings = {number: [" ".join(words)] for number, words in enumerate(given)}
    corpus = [*Bleu(4).compute_score(truth, strings, verbose=0)[0]]
    corpus += [scorer.compute_score(truth, strings)[0] for scorer in (Rouge(), Cider())]
    np.testing.assert_allclose(list(ours.corpus().values())[:6], corpus, rtol=0, atol=1e-6)
