"""What evaluate, score and compare share: references from any kind of file, and checks before the work. No verbs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from captioner.metrics.files.references import References

Java = Annotated[
    tuple[Literal["METEOR", "SPICE"], ...],
    tyro.conf.arg(metavar="{METEOR,SPICE} ...", help_behavior_hint=""),
]


def can_write(*files: Path | None) -> None:
    """Raise ValueError before the work if a file cannot be written. Missing folders are made."""
    for file in files:
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder; expected the name of a file to write")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def can_run(java: Sequence[str]) -> None:
    """Raise ValueError before the work if a Java program cannot run here."""
    from captioner.metrics.java import java_problem

    for metric in java:
        if problem := java_problem(metric):
            raise ValueError(f"{problem} Or leave --java {metric} out.")


def _is_annotations(source: Path) -> bool:
    """Whether `source` is a COCO annotation file rather than a data set."""
    from captioner.data.coco import KARPATHY_FILES

    return source.is_file() and source.suffix == ".json" and source.name not in KARPATHY_FILES


def _is_text(source: Path) -> bool:
    """Whether `source` is a text file with one caption per line rather than the caption file of a data set."""
    from captioner.data.readers import FLICKR8K_FILES, KAGGLE_FILES

    known = {Path(name).name for name in (*FLICKR8K_FILES, *KAGGLE_FILES)}
    return source.is_file() and source.suffix not in (".json", ".jsonl", ".csv", ".token") and source.name not in known


def find_references(sources: Sequence[Path], split: str | None) -> tuple[References, str]:
    """The references to score against, and the name of their split."""
    from captioner.data.readers import default_split, read_captions, select
    from captioner.metrics.files.references import References, read_coco_file, read_text_references, references_of

    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} does not exist; expected COCO's annotation file or a data set")
    if not sources or (len(sources) > 1 and not all(source.is_file() for source in sources)):
        raise ValueError("expected --references to be one annotation file or data set, or several text files.")
    if len(sources) > 1 or _is_text(sources[0]):
        return read_text_references(sources), "unknown"
    source = sources[0]
    if _is_annotations(source):  # its name may have the split: captions_val2017.json
        return read_coco_file(source), (re.findall("train|val|test", source.name) or ["unknown"])[0]
    everything = read_captions(source)
    entries = [entry for entry in everything if entry.captions]
    split = split or default_split(entries)
    chosen = select(entries, split)
    captions = references_of(chosen)
    flagged = [entry for entry in select(everything, split) if not entry.captions]
    names = {name: entry.id for entry in (*flagged, *chosen) for name in entry.names}
    elsewhere = {entry.id: entry.split for entry in entries if entry.id not in captions}
    return References(captions, names, elsewhere, frozenset(entry.id for entry in flagged) - captions.keys()), split


def training_captions(training: Path | None) -> list[str] | None:
    if training is None:
        return None
    return [caption for captions in find_references([training], "train")[0].captions.values() for caption in captions]
