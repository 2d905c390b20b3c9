"""The verb write: text from a language model."""

from __future__ import annotations

from pathlib import Path

import tyro

from captioner.cli.options import app


@app.command
def write(
    checkpoint: tyro.conf.Positional[Path],
    /,
    length: int = 200,
    prompt: str = "",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Write text with a language model: sample what could follow a prompt.

    Args:
        checkpoint: Directory of a language model, such as best/ of a run of captioner pretrain.
        length: Words and line ends, or characters, to sample.
        prompt: How the text begins.
        temperature: Below 1 the probable becomes more probable, above 1 less.
        top_k: Sample from this number of the most probable words or characters only; 0 for all.
        top_p: Sample from the most probable ones only, up to this share of the probability.
        seed: The same seed gives the same text.
        device: auto, cpu, cuda, mps.
    """
    from captioner.language_model import LanguageModel

    print(LanguageModel.load(checkpoint, device).write(length, prompt, temperature, top_k, top_p, seed))
    return 0
