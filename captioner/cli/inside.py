"""The verbs that look inside the recurrent network: cells and gradients."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from captioner.cli.options import Checkpoint, OptionalFile, Output, Paths, app, find_photos, load_captioner

ROWS = 10  # captions in a picture of cells


@app.command
def cells(
    paths: Paths = (),
    /,
    *,
    output: Output,
    cell: Annotated[tuple[int, ...], tyro.conf.arg(metavar="CELL ...", help_behavior_hint="")] = (),
    layer: Literal["below", "above"] = "below",
    count: int = 4,
    checkpoint: Checkpoint = None,
    device: str = "auto",
) -> int:
    """Show cells of the recurrent network at work: captions, each word coloured by a cell's activation after it.

    Args:
        paths: Photos, folders of photos, or - for a list of paths on standard input.
        output: The picture to write: .png, .svg or .pdf.
        cell: These cells, counted from 0; by default those whose activation says most plainly what they are about.
        layer: The recurrent layers below or above the attention (the topmost, if there are several).
        count: How many cells to find.
        checkpoint: Directory of the model; the shipped one if not given.
        device: auto, cpu, cuda, mps.
    """
    from captioner.inside import meanings, meanings_of, read_cells
    from captioner.visualize.cells import save_cells
    from captioner.visualize.page import check_path

    check_path(output)
    photos = find_photos(paths, recursive=False)
    readings = read_cells(load_captioner(checkpoint, device, "torch"), photos, layer)
    found = meanings_of(cell, readings) if cell else meanings(readings)[: max(1, count)]
    titles = [f"cell {each.cell}: {each.property}, r = {each.correlation:+.2f}".replace("-", "−") for each in found]
    for title, each in zip(titles, found, strict=True):
        note = "" if abs(each.correlation) > each.chance else ": no more than chance"
        print(f"{title} (by chance up to {each.chance:.2f}{note})")
    shown = readings[:ROWS]
    panels = [(title, [row.cells[:, each.cell] for row in shown]) for title, each in zip(titles, found, strict=True)]
    save_cells(output, [row.words for row in shown], panels)
    print(output)
    return 0


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
    from captioner.visualize.gradients import save_gradients
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
        shares = (values / values[..., -1:]).reshape(-1, values.shape[-1]).mean(0)
        print(f"{name:<14}{shares[0]:.1e} of the last word's gradient is left {len(shares) - 1} words before it")
    save_gradients(output, norms)
    print(output)
    return 0
