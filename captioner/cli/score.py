"""The verbs about scores of captions that are there: score, compare, check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from captioner.cli.options import OptionalFile, OptionalSplit, app, print_json
from captioner.cli.references import Java, can_run, can_write, find_references, training_captions

Sources = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...")]
OptionalSources = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]


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
        references: COCO's annotation file, a data set that captioner reads (without its photos), or text files with one
            caption per line.
        results: The captions: [{"image_id": 42, "caption": "a dog"}, ...], what captioner caption --json or -o writes,
            a CSV table (image_id or path, caption), or a text file with one caption per line.
        people: Score people instead: the first caption of each image against its other captions.
        split: Split of the results, or all. By default val, or all photos of a data set without splits.
        training: Training captions (an annotation file or a data set), to count captions copied from them.
        java: Also compute METEOR or SPICE, which need Java.
        nltk: Also compute BLEU with nltk's corpus_bleu, which many tutorials report.
        allow_missing: If some images have no caption, score the others.
        output: Write the scores to this file, with intervals and provenance, for captioner compare.
    """
    from captioner.metrics.files.score_file import score_files, score_people
    from captioner.metrics.files.tables import format_scores

    if people == (results is not None):
        raise ValueError("expected either --results FILE or --people.")
    can_write(output)
    can_run(java)
    known, split = find_references(references, split)
    about: dict[str, Any] = {
        "split": split,
        "training": training_captions(training),
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
    """Is B better than A, or is the difference due to chance? Prints differences, 95 % intervals and p-values.

    Args:
        a: A score file (captioner score -o), or a results file.
        b: Another file for the same images.
        references: The references, if A or B is a results file.
        split: Split of the references, or all, as in captioner score.
        json: Print one JSON list, for programs.
    """
    from captioner.metrics.files.score_file import compare_files
    from captioner.metrics.files.tables import differences_to_dict, format_differences

    differences = compare_files(a, b, find_references(references, split)[0] if references else None)
    if json:
        print_json(differences_to_dict(differences))
    else:
        print(format_differences(differences))
    return 0


@app.command
def check(file: tyro.conf.Positional[Path], /, val: OptionalFile = None, test: OptionalFile = None) -> int:
    """Would COCO's evaluation server accept this file? If not, print the reasons.

    Args:
        file: captions_val2014_NAME_results.json, the same for test2014, or a zip of both.
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
