"""The verb evaluate: caption a split and score the captions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from captioner.cli.options import AS_SAVED, SHIPPED, Model, OptionalFile, OptionalFolder, OptionalSplit, Options, app
from captioner.cli.references import Java, can_run, can_write, training_captions

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner
    from captioner.data.readers import Record
    from captioner.decoding import Decoding
    from captioner.evaluate import Kept
    from captioner.metrics.pointing import Pointing

NOTHING_KEPT = "Captions are kept only with --results FILE, and without --pointing."


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
    nltk: bool = False,
    limit: int = 0,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Caption every photo of a split, and score the captions as the COCO evaluation does. Photos that cannot be read
    are listed and left out; the exit status is then 1.

    Args:
        data: Folder of the data set (the format is detected from its files), or a caption file.
        images: Folder of the photos, if they are not below the data set's folder.
        split: train, val (or dev), test or all. By default val, or all photos of a data set without splits.
        results: Write the captions to this file, in COCO's results format. If the command is interrupted or killed,
            run it again to continue.
        scores: Write the scores to this file, with intervals and provenance, for captioner compare.
        training: Training captions (an annotation file or a data set), to count captions copied from them.
        pointing: Also measure how often attention and evidence point at the objects that words name.
        submit: Write a submission for COCO's server to the current folder. --split test uses test2014.
        java: Also compute METEOR or SPICE, which need Java.
        nltk: Also compute BLEU with nltk's corpus_bleu, which many tutorials report.
        limit: Use only this number of photos, the first ones; 0 uses all.
        batch_size: Photos per batch.
    """
    from captioner.calibrate import check_confidence
    from captioner.data.checks import check_damaged, shortened
    from captioner.evaluate import caption_records, score_split
    from captioner.metrics.files.results import write_results
    from captioner.metrics.files.tables import format_scores

    can_write(results, scores)
    can_run(java)
    records, split = _records(data, images, split, submit)
    records = records[:limit] if limit else records
    if scores is not None and not records[0].captions:
        raise ValueError(
            "only COCO's server has the captions of test2014, so nothing can be scored. Leave --scores out."
        )
    captioner, known = model.load(), training_captions(training)
    wrong: set[int | str] = set()  # captions that name an object which is not there
    games, point = _pointing(data, captioner, wrong) if pointing else ({}, None)
    decoding = options.over(captioner.decoding)
    kept = None
    if results is not None and not pointing:  # which needs the attention maps of all captions
        kept = _kept(results, captioner, decoding)
    try:
        found, looks, damaged, confidences = caption_records(captioner, records, decoding, batch_size, point, kept)
    except KeyboardInterrupt:
        told = f"The captions are kept in {kept.path}. Run the same command to continue." if kept else NOTHING_KEPT
        raise KeyboardInterrupt(f"interrupted. {told}") from None
    for problem in shortened(damaged, "photos"):
        print(f"captioner: {problem}", file=sys.stderr)
    if results is not None:
        write_results(results, found.captions)
    if kept is not None:
        kept.remove()
    check_damaged(damaged, len(records))
    if damaged:
        print(f"captioner: {len(damaged)} of {len(records)} photos cannot be read and are left out.", file=sys.stderr)
    if records[0].captions:
        scored = score_split(captioner, found, looks, records, decoding, split, java, nltk, known)
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
            print(f"\nthe model's own captions:\n{games['own']}")
            print(f"\nhuman captions, under teacher forcing:\n{games['people']}")
    else:
        print("nothing is scored: only COCO's server has the captions of test2014")
    if submit is not None:
        _submit(submit, split, found.captions, data)
    return 1 if damaged else 0


def _kept(results: Path, captioner: Captioner, decoding: Decoding) -> Kept:
    """The captions of a former run that did not reach its end, beside the file of the results."""
    from dataclasses import asdict

    from captioner.evaluate import Kept

    settings = {"model": captioner.provenance, "decoding": asdict(decoding)}
    kept = Kept(results.with_name(f"{results.name}.partial"), settings)
    if kept.entries:
        print(f"captioner: {len(kept.entries):,} captions are in {kept.path} already.", file=sys.stderr)
    return kept


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
                    "captioner: the data set has no splits, so all photos are captioned. Training uses "
                    "--split train, and holds out val and test.",
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
