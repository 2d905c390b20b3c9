"""The verb that shows where a model looks: attend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from captioner.cli.inside import draw_text_units, draw_units, reads_text
from captioner.cli.options import AS_SAVED, SHIPPED, Model, Options, Output, Paths, app, find_photos, keep_photos

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner
    from captioner.images import ImageError


@app.command
def attend(
    paths: Paths = (),
    /,
    *,
    output: Output,
    recursive: bool = False,
    map: Literal["attention", "evidence"] = "attention",
    text: Annotated[str | None, tyro.conf.arg(metavar="CAPTION", help_behavior_hint="")] = None,
    cells: bool = False,
    cell: Annotated[tuple[int, ...], tyro.conf.arg(metavar="CELL ...", help_behavior_hint="")] = (),
    layer: Literal["below", "above"] = "below",
    model: Model = SHIPPED,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Show where the model looked for each word: a picture, an animation, an interactive page, or data.

    Args:
        paths: Photos, folders of photos, or - for a list of paths on standard input. Text files for --cells with a
            character model.
        output: The file to write: .png .jpg .svg .pdf .gif .webp .html .npz .json. {name} stands for each photo's name.
            Missing folders are created.
        recursive: Include photos in subfolders.
        map: attention: where the model looked. evidence: how much the word's log-probability falls if a region of the
            photo is left out; exact but slower. Pictures do not show evidence against a word.
        text: Show this caption instead of the model's own: its attention and probabilities under teacher forcing.
        cells: Show units of the recurrent network: each word of the captions (or, with a character model, each
            character of the text) is coloured by the unit's activation.
        cell: Show these units, counted from 0, instead of the most interpretable ones.
        layer: Take the units from the recurrent layer below or above the attention (the topmost if there are several).
        batch_size: Photos per batch.
    """
    from captioner.bulk.progress import Bar, Counts
    from captioner.images import ImageError, printable

    if (cells or cell) and reads_text(model):
        return draw_text_units(paths, output, cell, model)
    photos, unlisted = find_photos(paths, recursive)
    if cells or cell:
        if text is not None:
            raise ValueError("--cells shows the model's own captions. Leave --text out.")
        if map != "attention":
            raise ValueError("--cells shows units, not maps. Leave --map out.")
        return draw_units(photos, output, cell, layer, model, options) or int(unlisted > 0)
    outputs = name_outputs(str(output), photos)
    if text is not None and options != AS_SAVED:
        raise ValueError(
            "nothing is decoded with --text. Leave --method, --beam-size and the other decoding options out."
        )
    if (options.num_captions or 1) > 1:
        raise ValueError(
            "one caption per photo is shown. Leave --num-captions out, or use captioner web to see several."
        )
    captioner = model.load()
    decoding = options.over(captioner.decoding.for_display())
    results = captioner.caption_many(photos, decoding, batch_size) if text is None else _read(captioner, photos, text)
    counts = Counts()
    with Bar(not sys.stdout.isatty(), lambda: len(photos)) as bar:
        for photo, path, result in zip(photos, outputs, results, strict=True):
            try:
                if isinstance(result, ImageError):
                    raise result
                if map == "evidence":
                    (result,) = captioner.with_evidence(photo, [result])
                result.save(path)  # opens the photo again
            except ImageError as error:
                counts.failed += 1
                bar.print(f"captioner: {error}")
            else:
                counts.captioned += 1
                mark = " (unsure)" if result.is_unsure else ""
                print(f"{printable(photo)}: {printable(result.text)}{mark}\n{printable(path)}", flush=True)
                if result.attention_statistics is not None and result.attention_statistics.warning:
                    bar.print(f"captioner: {printable(photo)}: {result.attention_statistics.warning}")
            bar.show(counts)
    if counts.failed:
        print(f"captioner: {counts.failed} of {len(photos)} photos could not be captioned.", file=sys.stderr)
    return 1 if counts.failed or unlisted else 0


def _read(captioner: Captioner, photos: Sequence[Path], text: str) -> Iterator[Caption | ImageError]:
    from captioner.images import ImageError
    from captioner.vocabulary import SPECIALS, UNK, tokenize

    unknown = [word for word in tokenize(text) if captioner.vocabulary.encode([word]) == [UNK]]
    if unknown:
        told = f"words outside the vocabulary are shown as {SPECIALS[UNK]}: {', '.join(unknown)}"
        print(f"captioner: {told}.", file=sys.stderr)
    for photo in photos:
        try:
            yield captioner.read(photo, text)
        except ImageError as error:
            yield error


def name_outputs(output: str, photos: Sequence[Path]) -> list[Path]:
    """The output file of each photo, with {name} replaced. Raises ValueError if two are equal, or one is a photo."""
    from captioner.visualize.files import ENDINGS
    from captioner.visualize.page import check_path

    if len(photos) > 1 and "{name}" not in output:
        raise ValueError(
            f"{len(photos)} photos need {len(photos)} files. Use {{name}}, which stands for each photo's name: "
            f"-o '{Path(output).with_name('{name}' + Path(output).suffix)}'."
        )
    outputs = [Path(output.replace("{name}", photo.stem)) for photo in photos]
    taken: dict[Path, Path] = {}
    keep_photos(photos, *outputs)
    for photo, path in zip(photos, outputs, strict=True):
        check_path(path, ENDINGS)
        if path in taken:
            raise ValueError(
                f"{taken[path]} and {photo} would both be written to {path}. Rename one, or show them one by one."
            )
        taken[path] = photo
    return outputs
