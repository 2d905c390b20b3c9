"""The model card: what a checkpoint's README.md says to people, made from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")


def model_card(saved: Mapping[str, Any]) -> str:
    """Markdown from a checkpoint's config."""
    model, training, scores = saved["model"], saved.get("training") or {}, saved.get("scores") or {}
    settings = training.get("settings", {})
    lines = [
        f"# An image captioner: {model['encoder']} and {model['cell']}",
        "",
        f"A {model['encoder']} without its classifier gives features to a {model['cell']} decoder with "
        f"{len(saved['vocabulary'])} words and `{model['attention']}` attention. Made with captioner; the files hold "
        "tensors and settings only, nothing that runs.",
        "",
        "## Training",
        "",
        f"Data: {training.get('data', 'unknown')}. Stages: {', '.join(settings.get('stages', []))}. "
        f"Step {training.get('step', 'unknown')}, {training.get('hours', 'unknown')} hours.",
    ]
    if scores:
        lines += ["", "## Scores on the validation split", "", "| score | value |", "|---|---|"]
        lines += [f"| {name} | {scores[name]:.4f} |" for name in SCORES if name in scores]
        decoding = saved["decoding"]
        lines += ["", f"Decoding: {decoding['method']}, beam {decoding['beam_size']}, free-running."]
    return "\n".join(lines) + "\n"
