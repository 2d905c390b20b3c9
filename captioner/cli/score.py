"""The verbs about scores: evaluate, score, compare, check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from captioner.cli.options import AS_SAVED, Checkpoint, OptionalFile, Options, app, load_captioner, print_json

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner
    from captioner.data.readers import Record
    from captioner.metrics.pointing import Pointing


@app.command
def evaluate(
    data: Path,
    split: str = "val",
    checkpoint: Checkpoint = None,
    results: OptionalFile = None,
    scores: OptionalFile = None,
    training: OptionalFile = None,
    pointing: bool = False,
    submit: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    java: tuple[Literal["METEOR", "SPICE"], ...] = (),
    limit: int = 0,
    options: Options = AS_SAVED,
    batch_size: int = 32,
    device: str = "auto",
) -> int:
    """Caption every photo of a split once, freely, and score the captions as the COCO evaluation does.

    Args:
        data: Folder of the data set; its format is found from what lies in it.
        split: train, val (or dev) or test.
        checkpoint: Directory of the model; the shipped one if not given.
        results: Write the captions here, in the COCO results format.
        scores: Write the scores here, with intervals, slices and provenance, for captioner compare.
        training: Captions of the training set (an annotation file or a data set), to find copies of them.
        pointing: Also tell whether words look at the objects that they name, where the data set says where these are.
        submit: Write captions_SPLIT2014_NAME_results.json and its zip for COCO's server into this folder.
        java: Also compute these, with Java.
        limit: Use only so many photos; 0 for all.
        batch_size: Photos captioned at a time.
        device: auto, cpu, cuda, mps.
    """
    from captioner.data.readers import read_dataset, select
    from captioner.evaluate import evaluate as run
    from captioner.metrics.results import write_results
    from captioner.metrics.server import write_submission
    from captioner.metrics.tables import format_scores

    records = select(read_dataset(data), split)
    records = records[:limit] if limit else records
    captioner = load_captioner(checkpoint, device)
    game, watch = _pointing(data, captioner) if pointing else (None, None)
    decoding = options.over(captioner.decoding)
    scored, captions = run(captioner, records, decoding, split, batch_size, java, _captions(training), watch)
    if game is not None:
        scored.habits |= game.to_dict()
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        write_results(results, captions)
    if scores is not None:
        scores.parent.mkdir(parents=True, exist_ok=True)
        scored.write(scores)
    print(format_scores(scored))
    if game is not None:
        print(f"\n{game}")
    if submit is not None:
        print(write_submission(Path.cwd(), submit, split, captions))
    return 0


@app.command
def score(
    references: Path,
    results: OptionalFile = None,
    people: bool = False,
    split: str = "val",
    training: OptionalFile = None,
    java: tuple[Literal["METEOR", "SPICE"], ...] = (),
    allow_missing: bool = False,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None,
) -> int:
    """Score any COCO-format results file, whatever model wrote it, as the COCO evaluation does, without Java.

    Args:
        references: COCO's annotation file, or a data set that captioner reads; no photos are needed.
        results: The captions: [{"image_id": 42, "caption": "a dog"}, ...].
        people: Instead of results, score people: the first caption of each image against its others.
        split: Which split of a data set the results are of.
        training: Captions of the training set (an annotation file or a data set), to find copies of them.
        java: Also compute these, with Java.
        allow_missing: Score what is there if images have no caption.
        output: Write the scores here, with intervals, slices and provenance, for captioner compare.
    """
    from captioner.metrics.report import score_files, score_people
    from captioner.metrics.tables import format_scores

    if people == (results is not None):
        raise ValueError("give either --results FILE or --people.")
    known = _references(references, split)
    seen = _captions(training)
    if results is None:
        scored = score_people(known, split=split, training=seen, java=java)
    else:
        scored = score_files(results, known, allow_missing=allow_missing, split=split, training=seen, java=java)
    if output is not None:
        scored.write(output)
    print(format_scores(scored))
    return 0


@app.command
def compare(
    a: tyro.conf.Positional[Path],
    b: tyro.conf.Positional[Path],
    /,
    references: OptionalFile = None,
    split: str = "val",
    json: bool = False,
) -> int:
    """Is B better than A, or is it chance? The difference of each score, its 95 % interval and its p-value.

    Args:
        a: A score file (captioner score -o), or a results file.
        b: Another, of the same images.
        references: The references, if A or B is a results file.
        split: Which split of a data set they are of.
        json: One JSON list, for programs.
    """
    from captioner.metrics.report import compare_files
    from captioner.metrics.tables import differences_to_dict, format_differences

    differences = compare_files(a, b, None if references is None else _references(references, split))
    if json:
        print_json(differences_to_dict(differences))
    else:
        print(format_differences(differences))
    return 0


@app.command
def check(file: tyro.conf.Positional[Path], /, val: OptionalFile = None, test: OptionalFile = None) -> int:
    """Would COCO's evaluation server accept this file? Every problem is told, with its entry.

    Args:
        file: captions_val2014_NAME_results.json, the same of test2014, or a zip of both.
        val: COCO's captions_val2014.json, to find missing and unknown images.
        test: COCO's image_info_test2014.json, for the same.
    """
    from captioner.metrics.server import check_submission, read_image_ids

    known = {split: read_image_ids(path) for split, path in (("val", val), ("test", test)) if path is not None}
    problems = check_submission(file, known)
    for problem in problems:
        print(f"captioner: {problem}", file=sys.stderr)
    if not problems:
        unchecked = "" if known else " (with --val and --test the images' ids are checked, too)"
        print(f"{file}: nothing is wrong with it{unchecked}.")
    return 2 if problems else 0


def _pointing(data: Path, captioner: Captioner) -> tuple[Pointing, Callable[[Record, Caption], None]]:
    """A pointing game over a data set, and what plays it with each caption."""
    from captioner.data.objects import read_objects
    from captioner.metrics.pointing import Pointing

    objects, game = read_objects(data), Pointing()
    if captioner.config.attention == "none":
        raise ValueError("this model has no attention, so its words point nowhere. Leave --pointing out.")

    def watch(record: Record, caption: Caption) -> None:
        assert caption.attention is not None and caption.box is not None
        game.add(caption.words, caption.attention, caption.box, objects.masks(record), objects.names)

    return game, watch


def _references(source: Path, split: str) -> Mapping[int | str, Sequence[str]]:
    """The captions of a COCO annotation file, or of a split of a data set, by image id. No photo is needed."""
    from captioner.data.coco import KARPATHY_FILES
    from captioner.data.readers import read_captions, select
    from captioner.metrics.results import read_coco_references, references_of

    if source.is_file() and source.suffix == ".json" and source.name not in KARPATHY_FILES:
        return read_coco_references(source)
    return references_of(select(read_captions(source), split))


def _captions(training: Path | None) -> list[str] | None:
    if training is None:
        return None
    return [caption for captions in _references(training, "train").values() for caption in captions]
