"""What people type that is not there, and what it is called here. Read before the command line is parsed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from difflib import get_close_matches

OPTIONS = {  # of other programs, by verb; "" stands for any verb
    "train": {
        "--epochs": "the epochs are in the stages: --stages decoder:10 features.14:3",
        "--lr": "it is called --learning-rate (see also --joint-learning-rate and --encoder-learning-rate)",
        "--embedding": "it is called --embeddings",
    },
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
    if first == "train":
        options.pop("--embeddings")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = argument.partition("=")
        if argument == "--":
            return
        if option in options:
            raise ValueError(f"there is no option {option}: {options[option]}.")
        if (told := VALUES.get((option, value or following))) is not None:
            raise ValueError(f"there is no {option} {value or following}: {told}.")
