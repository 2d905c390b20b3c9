"""The verbs that look inside the recurrent network: attend --cells, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captioner.cli.options import (
    Checkpoint,
    DecodingOptions,
    ModelOptions,
    OptionalFile,
    Output,
    app,
    keep_photos,
    load_captioner,
)

if TYPE_CHECKING:
    from captioner.inside.units import Match

SHOWN = 4  # units in a picture, unless some are given
ROWS = 10  # captions in it


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

    captioner = replace(model, backend="torch" if model.backend == "auto" else model.backend).load()
    with tqdm(total=len(photos), desc="captions", unit="photo", leave=False, disable=None) as bar:
        captions = caption_activations(captioner, photos, options.over(captioner.decoding), layer, bar.update)
    matches = match_units(units, captions) if units else find_matches(captions)[:SHOWN]
    titles = [_title(match) for match in matches]
    print(*titles, sep="\n")
    shown = captions[:ROWS]
    if len(shown) < len(captions):
        print(f"(measured on {len(captions)} captions; the first {len(shown)} are drawn)")
    panels = [(title, [row.units[:, each.unit] for row in shown]) for title, each in zip(titles, matches, strict=True)]
    save_units(output, [row.words for row in shown], panels)
    print(output)
    return 0


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
    split: str = "val",
    limit: int = 60,
    words: int = 20,
    device: str = "auto",
) -> int:
    """Show how far back the loss of a caption's last word reaches: the vanishing gradient of rnn, gru and lstm.

    Measures untrained decoders of the three kinds on random captions and, with --data, also a trained model.

    Args:
        output: The picture to write: .png, .svg or .pdf.
        checkpoint: Directory of the trained model; the shipped one if not given. Needs --data.
        data: Data set with photos and captions for the trained model.
        split: train, val (or dev) or test.
        limit: Largest number of photos.
        words: Number of words to go back.
        device: auto, cpu, cuda, mps.
    """
    from captioner.data.readers import read_dataset, select
    from captioner.inside.gradients import trained_gradients, untrained_gradients
    from captioner.visualize.gradients import format_share, mean_shares, save_gradients
    from captioner.visualize.page import check_path

    check_path(output)
    if words < 2:
        raise ValueError(f"words is {words}; expected at least 2.")
    if checkpoint is not None and data is None:
        raise ValueError("a trained model needs photos and captions. Pass --data DIRECTORY.")
    norms = {kind: untrained_gradients(kind, words) for kind in ("rnn", "gru", "lstm")}
    if data is not None:
        captioner = load_captioner(checkpoint, device, "torch")
        records = select(read_dataset(data), split)[:limit]
        norms[f"{captioner.config.cell}, trained"] = trained_gradients(captioner, records, words)
    for name, values in norms.items():
        shares = mean_shares(values)
        print(
            f"{name:<14}{format_share(shares[0])} of the last word's gradient remains {len(shares) - 1} words earlier"
        )
    save_gradients(output, norms)
    print(output)
    return 0
