"""What the verbs show of the inside of the recurrent network: attend --cells, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
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
    from captioner.inside import Meaning

SHOWN = 4  # cells in a picture, if none are named
ROWS = 10  # captions in it


def draw_cells(
    photos: Sequence[Path],
    output: Path,
    cells: Sequence[int],
    layer: Literal["below", "above"],
    model: ModelOptions,
    options: DecodingOptions,
) -> int:
    """What `attend --cells` does: a picture of these cells, or of those that say most plainly what they are about."""
    from captioner.visualize.page import check_path

    check_path(output)
    if "{name}" in output.name:
        raise ValueError(f"cells of all photos come into one picture, so {output} needs no {{name}}. Leave it out.")
    keep_photos(photos, output)

    from captioner.inside import meanings, meanings_of, read_cells
    from captioner.visualize.units import save_units

    captioner = load_captioner(model.checkpoint, model.device, "torch" if model.backend == "auto" else model.backend)
    readings = read_cells(captioner, photos, options.over(captioner.decoding), layer)
    found = meanings_of(cells, readings) if cells else meanings(readings)[:SHOWN]
    titles = [_title(each) for each in found]
    print(*titles, sep="\n")
    shown = readings[:ROWS]
    if len(shown) < len(readings):
        print(f"(measured on {len(readings)} captions; the first {len(shown)} are drawn)")
    panels = [(title, [row.cells[:, each.cell] for row in shown]) for title, each in zip(titles, found, strict=True)]
    save_units(output, [row.words for row in shown], panels)
    print(output)
    return 0


def _title(meaning: Meaning) -> str:
    """Cell 380: an animal was named, r = +0.81 (by chance up to 0.12)."""
    note = "" if abs(meaning.correlation) > meaning.chance else ": no more than chance"
    correlation = f"{meaning.correlation:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f"cell {meaning.cell}: {meaning.property}, r = {correlation} (by chance up to {meaning.chance:.2f}{note})"


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

    Decoders of the three kinds as training begins with them, on random captions; with --data also a trained model.

    Args:
        output: The picture to write: .png, .svg or .pdf.
        checkpoint: Directory of a trained model to show, too; with --data the shipped one if not given.
        data: Data set whose photos and captions the trained model reads.
        split: train, val (or dev) or test.
        limit: Photos of the data set.
        words: How many words back.
        device: auto, cpu, cuda, mps.
    """
    from captioner.data.readers import read_dataset, select
    from captioner.inside import fresh_gradients, trained_gradients
    from captioner.visualize.gradients import format_share, mean_shares, save_gradients
    from captioner.visualize.page import check_path

    check_path(output)
    if words < 2:
        raise ValueError(f"words is {words}; expected 2 or more.")
    if checkpoint is not None and data is None:
        raise ValueError("a trained model needs photos and captions to read. Pass --data DIRECTORY.")
    norms = {kind: fresh_gradients(kind, words) for kind in ("rnn", "gru", "lstm")}
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
