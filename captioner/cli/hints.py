"""What people type that is not there, and what it is called here. Read before the command line is parsed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from difflib import get_close_matches

TRAINING = {
    "--lr": "it is called --learning-rate",
    "--wd": "it is called --weight-decay",
    "--dropout": "it is called --model.dropout",
    "--hidden-size": "it is called --model.hidden-size",
    "--embedding-size": "it is called --model.embedding-size",
    "--grad-clip": "it is called --clip",
    "--bs": "it is called --batch-size",
    "--out": "it is called --output",
    "--checkpoint": "a checkpoint to begin from is given by --init",
    "--model": "a checkpoint to begin from is given by --init",
}
CAPTIONS = TRAINING | {
    "--epochs": "the epochs are in the stages: --stages decoder:10 features.14:3",
    "--lr": "it is called --learning-rate (see also --joint-learning-rate and --encoder-learning-rate)",
    "--embedding": "it is called --embeddings",
    "--encoder": "it is called --model.encoder",
    "--model": "a CNN is given by --model.encoder, a checkpoint to begin from by --init",
    **dict.fromkeys(("--beam-size", "--beam", "--beams", "--num-beams"), "it is called --decoding.beam-size"),
    "--greedy": "greedy search is --decoding.beam-size 1",
    "--attention": "it is called --model.attention",
    "--freeze-encoder": "the stage decoder:10 trains over the frozen CNN",
}
OPTIONS = {  # of other programs, by verb; "" stands for any verb
    "train": CAPTIONS,
    "find-lr": CAPTIONS,
    "pretrain": TRAINING | {"--data": "it is called --text", "--embeddings": "it is an option of captioner train"},
    "": {
        "--model": "it is called --checkpoint",
        "--beam": "it is called --beam-size",
        "--beams": "it is called --beam-size",
        "--num-beams": "it is called --beam-size",
        "--greedy": "greedy search is --beam-size 1",
        "--embeddings": "it is an option of captioner train",
    },
}
VALUES = {
    ("--method", "greedy"): "greedy search is --beam-size 1",
    ("--device", "gpu"): "use cuda for NVIDIA, mps for Apple, or auto",
}


def check_words(arguments: Sequence[str], verbs: Collection[str]) -> None:
    """Raise ValueError for a word that is not there but has another name."""
    first = arguments[0] if arguments else ""
    if first and not first.startswith("-") and first not in verbs:
        close = get_close_matches(first, verbs, n=1)
        if os.path.exists(first) or "." in first or "/" in first:
            raise ValueError(f"{first} is not a command. To caption a photo: captioner caption {first}")
        known = f"Did you mean {close[0]}?" if close else f"Expected one of: {', '.join(verbs)}."
        raise ValueError(f"{first} is not a command. {known}")
    options = OPTIONS[""] | OPTIONS.get(first, {})
    if first in ("train", "find-lr"):
        options.pop("--embeddings")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = argument.partition("=")
        if argument == "--":
            return
        run = value or following
        if option == "--resume" and first in ("train", "pretrain") and run and not run.startswith("-"):
            raise ValueError(f"--resume takes no value: captioner {first} --output {run} --resume")
        if option in options:
            raise ValueError(f"there is no option {option}: {options[option]}.")
        if (told := VALUES.get((option, value or following))) is not None:
            raise ValueError(f"there is no {option} {value or following}: {told}.")
