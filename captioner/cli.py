"""The command line: verbs and what they print. Each verb imports what it needs when it runs: `--help` is instant.

Exit status: 0 all done; 1 some photos could not be captioned, the others were; 2 wrong input, nothing done;
130 interrupted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from captioner.config import TrainConfig
from captioner.decoding import Decoding

if TYPE_CHECKING:
    from captioner.captioner import Captioner

DESCRIPTION = "Photos in, sentences out, and a picture of where the model looked for each word."

app = tyro.extras.SubcommandApp()

OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Checkpoint = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")]
Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def _unset(metavar: str, help: str) -> object:
    """A setting of the decoding that, if it is not given, is as the checkpoint has it."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint="")


@dataclass(frozen=True)
class DecodingOptions:
    """How captions are found; what is not given is as the checkpoint has it."""

    method: Annotated[
        Literal["beam", "sample"] | None,
        _unset("{beam,sample}", "The most probable caption, or one drawn at random."),
    ] = None
    beam_size: Annotated[int | None, _unset("INT", "Hypotheses that beam search keeps; 1 is greedy.")] = None
    max_length: Annotated[int | None, _unset("INT", "Longest caption, in words.")] = None
    length_penalty: Annotated[
        float | None, _unset("FLOAT", "Scores are divided by length to this power: 0 favours short captions.")
    ] = None
    no_repeat_ngram: Annotated[int | None, _unset("INT", "No sequence of so many words comes twice; 0: off.")] = None
    temperature: Annotated[float | None, _unset("FLOAT", "Sampling: below 1 is tame, above 1 is wild.")] = None
    top_k: Annotated[int | None, _unset("INT", "Sampling: from so many most probable words only; 0: all.")] = None
    top_p: Annotated[float | None, _unset("FLOAT", "Sampling: from the fewest words with this probability.")] = None
    seed: Annotated[int | None, _unset("INT", "Sampling: the same seed gives the same captions.")] = None
    num_captions: Annotated[int | None, _unset("INT", "Captions a photo, best first.")] = None

    def over(self, decoding: Decoding) -> Decoding:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        wanted = given.get("num_captions", 1)
        if given.get("method", decoding.method) == "beam" and "beam_size" not in given:
            given["beam_size"] = max(decoding.beam_size, wanted)
        return Decoding(**{**asdict(decoding), **given})


Options = Annotated[DecodingOptions, tyro.conf.arg(name="")]


@app.command
def caption(
    paths: Paths = (),
    /,
    checkpoint: Checkpoint = None,
    recursive: bool = False,
    json: bool = False,
    options: Options = DecodingOptions(),
    batch_size: int = 32,
    device: str = "auto",
) -> int:
    """Write a sentence about each photo.

    Args:
        paths: Photos, folders of photos, or - for a list of paths on standard input.
        checkpoint: Directory of the model; the shipped one if not given.
        recursive: Look into the folders' folders, too.
        json: One JSON object a line, for programs.
        batch_size: Photos captioned at a time.
        device: auto, cpu, cuda, mps.
    """
    from captioner.images import ImageError

    photos = _find(paths, recursive)
    captioner = _load(checkpoint, device)
    decoding = options.over(captioner.decoding)
    failed = 0
    results = captioner.caption_many(photos, decoding, batch_size)
    for path, result in zip(photos, results, strict=True):
        if isinstance(result, ImageError):
            failed += 1
            print(f"captioner: {result}", file=sys.stderr, flush=True)
        elif json:
            _print_json({"path": str(path), **result.to_dict()})
        else:
            print(f"{path}: {result.text}{'' if result.finished else ' ...'}", flush=True)
            for other in result.others:
                print(f"{' ' * len(str(path))}  {other.text}", flush=True)
    if failed:
        print(f"captioner: {failed} of {len(photos)} photos could not be captioned.", file=sys.stderr)
    return 1 if failed else 0


@app.command
def attend(
    photo: tyro.conf.Positional[str],
    /,
    output: Output,
    checkpoint: Checkpoint = None,
    options: Options = DecodingOptions(),
    device: str = "auto",
) -> int:
    """Show where the model looked for each word: the photo once a word, with a heat map over it.

    Args:
        photo: The photo.
        output: The picture to write: .png, .svg or .pdf.
        checkpoint: Directory of the model; the shipped one if not given.
        device: auto, cpu, cuda, mps.
    """
    from captioner.images import open_image
    from captioner.visualize import save_attention
    from captioner.visualize.page import check_path

    check_path(output)
    image = open_image(photo)
    captioner = _load(checkpoint, device)
    found = captioner.caption(image, options.over(captioner.decoding))
    if found.attention is None:
        raise ValueError(
            f"this model ({checkpoint}) has no attention, so there is nothing to show. "
            "Train one with --model.attention general."
        )
    save_attention(output, image, found.words, found.attention, found.box, found.log_probabilities, found.text)
    print(f"{photo}: {found.text}\n{output}")
    return 0


@app.command
def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> int:
    """Train a model: CNN and RNN jointly, in stages, on Flickr8k, Flickr30k, COCO or your own photos."""
    from captioner.train import train as run

    print(f"best checkpoint: {run(config)}")
    return 0


@app.command
def evaluate(
    data: Path,
    split: str = "val",
    checkpoint: Checkpoint = None,
    results: OptionalFile = None,
    scores: OptionalFile = None,
    training: OptionalFile = None,
    submit: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    java: tuple[Literal["METEOR", "SPICE"], ...] = (),
    limit: int = 0,
    options: Options = DecodingOptions(),
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
    captioner = _load(checkpoint, device)
    scored, captions = run(
        captioner, records, options.over(captioner.decoding), split, batch_size, java, _captions(training)
    )
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        write_results(results, captions)
    if scores is not None:
        scores.parent.mkdir(parents=True, exist_ok=True)
        scored.write(scores)
    print(format_scores(scored))
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
        _print_json(differences_to_dict(differences))
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


@app.command
def toy(directory: tyro.conf.Positional[Path], /, images: int = 1000, size: int = 64, seed: int = 0) -> int:
    """Make a small synthetic data set: coloured shapes, what one can say of them, and where they are.

    Args:
        directory: Where to write it.
        images: How many.
        size: Their side in pixels.
        seed: The same seed makes the same data set.
    """
    from captioner.data.toy import make_toy

    make_toy(directory, images=images, size=size, seed=seed)
    print(
        f"{directory}: {images} images of {size} x {size} pixels. Train on it: captioner train --data {directory} ..."
    )
    return 0


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


def _find(paths: Iterable[str], recursive: bool) -> list[Path]:
    from captioner.images import find_images

    given = [path for path in _with_standard_input(paths) if path.strip()]
    photos = find_images(given, recursive=recursive)
    if not photos:
        deeper = "" if recursive else " Add --recursive to look into folders' folders, too."
        raise ValueError(f"no photos: {', '.join(given) or 'nothing was given'}.{deeper}")
    return photos


def _with_standard_input(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin)
        else:
            yield path


def _load(checkpoint: Path | None, device: str) -> Captioner:
    from captioner.captioner import Captioner

    return Captioner.load(checkpoint, device=device)


def _print_json(entry: Any) -> None:
    print(json.dumps(entry, ensure_ascii=False), flush=True)


def main() -> None:
    if hasattr(sys.stdout, "reconfigure"):  # captions and file names are Unicode, whatever the terminal's locale
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app.cli(prog="captioner", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt as interrupt:
        print(f"captioner: {interrupt or 'interrupted'}", file=sys.stderr)
        status = 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"captioner: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
