"""The verbs that look inside the recurrent network: attend --cells, and gradients."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captioner.cli.options import (
    Checkpoint,
    DecodingOptions,
    ModelOptions,
    OptionalFile,
    OptionalFolder,
    OptionalSplit,
    Output,
    app,
    keep_photos,
    leave_out_damaged,
    load_captioner,
)

if TYPE_CHECKING:
    from captioner.images import ImageError
    from captioner.inside.units import Match

SHOWN = 4  # units in a picture, unless some are given
ROWS = 10  # captions in it, or lines of a text
MEASURED = 30_000  # characters of a text, its first


def draw_units(
    photos: Sequence[Path],
    output: Path,
    units: Sequence[int],
    layer: Literal["below", "above"],
    model: ModelOptions,
    options: DecodingOptions,
) -> int:
    """`attend --cells`: draw these units or, if none are given, those that follow a property of words most closely."""
    from captioner.visualize.page import check_path

    check_path(output)
    if "{name}" in output.name:
        raise ValueError(f"all photos go into one picture with --cells, so {output} needs no {{name}}. Leave it out.")
    keep_photos(photos, output)

    from tqdm import tqdm

    from captioner.inside.units import caption_activations, find_matches, match_units
    from captioner.visualize.units import save_units

    damaged: list[ImageError] = []
    captioner = replace(model, backend="torch" if model.backend == "auto" else model.backend).load()
    with tqdm(total=len(photos), desc="captions", unit="photo", leave=False, disable=None) as bar:

        def report(error: ImageError) -> None:
            damaged.append(error)
            bar.write(f"captioner: {error}", file=sys.stderr)

        captions = caption_activations(captioner, photos, options.over(captioner.decoding), layer, bar.update, report)
    matches = match_units(units, captions) if units else find_matches(captions)[:SHOWN]
    titles = _print_titles(matches)
    shown = captions[:ROWS]
    if len(shown) < len(captions):
        print(f"(measured on {len(captions)} captions; the first {len(shown)} are drawn)")
    panels = [(title, [row.units[:, each.unit] for row in shown]) for title, each in zip(titles, matches, strict=True)]
    save_units(output, [row.tokens for row in shown], panels)
    print(output)
    return 1 if damaged else 0


def reads_text(model: ModelOptions) -> bool:
    """Whether the checkpoint is a language model."""
    from captioner.checkpoint.manifest import LANGUAGE_MODEL, find_checkpoint, read_config

    checkpoints = [read_config(find_checkpoint(each)) for each in model.checkpoint]
    return [each.get("kind") for each in checkpoints] == [LANGUAGE_MODEL]


def draw_text_units(paths: Sequence[str], output: Path, units: Sequence[int], model: ModelOptions) -> int:
    """`attend --cells` with a model of characters: the same over the text of these files, in an excerpt of it."""
    from captioner.data.text import read_documents
    from captioner.inside.properties import OF_CHARACTERS
    from captioner.inside.units import excerpt, find_matches, match_units, text_activations
    from captioner.language_model import LanguageModel
    from captioner.visualize.page import check_path
    from captioner.visualize.units import save_text_units

    check_path(output)
    if not paths:
        raise ValueError("no text: this checkpoint is a language model. Pass text files in place of photos.")
    language_model = LanguageModel.load(model.checkpoint[0], model.device)
    text = "".join(str(token) for document in read_documents([*map(Path, paths)], "character") for token in document)
    read = text_activations(language_model, text[:MEASURED])
    matches = match_units(units, [read], OF_CHARACTERS) if units else find_matches([read], OF_CHARACTERS)[:SHOWN]
    titles = _print_titles(matches)
    start, stop = excerpt(read, {match.property: OF_CHARACTERS[match.property] for match in matches}, ROWS)
    panels = [(title, read.units[start:stop, each.unit]) for title, each in zip(titles, matches, strict=True)]
    save_text_units(output, text[start:stop], panels)
    print(output)
    return 0


def _print_titles(matches: Sequence[Match]) -> list[str]:
    titles = [_title(match) for match in matches]
    print(*titles, sep="\n")
    return titles


def _title(match: Match) -> str:
    """Unit 380: an animal was named, r = +0.81 (by chance up to 0.12)."""
    note = "" if abs(match.correlation) > match.chance else ": no more than chance"
    correlation = f"{match.correlation:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f"unit {match.unit}: {match.property}, r = {correlation} (by chance up to {match.chance:.2f}{note})"


@app.command
def gradients(
    output: Output,
    checkpoint: Checkpoint = None,
    data: OptionalFile = None,
    images: OptionalFolder = None,
    split: OptionalSplit = None,
    limit: int = 60,
    words: int = 20,
    device: str = "auto",
) -> int:
    """Show how far back the gradient of a caption's last word reaches: vanishing gradients in rnn, gru and lstm.

    Measures untrained decoders of the three kinds on random captions and, with --data, also a trained model.

    Args:
        output: The picture to write: .png, .svg or .pdf.
        checkpoint: Directory of the trained model; the shipped one if not given. Needs --data.
        data: Data set with photos and captions for the trained model.
        images: Folder of the photos, if they are not below the data set's folder.
        split: train, val (or dev), test or all; by default val, or all photos of a data set without splits.
        limit: Maximum number of photos.
        words: Number of words to go back.
        device: auto, cpu, cuda, mps.
    """
    from captioner.data.readers import default_split, read_dataset, select
    from captioner.inside.gradients import trained_gradients, untrained_gradients
    from captioner.visualize.gradients import format_share, mean_shares, save_gradients
    from captioner.visualize.page import check_path

    check_path(output)
    if words < 2:
        raise ValueError(f"words is {words}; expected at least 2.")
    if checkpoint is not None and data is None:
        raise ValueError("a trained model needs photos and captions. Pass --data DIRECTORY.")
    status = 0
    norms = {kind: untrained_gradients(kind, words) for kind in ("rnn", "gru", "lstm")}
    if data is not None:
        captioner = load_captioner(checkpoint, device, "torch")
        records = read_dataset(data, images=images)
        chosen = select(records, split or default_split(records))[:limit]
        records = leave_out_damaged(chosen)
        status = 1 if len(records) < len(chosen) else 0
        norms[f"{captioner.config.cell}, trained"] = trained_gradients(captioner, records, words)
    for name, values in norms.items():
        shares = mean_shares(values)
        print(
            f"{name:<14}{format_share(shares[0])} of the last word's gradient remains {len(shares) - 1} words earlier"
        )
    save_gradients(output, norms)
    print(output)
    return status
