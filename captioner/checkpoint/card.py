"""The model card: a checkpoint's README.md, written from its config. It begins with the metadata block that the Hugging
Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from captioner.checkpoint.manifest import LANGUAGE_MODEL

SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
METRICS = {"bleu": "BLEU-4", "rouge": "ROUGE-L", "cider": "CIDEr-D"}  # their names on the hub
DATASETS = ("flickr8k", "flickr30k", "coco")


def model_card(saved: Mapping[str, Any]) -> str:
    """Markdown from a checkpoint's config."""
    is_language_model = saved.get("kind") == LANGUAGE_MODEL
    return with_metadata(_language_model_card(saved) if is_language_model else _captioner_card(saved), saved)


def with_metadata(card: str, saved: Mapping[str, Any]) -> str:
    """The card, preceded by a metadata block (YAML) unless it has one."""
    if card.startswith("---\n"):
        return card
    is_language_model = saved.get("kind") == LANGUAGE_MODEL
    data = str((saved.get("training") or {}).get("data", "")).lower()
    datasets = [name for name in DATASETS if name in data]
    scores = saved.get("scores") or {}
    metrics = [name for name, score in METRICS.items() if score in scores]
    lines = [
        "license: unknown",
        "library_name: captioner",
        f"pipeline_tag: {'text-generation' if is_language_model else 'image-to-text'}",
        *_yaml_list("datasets", datasets),
        *_yaml_list("metrics", metrics),
    ]
    return "\n".join(["---", *lines, "---", "", card])


def pictures(card: str) -> list[str]:
    """The names of the picture files, beside the card, that it shows."""
    return re.findall(r"!\[[^\]]*\]\(([\w.-]+\.(?:gif|jpe?g|png|svg|webp))\)", card, re.IGNORECASE)


def _yaml_list(key: str, items: Sequence[str]) -> list[str]:
    return [f"{key}:", *(f"- {item}" for item in items)] if items else []


def _language_model_card(saved: Mapping[str, Any]) -> str:
    training, scores = saved.get("training") or {}, saved.get("scores") or {}
    lines = [
        f"# Language model: {saved['model']['cell']}",
        "",
        f"A recurrent language model made with captioner, over {len(saved['vocabulary']):,} {saved['level']}s. It sees "
        "no photos; a captioner can be trained from it. The files hold tensors and settings, no code.",
        "",
        "## Training",
        "",
        f"- Text: {training.get('data', 'unknown')}, {_number(training.get('tokens'))} {saved['level']}s",
        f"- Duration: {_number(training.get('step'))} steps, {training.get('hours', 'unknown')} hours",
        *_averaged(training),
        "",
        "All settings are in `config.json`.",
    ]
    if scores:
        lines += ["", "## On the validation text", "", "| score | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    return "\n".join(lines) + "\n"


def _captioner_card(saved: Mapping[str, Any]) -> str:
    model, training, scores = saved["model"], saved.get("training") or {}, saved.get("scores") or {}
    settings = training.get("settings", {})
    attention = "no attention" if model["attention"] == "none" else f"Luong attention (`{model['attention']}`)"
    lines = [
        f"# Image captioner: {model['encoder']} and {model['cell']}",
        "",
        f"An image captioning model made with captioner. The encoder is the CNN `{model['encoder']}` without its "
        f"classifier. The decoder is a recurrent network (`{model['cell']}`) with {attention} and a vocabulary of "
        f"{len(saved['vocabulary']):,} words. The files hold tensors and settings, no code.",
        "",
        "## Training",
        "",
        f"- Data: {training.get('data', 'unknown')}, {_number(training.get('photos'))} photos",
        f"- Initial weights of the CNN: {settings.get('weights', 'unknown')}",
        f"- Stages: {', '.join(settings.get('stages', [])) or 'unknown'}",
        f"- Duration: {_number(training.get('step'))} steps, {training.get('hours', 'unknown')} hours",
        *_averaged(training),
        "",
        "All settings are in `config.json`.",
    ]
    if scores:
        sources = list(dict.fromkeys(name.rpartition("/")[0] for name in scores))  # "" comes first
        header = ["mean", *sources[1:]] if len(sources) > 1 else ["value"]
        lines += ["", "## Scores on the validation split", "", _row("score", *header), "|---" * (1 + len(header)) + "|"]
        rows = {name: [scores.get("/".join(filter(None, (source, name)))) for source in sources] for name in SCORES}
        lines += [_row(name, *map(_decimal, row)) for name, row in rows.items() if set(row) != {None}]
        lines += [
            "",
            f"One generated caption per photo: {_describe(saved['decoding'])}. Tokenization and scores are those of "
            "the COCO caption evaluation.",
        ]
    return "\n".join(lines) + "\n"


def _averaged(training: Mapping[str, Any]) -> list[str]:
    """A line for a checkpoint made by `captioner average`, whose other lines are those of the first averaged
    checkpoint."""
    parts = [f"{each['share']:.3g} of {each['checkpoint']}" for each in training.get("averaged", [])]
    return [f"- The weights are a mean: {', '.join(parts)}. The lines above describe the first."] if parts else []


def _describe(decoding: Mapping[str, Any]) -> str:
    """How captions were generated; only the settings that have an effect."""
    if decoding["method"] != "sample":
        parts = ["beam search", f"beam size {decoding['beam_size']}", f"length penalty {decoding['length_penalty']}"]
    else:
        parts = ["sampling", f"temperature {decoding['temperature']}"]
        parts += [f"top-k {decoding['top_k']}"] if decoding["top_k"] else []
        parts += [f"top-p {decoding['top_p']}"] if decoding["top_p"] < 1 else []
        parts += [f"seed {decoding['seed']}"]
    if n := decoding["no_repeat_ngram"]:
        names = {1: "content word or pair of words", 2: "pair of words"}
        parts += [f"no repeated {names.get(n, f'sequence of {n} words')}"]
    return ", ".join(parts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
