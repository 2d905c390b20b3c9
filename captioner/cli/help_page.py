"""The help of the verbs with many settings: those that matter most come first, the others in groups. It is made from
the fields of a config and the strings below them, of which tyro makes the options."""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from textwrap import fill, wrap
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from captioner.training.config import FindConfig, PretrainConfig, TrainConfig

# Per verb its config, what it does, and its groups: title -> settings, in which * stands for any end of a name.
_TRAINING = {
    "Data": "images shares select image_size max_length limit",
    "Architecture": "model.*",
    "Optimization": "joint_learning_rate encoder_learning_rate warmup accumulate weight_decay clip label_smoothing ema "
    "train_batch_norm",
    "Word vectors": "embeddings freeze_embeddings",
    "Augmentation of photos while the CNN learns": "augment.*",
    "Scheduled sampling: stages such as scheduled-sampling@decoder:5": "scheduled_sampling.*",
    "Self-critical training: stages such as self-critical@decoder:5": "self_critical.*",
    "Professor Forcing: stages such as professor-forcing@decoder:5": "professor_forcing.*",
    "Distillation: stages such as distillation@decoder:5": "distillation.*",
    "Added terms: stages such as cross-entropy+coverage@decoder:5": "coverage attention_supervision",
    "Machine": "device workers cache deterministic seed",
}
_RUN = {
    "Stopping and saving": "patience keep_best save_every",
    "How validation photos are captioned": "decoding.*",
}
PAGES: Mapping[str, tuple[type, str, Mapping[str, str]]] = {
    "train": (
        TrainConfig,
        "Train a captioner in stages, the decoder over a frozen CNN, then both, on Flickr8k, Flickr30k, COCO or your "
        "own photos.",
        {
            "The ten settings that matter most": "data output stages model.encoder weights init batch_size "
            "learning_rate min_count resume",
            **_TRAINING,
            **_RUN,
        },
    ),
    "find-lr": (
        FindConfig,
        "Find a learning rate: plot the range test for the settings of train. No run is created or changed.",
        {
            "The test": "data picture stages lowest highest steps",
            "The settings of train that matter most": "model.encoder weights init batch_size min_count",
            **_TRAINING,
            "Settings of train that have no effect here": "output resume learning_rate " + " ".join(_RUN.values()),
        },
    ),
    "pretrain": (
        PretrainConfig,
        "Train a language model (the decoder without photos) on text. captioner train --init starts a captioner "
        "from it.",
        {
            "The ten settings that matter most": "text output validation level document epochs batch_size bptt "
            "learning_rate resume",
            "Text": "min_count vary_bptt",
            "Architecture": "init model.*",
            "Optimization": "warmup accumulate weight_decay clip",
            "Stopping and saving": "patience save_every",
            "Machine": "device deterministic seed",
        },
    ),
}
INDENT = 28  # columns before the text
NO_BREAK = "\N{NO-BREAK SPACE}"


class Option(NamedTuple):
    name: str  # as in the config: model.hidden_size
    typed: str  # as on the command line: --model.hidden-size INT
    text: str


def wants_page(arguments: Sequence[str]) -> bool:
    asked = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return asked[:1] != [] and asked[0] in PAGES and ("--help" in asked or "-h" in asked)


def page(verb: str, width: int | None = None) -> str:
    """The help of a verb, for a terminal of `width` columns."""
    config, text, groups = PAGES[verb]
    width = width or max(60, min(shutil.get_terminal_size().columns, 130))
    options = list(options_of(config))
    grouped = _group(options, groups)
    required = " ".join(option.typed for option in options if option.text.endswith("(required)"))
    blocks = [f"usage: captioner {verb} {required} [options]", fill(text, width)]
    for title, rows in grouped.items():
        blocks.append(_box(title, [line for option in rows for line in _lines(option, width - 4)], width))
    return "\n\n".join(blocks[:2]) + "\n\n" + "\n".join(blocks[2:])


def _group(options: Sequence[Option], groups: Mapping[str, str]) -> dict[str, list[Option]]:
    """Each option in the first group that has it."""
    grouped: dict[str, list[Option]] = {}
    left = list(options)
    for title, patterns in groups.items():
        grouped[title] = [option for each in patterns.split() for option in left if fnmatch(option.name, each)]
        left = [option for option in left if option not in grouped[title]]
    return grouped | {"Others": left} if left else grouped


def _lines(option: Option, width: int) -> list[str]:
    """An option, and beside it or below it what it means."""
    text = [line.replace(NO_BREAK, " ") for line in wrap(option.text, width - INDENT)]
    if len(option.typed) > INDENT - 2:
        return [option.typed, *(" " * INDENT + line for line in text)]
    return [option.typed.ljust(INDENT) + text[0], *(" " * INDENT + line for line in text[1:])]


def _box(title: str, lines: Sequence[str], width: int) -> str:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    if not unicode:
        return "\n".join([title, *(f"  {line}" for line in lines), ""])
    top = f"╭─ {title} " + "─" * (width - len(title) - 5) + "╮"
    return "\n".join([top, *(f"│ {line.ljust(width - 4)} │" for line in lines), "╰" + "─" * (width - 2) + "╯"])


def options_of(config: type, prefix: str = "") -> Iterator[Option]:
    """The options of a config and of the configs in it."""
    kinds, told = get_type_hints(config), _strings_below_fields(config)
    for each in fields(config):
        kind = kinds[each.name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from options_of(kind, f"{prefix}{each.name}.")
            continue
        text = each.metadata.get("help") or told[each.name]
        yield Option(prefix + each.name, _typed(prefix + each.name, kind, each), f"{text} {_default(each)}".strip())


def _strings_below_fields(config: type) -> dict[str, str]:
    told: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        (body,) = (node for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
        for node, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        told[node.target.id] = " ".join(text.split())
    return told


def _typed(name: str, kind: Any, setting: Field) -> str:
    option = name.replace("_", "-")
    if kind is bool:
        first, _, last = option.rpartition(".")
        return f"--{first}{'.' if first else ''}no-{last}" if setting.default is True else f"--{option}"
    return f"--{option} {_metavar(kind)}"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"{_metavar(get_args(kind)[0])} ..."
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    (kind,) = [each for each in get_args(kind) or (kind,) if each is not NoneType]
    return {Path: "PATH", str: "TEXT"}.get(kind, kind.__name__.upper())


def _default(setting: Field) -> str:
    if setting.default is MISSING:
        return "(required)"
    default = setting.default
    if default is True:
        return "(default: on; this switches it off)"
    if default is None or default is False or default in ((), Path()):
        return ""
    if isinstance(default, tuple):
        return f"(default: {' '.join(default)})"
    return f"(default: {default})".replace(" ", NO_BREAK)
