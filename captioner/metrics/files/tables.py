"""Scores and comparisons as text, and comparisons as JSON-ready data. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from captioner.metrics.files.score_file import ScoreFile
from captioner.metrics.intervals import Difference


def _shown(value: float) -> str:
    return "–" if value != value else f"{value:.5f}"


def format_scores(file: ScoreFile) -> str:
    """The scores as text: one line per score with its 95 % interval, then habits, slices and notes."""
    remarks = {
        "CIDEr-D": 'the COCO toolkit prints this as "CIDEr"',
        "CIDEr-plain": "without clipping and length penalty",
    }
    lines = []
    for name, value in file.scores.corpus().items():
        low, high = file.intervals[name]
        spread = "" if low != low else f"  {low:.4f} to {high:.4f}"
        lines.append(f"{name:<12} {_shown(value):>8}{spread}  {remarks.get(name, '')}".rstrip())
    lines += [f"{f'{name} nltk':<12} {_shown(value):>8}  nltk's corpus_bleu" for name, value in file.nltk.items()]
    provenance = file.provenance
    least, most = provenance["references_per_image"]
    lines.append(
        f"{provenance['images']:,} images, {least if least == most else f'{least} to {most}'} references per image; "
        "95 % bootstrap intervals"
    )
    if file.habits:
        share = {key: f"{100 * value:.1f} %" for key, value in file.habits.items()}
        copied = f", copied from training {share['copied']}" if "copied" in share else ""
        lines.append(
            f"distinct captions {share['distinct']}, mean length {file.habits['mean_length']:.1f} words, "
            f"{file.habits['words']:,.0f} distinct words"
        )
        lines.append(f'bad endings ("with a") {share["bad_endings"]}{copied}')
    if "attention_entropy" in file.habits:
        lines.append(
            f"attention: entropy {share['attention_entropy']} of the maximum, "
            f"movement {share['attention_movement']} per word,\n"
            f"coverage {share['attention_coverage']} of the photo, warnings {share['attention_warnings']}"
        )
    if file.slices:
        columns = [name for name in ("BLEU-4", "ROUGE-L", "CIDEr-D") if name in file.scores.names]
        lines.append("")
        lines.append(f"{'slice':<28}{'images':>8}" + "".join(f"{name:>10}" for name in columns))
        for name, row in file.slices.items():
            cells = "".join(f"{_shown(row.get(column, math.nan)):>10}" for column in columns)
            lines.append(f"{name:<28}{row['images']:>8,}{cells}")
    lines += [f"note: {note}" for note in file.notes]
    return "\n".join(lines)


def format_differences(differences: Sequence[Difference]) -> str:
    """A comparison as text: one line per score."""
    lines = [f"{'':<12}{'A':>9}{'B':>9}{'B - A':>10}  {'95 % interval':<18}{'p':>6}"]
    for item in differences:
        interval = f"{item.low:+.4f} to {item.high:+.4f}"
        verdict = "" if item.p >= 0.05 else ("  B is better" if item.difference > 0 else "  A is better")
        lines.append(
            f"{item.name:<12}{item.a:>9.4f}{item.b:>9.4f}{item.difference:>+10.4f}"
            f"  {interval:<18}{item.p:>6.3f}{verdict}"
        )
    return "\n".join(lines)


def differences_to_dict(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """A comparison as JSON-ready data."""
    return [{**asdict(item), "difference": item.difference} for item in differences]
