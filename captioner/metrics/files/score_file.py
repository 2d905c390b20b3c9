"""Score files: the figures of a results file with their intervals, slices and provenance, as JSON, and the
comparison of two of them. The verbs of the command line call these functions; `tables` turns them into text."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from captioner.metrics.files.results import Id, Results, read_coco_references, read_json, read_results
from captioner.metrics.habits import habits, slices
from captioner.metrics.intervals import SAMPLES, Difference, compare, intervals
from captioner.metrics.java import JavaMetricError, meteor_counts, spice
from captioner.metrics.scores import Scores, score_tokens
from captioner.vocabulary import tokenize

FORMAT = "captioner scores 1"
TOKENIZER = "captioner's Penn Treebank tokenizer (as COCO's PTBTokenizer), lower case, punctuation dropped"
FEW_IMAGES = 500  # fewer make document frequencies that CIDErs cannot be compared over
# Provenance that two files must share for their scores to be comparable; other provenance may differ.
SHARED = ("references_sha256", "images", "references_per_image", "tokenizer", "document_frequencies")


@dataclass
class ScoreFile:
    """All that is known about the scores of one set of captions."""

    scores: Scores
    intervals: dict[str, tuple[float, float]]
    provenance: dict[str, Any]
    habits: dict[str, float] = field(default_factory=dict)
    slices: dict[str, dict[str, float]] = field(default_factory=dict)  # slice -> its images and figures
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON. What is not a number there is null here."""
        corpus = self.scores.corpus()
        figures = {
            name: {
                "value": _number(value),
                "low": _number(self.intervals[name][0]),
                "high": _number(self.intervals[name][1]),
            }
            for name, value in corpus.items()
        }
        figures["CIDEr"] = figures["CIDEr-D"]  # the name that the COCO toolkit prints it under
        return {
            "format": FORMAT,
            "scores": figures,
            "habits": self.habits,
            "slices": {name: {key: _number(value) for key, value in row.items()} for name, row in self.slices.items()},
            "notes": self.notes,
            "provenance": self.provenance,
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
            rows = dict(content["images"])
            ids = tuple(rows.pop("ids"))
            parts = {name: np.array(part, float).reshape(len(ids), -1) for name, part in rows.items()}
            bounds = {name: (figure["low"], figure["high"]) for name, figure in content["scores"].items()}
            return cls(
                Scores(ids, parts),
                bounds,
                content["provenance"],
                content["habits"],
                content["slices"],
                content["notes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source}: a broken score file ({type(error).__name__}: {error}); score again") from None

    def write(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> ScoreFile:
        return cls.from_dict(read_json(Path(path)), str(path))


def _number(value: float) -> float | int | None:
    if value != value:
        return None
    return int(value) if float(value).is_integer() else value


def _sha256(references: Mapping[Id, Sequence[str]]) -> str:
    """Of the captions of each image in any order, with single spaces: readers of the same file differ in these."""
    text = json.dumps(
        sorted([str(key), sorted(" ".join(c.split()) for c in captions)] for key, captions in references.items())
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _versions(java: bool) -> dict[str, str]:
    """Of what made the scores, and of what made the captions if it was in this process."""
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
    provenance: Mapping[str, Any] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ScoreFile:
    """Score captions that were read and checked.

    `training`: captions to look copies up in. `java`: of "METEOR" and "SPICE"; one that cannot be computed here is
    left out, and a note tells why. `provenance`: more of it to record (decoding settings, checkpoint hash, …).
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
            "no CIDEr: it weighs words by how few other images have them, and there is only one image. Score a whole "
            "split."
        )
    elif len(ids) < FEW_IMAGES:
        notes.append(
            f"CIDEr of {len(ids)} images means little: it weighs words by how few images have them. Do not compare it "
            f"with that of a whole split (at least {FEW_IMAGES} images)."
        )
    if len(ids) < len(references):
        notes.append(f"{len(ids):,} of {len(references):,} images have a caption and are scored; the others are not")
    if results.left_out:
        notes.append(f"{len(results.left_out):,} empty captions were left out (first: {results.left_out[0]})")

    each = [len(captions) for captions in tokens]
    record = {
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
    return ScoreFile(scores, intervals(scores, samples, seed), record, habits(candidates, trained_on), table, notes)


def score_files(
    results: str | Path,
    references: str | Path | Mapping[Id, Sequence[str]],
    *,
    allow_missing: bool = False,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> ScoreFile:
    """Score a COCO-format results file against a COCO annotation file, or against references by id (see
    `results.references_of` for those of a data set that `read_dataset` read). Options are those of `score_results`."""
    names: dict[str, Any] = {"results": Path(results).name}
    if isinstance(references, (str, Path)):
        names["references"] = Path(references).name
        references = read_coco_references(references)
    captions = read_results(results, references, allow_missing)
    names["results_sha256"] = hashlib.sha256(Path(results).read_bytes()).hexdigest()
    return score_results(captions, references, provenance={**names, **(provenance or {})}, **options)


def score_people(
    references: str | Path | Mapping[Id, Sequence[str]],
    *,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> ScoreFile:
    """The human score: the first caption of each image (by annotation id) against its others. Images with a single
    caption are left out. Options are those of `score_results`."""
    names: dict[str, Any] = {"results": "the first caption of each image, against the others"}
    if isinstance(references, (str, Path)):
        names["references"] = Path(references).name
        references = read_coco_references(references)
    others = {key: list(captions[1:]) for key, captions in references.items() if len(captions) > 1}
    results = Results({key: references[key][0] for key in others})
    return score_results(results, others, provenance={**names, **(provenance or {})}, **options)


def differences_in_kind(a: ScoreFile, b: ScoreFile) -> list[str]:
    """Why the scores of two files cannot be compared; an empty list if they can."""
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
    references: str | Path | Mapping[Id, Sequence[str]] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Compare two score files, or two results files if `references` are given. ValueError tells every reason why the
    two are not comparable."""
    if isinstance(references, (str, Path)):
        references = read_coco_references(references)
    files = []
    for path in (a, b):
        if isinstance(content := read_json(Path(path)), list):
            if references is None:
                raise ValueError(f"{path} is a results file; pass its references too, or compare score files")
            files.append(score_files(path, references, samples=1))
        else:
            files.append(ScoreFile.from_dict(content, str(path)))
    reasons = differences_in_kind(*files)
    if reasons:
        raise ValueError(f"{a} and {b} are not comparable: " + "; ".join(reasons))
    return compare(files[0].scores, files[1].scores, samples, seed)
