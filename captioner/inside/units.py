"""What the units of the recurrent network do while it generates or reads text: their activations after each word or
character, and the property of words or characters that each unit follows. A *unit* is one number of the hidden or cell
state. `visualize.units` draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.captioner import Captioner
from captioner.decoder import CELLS, Decoder, Memory, State
from captioner.decoding import Decoding
from captioner.images import ImageError, Source
from captioner.inside.properties import OF_WORDS, Properties
from captioner.language_model import LanguageModel
from captioner.vocabulary import BOS, PAD

Layer = Literal["below", "above"]
BATCH = 16


class Activations(NamedTuple):
    """The words of a caption or the characters of a text, and the activations of a layer's units after each."""

    tokens: list[str]
    units: np.ndarray  # (T, H), -1 to 1


@dataclass(frozen=True)
class Match:
    """A unit and the property of words or characters that its activation follows most closely."""

    unit: int
    property: str
    correlation: float
    chance: float
    """The correlation that the best unit reaches by chance (see `find_matches`)."""


@torch.inference_mode()
def caption_activations(
    captioner: Captioner,
    photos: Sequence[Source],
    decoding: Decoding,
    layer: Layer = "below",
    show: Callable[[int], None] = lambda photos: None,
    report: Callable[[ImageError], None] | None = None,
) -> list[Activations]:
    """The best caption of each photo, with the activations of the topmost recurrent layer below or above the attention.

    Only the best caption is used, because the n-best captions share their first words, which would be counted several
    times. `show` is called with the number of photos after each batch. If `report` is given, it is called with the
    ImageError of each photo that cannot be read, and the photo is left out; otherwise the error is raised. Raises
    ValueError for a layer that the model does not have, and if no photo can be read."""
    model = captioner.model.eval()
    if layer == "above" and model.decoder.above is None:
        raise ValueError("this model has no recurrent layer above the attention. Pass --layer below.")
    found: list[Activations] = []
    for start in range(0, len(photos), BATCH):
        pixels = []
        for photo in photos[start : start + BATCH]:
            try:
                pixels.append(captioner.preprocess.read(photo)[0])
            except ImageError as error:
                if report is None:
                    raise
                report(error)
        show(len(photos[start : start + BATCH]))
        if not pixels:
            continue
        memory = model.encode(torch.from_numpy(np.stack(pixels)).to(model.device))
        captions = captioner.search(memory, len(pixels), replace(decoding, num_captions=1))
        words = [caption.words for caption in captions]
        tokens = torch.full((len(words), 1 + max(map(len, words))), PAD)  # (B, T)
        for row, own in zip(tokens, words, strict=True):
            row[: len(own) + 1] = torch.tensor([BOS, *captioner.vocabulary.encode(own)])
        units = unit_activations(model.decoder, tokens.to(model.device), memory)[layer].cpu().numpy()  # (B, T, H)
        found += [Activations(own, row[1 : len(own) + 1]) for own, row in zip(words, units, strict=True)]
    if not found:
        raise ValueError("none of the photos can be read. Pass others.")
    return found


@torch.inference_mode()
def text_activations(model: LanguageModel, text: str) -> Activations:
    """A text, read by a model of characters, with the activations of its topmost recurrent layer."""
    if model.level != "character":
        raise ValueError("this is a word model; units over a text need a character model.")
    decoder = model.decoder.eval()
    tokens = torch.tensor([[BOS, *model.vocabulary.encode(list(text))]], device=decoder.embedding.weight.device)
    units = unit_activations(decoder, tokens)
    top = units["above" if decoder.above is not None else "below"]  # (1, 1+T, H)
    return Activations(list(text), top[0, 1:].cpu().numpy())


