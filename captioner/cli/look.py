"""The verb that shows where a model looks: attend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from captioner.cli.inside import draw_units
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
    text: Annotated[str | None, tyro.conf.arg(metavar="CAPTION", help_behavior_hint="")] = None,
    cells: bool = False,
    cell: Annotated[tuple[int, ...], tyro.conf.arg(metavar="CELL ...", help_behavior_hint="")] = (),
    layer: Literal["below", "above"] = "below",
    model: Model = SHIPPED,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Show where the model looked for each word: a picture, a film, an interactive page, or data.

    Args:
        paths: Photos, folders of photos, or - for a list of paths on standard input.
        output: The file to write. Its ending chooses what: .png, .svg, .pdf a picture; .gif, .webp a film; .html a
            page to explore; .npz, .json data. For several photos with {name}, each photo's: 'maps/{name}.html'.
        recursive: Also look into folders' folders.
        text: Instead of the model's own caption show this one: where the model looks as it reads it, what it would have
            given each word, and what it would have said.
        cells: Instead show units of the recurrent network, in one picture: captions of the first photos, each word
            coloured by a unit's activation after it. Shows the units that follow a property of words most closely.
        cell: Show these units instead, counted from 0.
        layer: With --cells, the recurrent layers below or above the attention (of several, the topmost).
        batch_size: Photos captioned at a time.
    """
    from captioner.captioner import ALTERNATIVES
    from captioner.images import ImageError

    photos = find_photos(paths, recursive)
    if cells or cell:
        if text is not None:
            raise ValueError("--cells shows the model's own captions. Leave --text out.")
        return draw_units(photos, output, cell, layer, model, options)
    outputs = name_outputs(str(output), photos)
    if text is not None and options != AS_SAVED:
        raise ValueError("--text is read, nothing is searched. Leave --method, --beam-size and their like out.")
    if (options.num_captions or 1) > 1:
        raise ValueError("one caption a photo is shown. Leave --num-captions out, or see all in captioner web.")
    captioner = model.load()
    decoding = options.over(captioner.decoding)
    decoding = replace(decoding, alternatives=max(decoding.alternatives, ALTERNATIVES))
    failed = 0
    results = captioner.caption_many(photos, decoding, batch_size) if text is None else _read(captioner, photos, text)
    for photo, path, result in zip(photos, outputs, results, strict=True):
        if isinstance(result, ImageError):
            failed += 1
            print(f"captioner: {result}", file=sys.stderr, flush=True)
        else:
            result.save(path)
            print(f"{photo}: {result.text}\n{path}", flush=True)
            if result.attention_statistics is not None and result.attention_statistics.warning:
                print(f"captioner: {photo}: {result.attention_statistics.warning}", file=sys.stderr, flush=True)
    if failed:
        print(f"captioner: {failed} of {len(photos)} photos could not be captioned.", file=sys.stderr)
    return 1 if failed else 0


def _read(captioner: Captioner, photos: Sequence[Path], text: str) -> Iterator[Caption | ImageError]:
    from captioner.images import ImageError
    from captioner.vocabulary import SPECIALS, UNK, tokenize

    unknown = [word for word in tokenize(text) if captioner.vocabulary.encode([word]) == [UNK]]
    if unknown:
        told = f"words that it does not know are shown as {SPECIALS[UNK]}: {', '.join(unknown)}"
        print(f"captioner: {told}.", file=sys.stderr)
    for photo in photos:
        try:
            yield captioner.read(photo, text)
        except ImageError as error:
            yield error


def name_outputs(output: str, photos: Sequence[Path]) -> list[Path]:
    """The file to write for each photo, {name} replaced; ValueError if two would be one, or one a photo itself."""
    from captioner.visualize.files import ENDINGS
    from captioner.visualize.page import check_path

    if len(photos) > 1 and "{name}" not in output:
        raise ValueError(
            f"{len(photos)} photos, one file {output}. Put {{name}} into its name, which stands for each photo's: "
            f"-o '{Path(output).with_name('{name}' + Path(output).suffix)}'."
        )
    outputs = [Path(output.replace("{name}", photo.stem)) for photo in photos]
    taken: dict[Path, Path] = {}
    keep_photos(photos, *outputs)
    for photo, path in zip(photos, outputs, strict=True):
        check_path(path, ENDINGS)
        if path in taken:
            raise ValueError(
                f"{taken[path]} and {photo} would both be written to {path}. Rename one, or do them apart."
            )
        taken[path] = photo
    return outputs
