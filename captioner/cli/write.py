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
    """Generate text with a language model: sample a continuation of a prompt.

    Args:
        checkpoint: Directory of a language model, such as best/ of a run of captioner pretrain.
        length: Number of tokens to sample (words and line ends, or characters).
        prompt: How the text begins.
        temperature: Below 1 favours probable tokens, above 1 rare ones.
        top_k: Sample from the k most probable tokens only; 0: from all.
        top_p: Sample from the fewest tokens whose probabilities sum to p; 1: from all.
        seed: The same seed gives the same text.
        device: auto, cpu, cuda, mps.
    """
    from captioner.language_model import LanguageModel

    print(LanguageModel.load(checkpoint, device).write(length, prompt, temperature, top_k, top_p, seed))
    return 0