def unit_activations(decoder: Decoder, tokens: Tensor, memory: Memory | None = None) -> dict[str, Tensor]:
    """Tokens (N, T) -> the activations (N, T, H) after each token, of the topmost layer "below" and "above" the
    attention: tanh(c) of an LSTM, as in Karpathy et al. 2015, and h of the other cells."""
    state: State | None = None
    steps: dict[str, list[Tensor]] = {"below": [], "above": []}
    for t in range(tokens.shape[1]):
        _, _, state = decoder(tokens[:, t : t + 1], memory, state)
        lstm = len(state) > 1 and isinstance(decoder.below, CELLS["lstm"])
        tops = [torch.tanh(part[-1]) for part in state[1::2]] if lstm else [part[-1] for part in state]
        for name, top in zip(steps, tops, strict=False):
            steps[name].append(top)
    return {name: torch.stack(found, dim=1) for name, found in steps.items() if found}


def find_matches(texts: Sequence[Activations], properties: Properties = OF_WORDS, seed: int = 0) -> list[Match]:
    """The units that follow a property most closely, highest correlation first; each unit and each property occurs
    once.

    Karpathy, Johnson, Li 2015 ("Visualizing and Understanding Recurrent Networks", section 4.2) found such units by
    eye. Here the measure is the absolute Pearson correlation of the activation with the property over all tokens of all
    texts. With hundreds of units and few tokens, some unit fits by chance: `chance` is the 95th percentile of the best
    unit's correlation when the property's values are shifted along the text by a random distance, which keeps their
    autocorrelation. Do not trust a match below it."""
    correlations, chances = _correlations(texts, properties, seed)
    pairs = [
        Match(unit, name, float(values[unit]), chance)
        for (name, values), chance in zip(correlations.items(), chances, strict=True)
        for unit in np.argsort(-np.abs(values), kind="stable")[: len(correlations)].tolist()
    ]
    found: list[Match] = []
    for pair in sorted(pairs, key=lambda pair: -abs(pair.correlation)):
        if all(pair.unit != other.unit and pair.property != other.property for other in found):
            found.append(pair)
    return found


def match_units(
    units: Sequence[int], texts: Sequence[Activations], properties: Properties = OF_WORDS, seed: int = 0
) -> list[Match]:
    """The property that each of these units follows most closely. Raises ValueError for an unknown unit."""
    width = texts[0].units.shape[1]
    wrong = [unit for unit in units if not 0 <= unit < width]
    if wrong:
        raise ValueError(f"there is no unit {wrong[0]}; this layer has units 0 to {width - 1}.")
    correlations, chances = _correlations(texts, properties, seed)
    found = []
    for unit in units:
        of_unit = {name: float(values[unit]) for name, values in correlations.items()}
        best = max(of_unit, key=lambda name: abs(of_unit[name]))
        found.append(Match(unit, best, of_unit[best], chances[[*correlations].index(best)]))
    return found


def excerpt(text: Activations, properties: Properties, lines: int) -> tuple[int, int]:
    """The start and end of the `lines` consecutive lines in which these properties vary most; variation beyond that of
    the whole text does not count. The excerpt has at most 100 characters per line on average."""
    ends = [0, *(place for place, token in enumerate(text.tokens, 1) if token == "\n"), len(text.tokens)]
    values = _standard(np.stack([property(text.tokens) for property in properties.values()], axis=1))  # (T, P)
    spans = [
        (start, min(stop, start + 100 * lines)) for start, stop in zip(ends, ends[lines:] or ends[-1:], strict=False)
    ]
    return max(spans, key=lambda span: values[slice(*span)].std(0).clip(max=1).sum())


def _correlations(
    texts: Sequence[Activations], properties: Properties, seed: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """For each property that varies: its correlation with every unit (H,), and its `chance`."""
    units = _standard(np.concatenate([text.units for text in texts]).astype(float))  # (tokens, H)
    random = np.random.default_rng(seed)
    found, chances = {}, []
    for name, property in properties.items():
        values = _standard(np.concatenate([property(text.tokens) for text in texts]))  # (tokens,)
        if values.any():
            found[name] = values @ units / len(values)
            far = random.integers(len(values) // 10, len(values) - len(values) // 10 + 1, 40)
            moved = np.stack([np.roll(values, distance) for distance in far])  # (40, tokens)
            chances.append(float(np.percentile(np.abs(moved @ units / len(values)).max(1), 95)))
    if not found:
        raise ValueError("too little to find out what a unit follows. Pass more photos or a longer text.")
    return found, chances


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 along the first axis; 0 where nothing varies."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)
