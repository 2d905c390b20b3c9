"""What the units of the recurrent network do while it writes: their activations after each word, and the property of
words that each unit follows. A *unit* is one number of the hidden or cell state. `visualize.units` draws them."""

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
from captioner.images import Source
from captioner.vocabulary import BOS, PAD

Layer = Literal["below", "above"]
BATCH = 16

COLOURS = "black blue brown dark gray green grey light orange pink purple red silver tan white yellow"
PREPOSITIONS = (
    "about above across against along among around at behind below beneath beside between by down for from in inside "
    "into near of off on onto out over past through to toward towards under up upon with without"
)
PLURALS = (
    "adults animals babies balls bicycles bikes birds boats boys buildings cars cats children clothes cows cyclists "
    "dogs elephants flowers friends girls guys hands horses kids leaves men mountains others people players puppies "
    "rocks sheep shirts skiers soldiers stairs steps toys trees women"
)
PEOPLE = (
    "adult adults baby biker boy boys child children climber couple crowd cyclist girl girls guy guys kid kids lady "
    "man men people person player players rider runner skateboarder skier snowboarder surfer team toddler woman women"
)
ANIMALS = "animal bear bird birds cat cats cow cows dog dogs elephant giraffe horse horses puppies puppy sheep zebra"


class Activations(NamedTuple):
    """A caption, and the activations of a layer's units after each of its words."""

    words: list[str]
    units: np.ndarray  # (T, H), -1 to 1


@dataclass(frozen=True)
class Match:
    """A unit and the property of words that its activation follows most closely."""

    unit: int
    property: str
    correlation: float
    chance: float
    """The correlation that the best of all units would reach by chance (see `find_matches`)."""


def _is_in(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    known = frozenset(names.split())
    return lambda words: np.array([word in known for word in words], float)


def _since(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda words: np.maximum.accumulate(_is_in(names)(words))


def _in_phrase(words: Sequence[str]) -> np.ndarray:
    here = _is_in(PREPOSITIONS)(words)
    return np.array([here[max(0, t - 2) : t + 1].max() for t in range(len(words))])


def _next(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda words: np.append(_is_in(names)(words)[1:], 0.0)


# Each turns the words of a caption into a number per word. Deliberately simple: no parser, closed lists of words.
PROPERTIES: dict[str, Callable[[Sequence[str]], np.ndarray]] = {
    "how many words are written": lambda words: np.arange(len(words), dtype=float),
    "how near the end is": lambda words: -np.arange(len(words), 0, -1, dtype=float),
    "a colour was just said": _is_in(COLOURS),
    "a preposition, up to two words ago": _in_phrase,
    "a preposition was just said": _is_in(PREPOSITIONS),
    "an article was just said": _is_in("a an the"),
    "a plural noun comes next": _next(PLURALS),
    "a person was named": _since(PEOPLE),
    "an animal was named": _since(ANIMALS),
}


@torch.inference_mode()
def caption_activations(
    captioner: Captioner,
    photos: Sequence[Source],
    decoding: Decoding,
    layer: Layer = "below",
    show: Callable[[int], None] = lambda photos: None,
) -> list[Activations]:
    """The best caption of each photo, with the activations of the topmost recurrent layer below or above the attention.

    `show` is called with the number of photos of each batch that is done. Only the best: the n-best captions share
    their first words, which would be counted several times. Raises ImageError, and ValueError for a layer that the
    model does not have."""
    model = captioner.model.eval()
    if layer == "above" and model.decoder.above is None:
        raise ValueError("this model has no recurrent layer above the attention. Pass --layer below.")
    found: list[Activations] = []
    for start in range(0, len(photos), BATCH):
        pixels = [captioner.preprocess.read(photo)[0] for photo in photos[start : start + BATCH]]
        memory = model.encode(torch.from_numpy(np.stack(pixels)).to(model.device))
        captions = captioner.search(memory, len(pixels), replace(decoding, num_captions=1))
        words = [caption.words for caption in captions]
        tokens = torch.full((len(words), 1 + max(map(len, words))), PAD)  # (B, T)
        for row, own in zip(tokens, words, strict=True):
            row[: len(own) + 1] = torch.tensor([BOS, *captioner.vocabulary.encode(own)])
        units = unit_activations(model.decoder, tokens.to(model.device), memory)[layer].cpu().numpy()  # (B, T, H)
        found += [Activations(own, row[1 : len(own) + 1]) for own, row in zip(words, units, strict=True)]
        show(len(pixels))
    return found


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


def find_matches(captions: Sequence[Activations], seed: int = 0) -> list[Match]:
    """The units that follow a property of words most closely, the highest correlation first; each unit and each
    property once.

    Karpathy, Johnson, Li 2015 ("Visualizing and Understanding Recurrent Networks", section 4.2) found such units by
    eye. Here the measure is the absolute Pearson correlation of the activation with the property over all words of all
    captions. With hundreds of units and few words, some unit fits by accident: `chance` is the 95th percentile of the
    best unit's correlation when the property's values are shuffled. Do not believe a match below it."""
    correlations, chances = _correlations(captions, seed)
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


def match_units(units: Sequence[int], captions: Sequence[Activations], seed: int = 0) -> list[Match]:
    """For each of these units the property that it follows most closely. Raises ValueError for an unknown unit."""
    width = captions[0].units.shape[1]
    wrong = [unit for unit in units if not 0 <= unit < width]
    if wrong:
        raise ValueError(f"there is no unit {wrong[0]}; this layer has units 0 to {width - 1}.")
    correlations, chances = _correlations(captions, seed)
    found = []
    for unit in units:
        of_unit = {name: float(values[unit]) for name, values in correlations.items()}
        best = max(of_unit, key=lambda name: abs(of_unit[name]))
        found.append(Match(unit, best, of_unit[best], chances[[*correlations].index(best)]))
    return found


def _correlations(captions: Sequence[Activations], seed: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """For each property that varies: its correlation with every unit (H,), and its `chance`."""
    units = _standard(np.concatenate([caption.units for caption in captions]).astype(float))  # (words, H)
    random = np.random.default_rng(seed)
    found, chances = {}, []
    for name, property in PROPERTIES.items():
        values = _standard(np.concatenate([property(caption.words) for caption in captions]))  # (words,)
        if values.any():
            found[name] = values @ units / len(values)
            shuffled = np.stack([random.permutation(values) for _ in range(40)]) @ units / len(values)  # (40, H)
            chances.append(float(np.percentile(np.abs(shuffled).max(1), 95)))
    if not found:
        raise ValueError("too few words to find out what a unit follows. Pass more photos.")
    return found, chances


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 along the first axis; 0 where nothing varies."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)
