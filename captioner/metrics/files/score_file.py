"""Score files: the scores of a results file with intervals, slices and provenance, as JSON, and the comparison of two
of them. The command line calls these functions; `tables` formats their results as text."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from captioner.metrics.bleu import BLEUS, nltk_bleu
from captioner.metrics.files.reading import Id, is_id, read_json, shorten
from captioner.metrics.files.references import References, read_coco_file
from captioner.metrics.files.results import Results, read_results
from captioner.metrics.files.rows import is_results
from captioner.metrics.habits import habits, slices
from captioner.metrics.intervals import SAMPLES, Difference, compare, intervals
from captioner.metrics.java import JavaMetricError, meteor_counts, spice
from captioner.metrics.meteor import COLUMNS
from captioner.metrics.scores import Scores, score_tokens
from captioner.vocabulary import UNSEPARATED, tokenize, words_are_separated

FORMAT = "captioner scores 1"
TOKENIZER = "captioner's Penn Treebank tokenizer (as COCO's PTBTokenizer), lower case, punctuation dropped"
FEW_IMAGES = 500  # with fewer images, CIDEr depends too much on their document frequencies
WIDTHS = {"BLEU": 2 + 2 * len(BLEUS), "METEOR": COLUMNS}  # columns of a part; any other has one
HABITS = ("distinct", "mean_length", "words", "bad_endings")
ATTENTION_HABITS = ("attention_entropy", "attention_movement", "attention_coverage", "attention_warnings")
# Two files are comparable only if these entries of their provenance are equal; the others may differ.
SHARED = ("references_sha256", "images", "references_per_image", "tokenizer", "document_frequencies")


@dataclass
class ScoreFile:
    """The scores of one set of captions, with intervals, slices and provenance."""

    scores: Scores
    intervals: dict[str, tuple[float, float]]
    provenance: dict[str, Any]
    habits: dict[str, float] = field(default_factory=dict)
    slices: dict[str, dict[str, float]] = field(default_factory=dict)  # slice: its number of images and its scores
    notes: list[str] = field(default_factory=list)
    nltk: dict[str, float] = field(default_factory=dict)  # BLEU-1 to BLEU-4 of nltk's corpus_bleu, if asked for

    def to_dict(self) -> dict[str, Any]:
        """The file as JSON-ready data. A NaN becomes null."""
        corpus = self.scores.corpus()
        figures = {
            name: {
                "value": _number(value),
                "low": _number(self.intervals[name][0]),
                "high": _number(self.intervals[name][1]),
            }
            for name, value in corpus.items()
        }
        figures["CIDEr"] = figures["CIDEr-D"]  # the COCO toolkit's name for it
        return {
            "format": FORMAT,
            "scores": figures,
            "habits": self.habits,
            "slices": {name: {key: _number(value) for key, value in row.items()} for name, row in self.slices.items()},
            "notes": self.notes,
            "provenance": self.provenance,
            **({"nltk": self.nltk} if self.nltk else {}),
            "images": {
                "ids": list(self.scores.ids),
                **{
                    name: [[_number(value) for value in row] for row in part.tolist()]
                    for name, part in self.scores.parts.items()
                },
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "the file") -> ScoreFile:
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{source}: expected a score file of `captioner score` (format {FORMAT!r})")
        try:
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()  # rejects what could not be written again
            rows = dict(content["images"])
            ids = tuple(rows.pop("ids"))
            if not ids or not all(map(is_id, ids)) or len(set(ids)) < len(ids):
                raise ValueError("expected ids that are numbers or strings, each once")
            parts = {name: np.array(part, float).reshape(len(ids), -1) for name, part in rows.items()}
            if missing := {"BLEU", "ROUGE-L", "CIDEr-D"} - parts.keys():
                raise ValueError(f"expected the scores {', '.join(sorted(missing))}")
            for name, part in parts.items():
                if part.shape[1] != WIDTHS.get(name, 1) or np.isinf(part).any():
                    raise ValueError(f"expected {WIDTHS.get(name, 1)} numbers per image for {name}")
            scores, provenance = Scores(ids, parts), content["provenance"]
            figures = ((name, content["scores"][name]) for name in scores.names)
            bounds = {name: (_figure(figure["low"]), _figure(figure["high"])) for name, figure in figures}
            counts = (provenance["images"], *provenance["references_per_image"])
            if len(counts) != 3 or not all(isinstance(count, int) for count in counts):
                raise ValueError("expected whole numbers of images and of references_per_image")
            habits = {name: _figure(value, null=False) for name, value in content["habits"].items()}
            attention = ATTENTION_HABITS if "attention_entropy" in habits else ()
            if habits and (missing := {*HABITS, *attention} - habits.keys()):
                raise ValueError(f"expected the habits {', '.join(sorted(missing))}")
            slices = {
                name: {key: _figure(value, null=key != "images") for key, value in row.items()}
                for name, row in content["slices"].items()
            }
            if not all("images" in row for row in slices.values()):
                raise ValueError("expected the number of images of each slice")
            notes = ["".join(note) for note in content["notes"]]
            by_nltk = {name: _figure(value) for name, value in content.get("nltk", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{source}: a damaged score file ({type(error).__name__}: {error}); run captioner score again"
            ) from None
        return cls(scores, bounds, provenance, habits, slices, notes, by_nltk)

    def write(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> ScoreFile:
        return cls.from_dict(read_json(Path(path)), str(path))


def _figure(value: Any, null: bool = True) -> float:
    """A finite number of a score file, or NaN, which is written as null. Raises an error for any other value."""
    if null and value is None:
        return math.nan
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise ValueError(f"expected a number, found {shorten(value)}")
    return value


def _number(value: float) -> float | int | None:
    if value != value:
        return None
    return int(value) if float(value).is_integer() else value


def _sha256(references: Mapping[Id, Sequence[str]]) -> str:
    """The hash of all references. The order of captions and white space do not count, because readers differ in
    them."""
    text = json.dumps(
        sorted([str(key), sorted(" ".join(c.split()) for c in captions)] for key, captions in references.items())
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _versions(java: bool) -> dict[str, str]:
    """The versions of the packages that computed the scores, and of those that made the captions if this process
    did."""
    found = {"python": platform.python_version()}
    for package in ("captioner", "numpy", "pillow", "torch", "torchvision", "onnxruntime", "pycocoevalcap"):
        if {"pillow": "PIL"}.get(package, package) in sys.modules or (java and package == "pycocoevalcap"):
            with suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


def score_results(
    results: Results,
    references: Mapping[Id, Sequence[str]],
    *,
    split: str | None = None,
    training: Iterable[str] | None = None,
    java: Sequence[str] = (),
    nltk: bool = False,
    provenance: Mapping[str, Any] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ScoreFile:
    """Score captions that were read and checked.

    `training`: training captions, to count the candidates that copy one. `java`: any of "METEOR" and "SPICE"; one that
    cannot be computed here is left out, and a note says why. `nltk`: also compute BLEU as nltk does. `provenance`:
    further entries, such as decoding settings and the checkpoint's hash.
    """
    ids = [key for key in references if key in results.captions]
    candidates = [tokenize(results.captions[key]) for key in ids]
    tokens = [[tokenize(caption) for caption in references[key]] for key in ids]
    scores = score_tokens(candidates, tokens, ids=ids)
    notes = []
    for name in java:
        try:
            part = (meteor_counts if name == "METEOR" else spice)(candidates, tokens)
            scores = Scores(scores.ids, {**scores.parts, name: part.reshape(len(ids), -1)})
        except JavaMetricError as error:
            notes.append(f"no {name}: {error}")
    if len(ids) < 2:
        notes.append(
            "no CIDEr: it weighs words by their document frequencies, which need more than one image. Score a whole "
            "split."
        )
    elif len(ids) < FEW_IMAGES:
        notes.append(
            f"CIDEr of {len(ids)} images is unreliable: its document frequencies come from these images. Do not "
            f"compare it with the CIDEr of a whole split (at least {FEW_IMAGES} images)."
        )
    if len(ids) < len(references):
        notes.append(f"{len(ids):,} of {len(references):,} images have a caption; only these are scored")
    if results.left_out:
        notes.append(
            f"images whose captions are all flagged as rejected or precanned by VizWiz: {results.left_out:,}; their "
            "results are left out"
        )
    if wordless := [key for key, words in zip(ids, candidates, strict=True) if not words]:
        notes.append(
            f"captions without words: {len(wordless):,} (first: image {wordless[0]!r}); "
            "they score 0, as in the official evaluation"
        )

    if not words_are_separated(caption for key in ids for caption in (results.captions[key], *references[key])):
        notes.append(UNSEPARATED)

    each = [len(captions) for captions in tokens]
    about = {
        "split": split,
        "images": len(ids),
        "references_per_image": [min(each), max(each)],
        "references_sha256": _sha256({key: references[key] for key in ids}),
        "tokenizer": TOKENIZER,
        "document_frequencies": "the references of the scored images",
        "scale": "0 to 1; the CIDErs 0 to 10",
        "intervals": f"95 % bootstrap over images, {samples} samples, seed {seed}",
        "versions": _versions(java=not {"METEOR", "SPICE"}.isdisjoint(scores.parts)),
        **(provenance or {}),
    }
    trained_on = None if training is None else (tokenize(caption) for caption in training)
    table = {
        name: {"images": int(mask.sum()), **scores.corpus(mask)}
        for name, mask in slices(candidates, tokens, ids, results.unfinished).items()
        if mask.any()
    }
    by_nltk = dict(zip(BLEUS, nltk_bleu(candidates, tokens).tolist(), strict=True)) if nltk else {}
    return ScoreFile(
        scores, intervals(scores, samples, seed), about, habits(candidates, trained_on), table, notes, by_nltk
    )


Given = str | Path | Mapping[Id, Sequence[str]] | References


def _references(given: Given) -> tuple[References, dict[str, str]]:
    """References from a COCO annotation file or from captions by image id, and the file's name for the provenance."""
    if isinstance(given, References):
        return given, {}
    if isinstance(given, (str, Path)):
        return read_coco_file(given), {"references": Path(given).name}
    return References(given), {}


