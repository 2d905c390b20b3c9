"""The verbs about scores: evaluate, score, compare, check."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from captioner.cli.options import AS_SAVED, SHIPPED, Model, OptionalFile, Options, app, print_json

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner
    from captioner.data.readers import Record
    from captioner.metrics.files.references import References
    from captioner.metrics.pointing import Pointing

Java = Annotated[
    tuple[Literal["METEOR", "SPICE"], ...],
    tyro.conf.arg(metavar="{METEOR,SPICE} ...", help_behavior_hint=""),
]
Sources = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...")]
OptionalSources = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")]
OptionalSplit = Annotated[str | None, tyro.conf.arg(metavar="SPLIT", help_behavior_hint="")]


@app.command
def evaluate(
    data: Path,
    images: OptionalFolder = None,
    split: OptionalSplit = None,
    model: Model = SHIPPED,
    results: OptionalFile = None,
    scores: OptionalFile = None,
    training: OptionalFile = None,
    pointing: bool = False,
    submit: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    java: Java = (),
    limit: int = 0,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Caption every photo of a split, and score the captions as the COCO evaluation does. Photos that cannot be read
    are listed and left out; the exit status is then 1.

    Args:
        data: Folder of the data set, whose format is recognised from its files, or a caption file.
        images: Folder of the photos, if they are not below the data set's folder.
        split: train, val (or dev), test or all. By default val, or all photos of a data set without splits.
        results: Write the captions to this file, in COCO's results format.
        scores: Write the scores to this file, with intervals and provenance, for captioner compare.
        training: Training captions (an annotation file or a data set), to count copies of them.
        pointing: Also measure how often attention and evidence point at the objects that words name.
        submit: Write a submission for COCO's server to the current folder. --split test uses test2014.
        java: Also compute METEOR or SPICE, which need Java.
        limit: Use only the first photos, this many; 0 uses all.
        batch_size: Photos per batch.
    """
    from captioner.calibrate import check_confidence
    from captioner.data.checks import check_damaged, shortened
    from captioner.evaluate import caption_records, score_split
    from captioner.metrics.files.results import write_results
    from captioner.metrics.files.tables import format_scores

    _can_write(results, scores)
    _can_run(java)
    records, split = _records(data, images, split, submit)
    records = records[:limit] if limit else records
    if scores is not None and not records[0].captions:
        raise ValueError(
            "only COCO's server has the captions of test2014, so nothing can be scored. Leave --scores out."
        )
    captioner, known = model.load(), _captions(training)
    confidences: dict[int | str, float] = {}
    wrong: set[int | str] = set()  # captions that name an object which is not there
    games, point = _pointing(data, captioner, wrong) if pointing else ({}, None)

    def watch(record: Record, caption: Caption) -> None:
        if caption.confidence is not None:
            confidences[record.id] = caption.confidence
        if point is not None:
            point(record, caption)

    decoding = options.over(captioner.decoding)
    found, looks, damaged = caption_records(captioner, records, decoding, batch_size, watch)
    for problem in shortened(damaged, "photos"):
        print(f"captioner: {problem}", file=sys.stderr)
    if results is not None:
        write_results(results, found.captions)
    check_damaged(damaged, len(records))
    if damaged:
        print(f"captioner: {len(damaged)} of {len(records)} photos cannot be read and are left out.", file=sys.stderr)
    if records[0].captions:
        scored = score_split(captioner, found, looks, records, decoding, split, java, known)
        for whose, game in games.items():
            scored.habits |= {f"{whose}_{name}": figure for name, figure in game.to_dict().items()}
        calibration = None
        if len(confidences) > 1 and captioner.confidence is not None:  # CIDEr needs more than one image
            bar = captioner.confidence.bar
            calibration = check_confidence(found.captions, records, confidences, bar, wrong)
            scored.habits |= {f"confidence_{name}": figure for name, figure in calibration.to_dict().items()}
        if scores is not None:
            scored.write(scores)
        print(format_scores(scored))
        if calibration is not None:
            named = " and all objects that it names are there" if pointing else ""
            print(f"\na caption is right if its CIDEr-D is at least {bar:g}{named}:\n{calibration}")
        if games:
            print(f"\nits own captions:\n{games['own']}")
            print(f"\npeople's captions, under teacher forcing:\n{games['people']}")
    else:
        print("nothing is scored: only COCO's server has the captions of test2014")
    if submit is not None:
        _submit(submit, split, found.captions, data)
    return 1 if damaged else 0


