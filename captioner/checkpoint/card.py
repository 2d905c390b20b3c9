"""The model card: what a checkpoint's README.md says to people, made from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")


def model_card(saved: Mapping[str, Any]) -> str:
    """Markdown from a checkpoint's config."""
    model, training, scores = saved["model"], saved.get("training") or {}, saved.get("scores") or {}
    settings = training.get("settings", {})
    words, attention = len(saved["vocabulary"]), model["attention"]
    lines = [
        f"# An image captioner: {model['encoder']} and {model['cell']}",
        "",
        f"The CNN `{model['encoder']}`, without its softmax classifier, gives features to a decoder (`{model['cell']}`)"
        f" with {words} words and {'no' if attention == 'none' else f'Luong `{attention}`'} attention. Made with "
        "captioner; the files hold tensors and settings only, nothing that runs.",
        "",
        "## Training",
        "",
        f"Data: {training.get('data', 'unknown')}, {training.get('photos', 'unknown')} photos. "
        f"Stages: {', '.join(settings.get('stages', []))}. "
        f"First weights of the CNN: {settings.get('weights', 'unknown')}. "
        f"Step {training.get('step', 'unknown')}, after {training.get('hours', 'unknown')} hours. All settings are in "
        "`config.json`.",
    ]
    if scores:
        decoding = saved["decoding"]
        lines += ["", "## Scores on the validation split", "", "| score | value |", "|---|---|"]
        lines += [f"| {name} | {scores[name]:.4f} |" for name in SCORES if name in scores]
        lines += [
            "",
            f"One caption a photo, free-running, {decoding['method']} search, beam {decoding['beam_size']}, length "
            f"penalty {decoding['length_penalty']}; tokens and scores as in the COCO evaluation.",
        ]
    return "\n".join(lines) + "\n"