def score_files(
    results: str | Path,
    references: Given,
    *,
    allow_missing: bool = False,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> ScoreFile:
    """Score a results file, in a format of `rows.read_rows`, against a COCO annotation file or against references by
    image id. For a data set, `references.references_of(read_dataset(...))` gives the latter. `options` are those of
    `score_results`."""
    known, source = _references(references)
    captions = read_results(results, known.captions, allow_missing, known.elsewhere, known.names, known.flagged)
    about = {
        "results": Path(results).name,
        **source,
        "results_sha256": hashlib.sha256(Path(results).read_bytes()).hexdigest(),
        **(provenance or {}),
    }
    return score_results(captions, known.captions, provenance=about, **options)


def score_people(
    references: Given,
    *,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> ScoreFile:
    """Score human captions: the first caption of each image (by annotation id) against the image's other captions.
    Images with a single caption are left out. `options` are those of `score_results`."""
    known, source = _references(references)
    about = {"results": "the first caption of each image against the others", **source, **(provenance or {})}
    others = {key: list(captions[1:]) for key, captions in known.captions.items() if len(captions) > 1}
    if not others:
        where = f"{references}: " if source else ""
        raise ValueError(f"{where}no image has two captions, so people cannot be scored; expected two or more")
    results = Results({key: known.captions[key][0] for key in others})
    return score_results(results, others, provenance=about, **options)


def obstacles(a: ScoreFile, b: ScoreFile) -> list[str]:
    """The reasons why the scores of two files are not comparable; empty if they are."""
    reasons = []
    for key in SHARED:
        one, other = a.provenance.get(key), b.provenance.get(key)
        if one != other:
            words = {"references_sha256": "the references differ"}.get(
                key, f"{key.replace('_', ' ')}: {one} and {other}"
            )
            reasons.append(words)
    if not reasons and set(a.scores.ids) != set(b.scores.ids):
        reasons.append("the images differ")
    return reasons


def compare_files(
    a: str | Path,
    b: str | Path,
    references: Given | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Compare two score files, or two results files if `references` are given. Raises ValueError with every reason if
    the two are not comparable."""
    known = None if references is None else _references(references)[0]
    files = []
    for path in map(Path, (a, b)):
        if not is_results(path):
            files.append(ScoreFile.from_dict(read_json(path), str(path)))
        elif known is None:
            raise ValueError(f"{path} is a results file; pass its references too, or compare score files")
        else:
            files.append(score_files(path, known, samples=1))
    reasons = obstacles(*files)
    if reasons:
        raise ValueError(f"{a} and {b} are not comparable: " + "; ".join(reasons))
    return compare(files[0].scores, files[1].scores, samples, seed)