@app.command
def score(
    references: Sources,
    results: OptionalFile = None,
    people: bool = False,
    split: OptionalSplit = None,
    training: OptionalFile = None,
    java: Java = (),
    nltk: bool = False,
    allow_missing: bool = False,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None,
) -> int:
    """Score the captions of any model as the COCO evaluation does, without Java.

    Args:
        references: COCO's annotation file, a data set that captioner reads, whose photos are not needed, or text files
            with one caption per line.
        results: The captions: [{"image_id": 42, "caption": "a dog"}, ...], what captioner caption --json or -o writes,
            a CSV table (image_id or path, caption), or a text file with one caption per line.
        people: Score people instead: the first caption of each image against its other captions.
        split: The split that the results are of, or all. By default val, or all photos of a data set without splits.
        training: Training captions (an annotation file or a data set), to count copies of them.
        java: Also compute METEOR or SPICE, which need Java.
        nltk: Also compute BLEU by nltk's corpus_bleu, which many tutorials print.
        allow_missing: Score the captions that are there if some images have none.
        output: Write the scores to this file, with intervals and provenance, for captioner compare.
    """
    from captioner.metrics.files.score_file import score_files, score_people
    from captioner.metrics.files.tables import format_scores

    if people == (results is not None):
        raise ValueError("expected either --results FILE or --people.")
    _can_write(output)
    _can_run(java)
    known, split = _references(references, split)
    about: dict[str, Any] = {
        "split": split,
        "training": _captions(training),
        "java": java,
        "nltk": nltk,
        "provenance": {"references": ", ".join(path.name for path in references)},
    }
    if results is None:
        scored = score_people(known, **about)
    else:
        scored = score_files(results, known, allow_missing=allow_missing, **about)
    if output is not None:
        scored.write(output)
    print(format_scores(scored))
    return 0


@app.command
def compare(
    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")],
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")],
    /,
    references: OptionalSources = (),
    split: OptionalSplit = None,
    json: bool = False,
) -> int:
    """Is B better than A, or is the difference chance? Differences, 95 % intervals and p-values.

    Args:
        a: A score file (captioner score -o), or a results file.
        b: Another file, of the same images.
        references: The references, if A or B is a results file.
        split: The split that the references are of, or all, as in captioner score.
        json: Print one JSON list, for programs.
    """
    from captioner.metrics.files.score_file import compare_files
    from captioner.metrics.files.tables import differences_to_dict, format_differences

    differences = compare_files(a, b, _references(references, split)[0] if references else None)
    if json:
        print_json(differences_to_dict(differences))
    else:
        print(format_differences(differences))
    return 0


@app.command
def check(file: tyro.conf.Positional[Path], /, val: OptionalFile = None, test: OptionalFile = None) -> int:
    """Would COCO's evaluation server accept this file? If not, print the reasons.

    Args:
        file: captions_val2014_NAME_results.json, the same of test2014, or a zip of both.
        val: COCO's captions_val2014.json, to find missing and unknown images.
        test: COCO's image_info_test2014.json, for the same purpose.
    """
    from captioner.data.checks import shortened
    from captioner.metrics.files.server import check_submission, read_image_ids

    known = {split: read_image_ids(path) for split, path in (("val", val), ("test", test)) if path is not None}
    problems = check_submission(file, known)
    for problem in shortened(problems, "problems"):
        print(f"captioner: {problem}", file=sys.stderr)
    if not problems:
        unchecked = "" if known else " (image ids were not checked; pass --val and --test)"
        print(f"{file}: COCO's server would accept it{unchecked}.")
    return 2 if problems else 0


