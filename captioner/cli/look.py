"""The verb that shows where a model looks: attend."""

from __future__ import annotations

import tyro

from captioner.cli.options import AS_SAVED, Checkpoint, Options, Output, app, load_captioner


@app.command
def attend(
    photo: tyro.conf.Positional[str],
    /,
    output: Output,
    checkpoint: Checkpoint = None,
    options: Options = AS_SAVED,
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
    captioner = load_captioner(checkpoint, device)
    found = captioner.caption(image, options.over(captioner.decoding))
    if found.attention is None:
        raise ValueError(
            f"this model ({checkpoint}) has no attention, so there is nothing to show. "
            "Train one with --model.attention general."
        )
    save_attention(output, image, found.words, found.attention, found.box, found.log_probabilities, found.text)
    print(f"{photo}: {found.text}\n{output}")
    return 0