def _pointing(
    data: Path, captioner: Captioner, wrong: set[int | str]
) -> tuple[dict[str, Pointing], Callable[[Record, Caption], None]]:
    """The pointing games of the model's own captions and of people's, and a function that adds each captioned photo. It
    adds the photo's id to `wrong` if the model's caption names an object that is not there."""
    from captioner.data.objects import read_objects
    from captioner.metrics.pointing import Pointing, object_words
    from captioner.vocabulary import tokenize

    objects, games = read_objects(data), {"own": Pointing(), "people": Pointing()}
    if captioner.config.attention == "none":
        raise ValueError("this model has no attention, so pointing cannot be measured. Leave --pointing out.")

    def watch(record: Record, caption: Caption) -> None:
        masks = objects.masks(record)
        said = [text for text in record.captions if tokenize(text)]
        read = captioner.read(record.path, said) if said else []
        if any(name not in masks for _, name in object_words(caption.words, objects.names)):
            wrong.add(record.id)
        own, *people = captioner.with_evidence(record.path, [caption, *read])
        for whose, captions in {"own": [own], "people": people}.items():
            for each in captions:
                assert each.attention is not None and each.evidence is not None and each.box is not None
                maps = {"attention": each.attention, "evidence": each.evidence}
                games[whose].add(each.words, maps, each.box, masks, objects.names)

    return games, watch


def _records(data: Path, images: Path | None, split: str | None, submit: str | None) -> tuple[list[Record], str]:
    """The photos to caption, and their split. A submission of the test split needs the photos of test2014, which have
    no public captions."""
    from captioner.data.coco import read_coco_test
    from captioner.data.readers import default_split, read_dataset, select
    from captioner.data.records import to_records
    from captioner.metrics.files.server import submission_name

    if submit is None:
        everything = read_dataset(data, images=images)
        if split is None:
            split = default_split(everything)
            if split == "all":
                print(
                    "captioner: the data set has no splits, so all photos are captioned. Training uses the part "
                    "--split train, and keeps val and test back.",
                    file=sys.stderr,
                )
        return select(everything, split), split
    split = split or "val"
    submission_name(submit, split)  # a bad name is an error before the work
    records = to_records(read_coco_test(data)) if split == "test" else select(read_dataset(data, images=images), split)
    if strange := [record.id for record in records if not isinstance(record.id, int)]:
        raise ValueError(
            f"COCO's server needs numbers as image ids, but {data} has {strange[0]!r}. Leave --submit out."
        )
    return records, split


def _submit(name: str, split: str, captions: Mapping[int | str, str], data: Path) -> None:
    """Write the submission and print its problems. Image ids are checked if COCO's lists of them are present."""
    from captioner.data.checks import shortened
    from captioner.metrics.files.server import check_submission, read_image_ids, write_submission

    archive = write_submission(Path.cwd(), name, split, captions)
    print(archive)
    folder = data / "annotations" if data.is_dir() else data.parent
    lists = {"val": folder / "captions_val2014.json", "test": folder / "image_info_test2014.json"}
    known = {part: read_image_ids(path) for part, path in lists.items() if path.is_file()}
    for problem in shortened(check_submission(archive, known), "problems"):
        print(f"note: {problem}")
    if not known:
        print(f"note: the image ids were not checked, because {folder} has no list of COCO's images")


def _can_write(*files: Path | None) -> None:
    """Raise ValueError before the work if a file cannot be written. Missing folders are made."""
    for file in files:
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder; expected the name of a file to write")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def _can_run(java: Sequence[str]) -> None:
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


def _references(sources: Sequence[Path], split: str | None) -> tuple[References, str]:
    """The references to score against, and the name of their split."""
    from captioner.data.readers import default_split, read_captions, select
    from captioner.metrics.files.references import References, read_coco_file, read_text_references, references_of

    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} does not exist; expected COCO's annotation file or a data set")
    if not sources or (len(sources) > 1 and not all(source.is_file() for source in sources)):
        raise ValueError("expected --references of one annotation file or data set, or of several text files.")
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


def _captions(training: Path | None) -> list[str] | None:
    if training is None:
        return None
    return [caption for captions in _references([training], "train")[0].captions.values() for caption in captions]
