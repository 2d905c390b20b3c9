"""Inside the recurrent network: what its cells do while it writes, which of them have a meaning that people can name,
and how far back in a caption the loss of its last word reaches. Pictures of these are drawn by `visualize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from captioner.captioner import Captioner
from captioner.data.datasets import encode_captions
from captioner.data.readers import Record
from captioner.decoder import CELLS, Decoder, Memory, State
from captioner.decoding import Decoding
from captioner.images import Source
from captioner.vocabulary import BOS, PAD, SPECIALS

Layer = Literal["below", "above"]
BATCH = 16
FEWEST = 20  # captions that a mean gradient is of

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


class Reading(NamedTuple):
    """A caption, and each cell of a layer after each of its words."""

    words: list[str]
    cells: np.ndarray  # (T, H), -1 to 1


@dataclass(frozen=True)
class Meaning:
    """What a cell seems to be about: the property of words that its activation follows most closely."""

    cell: int
    property: str
    correlation: float
    chance: float
    """What the best of all cells would reach if it were by chance (see `meanings`)."""


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


# Words of a caption -> a number after each of them. (Simple on purpose: no parser, and closed lists.)
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
def read_cells(
    captioner: Captioner, photos: Sequence[Source], decoding: Decoding, layer: Layer = "below"
) -> list[Reading]:
    """The best caption of each photo, with the cells of the recurrent layers below or above the attention (the topmost,
    if they are several) after each word. (The next best begin alike, and would count the same cells again.) Raises
    ImageError, and ValueError for a layer that the model has not."""
    model = captioner.model.eval()
    if layer == "above" and model.decoder.above is None:
        raise ValueError("this model has no recurrent layer above the attention. Pass --layer below.")
    readings: list[Reading] = []
    for start in range(0, len(photos), BATCH):
        pixels = [captioner.preprocess.read(photo)[0] for photo in photos[start : start + BATCH]]
        memory = model.encode(torch.from_numpy(np.stack(pixels)).to(model.device))
        found = captioner.search(memory, len(pixels), replace(decoding, num_captions=1))
        words = [caption.words for caption in found]
        tokens = torch.full((len(words), 1 + max(map(len, words))), PAD)
        for row, own in zip(tokens, words, strict=True):
            row[: len(own) + 1] = torch.tensor([BOS, *captioner.vocabulary.encode(own)])
        cells = activations(model.decoder, tokens.to(model.device), memory)[layer].cpu().numpy()  # (B, T, H)
        readings += [Reading(own, row[1 : len(own) + 1]) for own, row in zip(words, cells, strict=True)]
    return readings


def activations(decoder: Decoder, tokens: Tensor, memory: Memory | None = None) -> dict[str, Tensor]:
    """Tokens (N, T) -> what each cell says after each of them (N, T, H), of the layers below and above the attention
    (the topmost of each): tanh(c) of an LSTM, as Karpathy et al. 2015 show it, and h of the others."""
    state: State | None = None
    steps: dict[str, list[Tensor]] = {"below": [], "above": []}
    for t in range(tokens.shape[1]):
        _, _, state = decoder(tokens[:, t : t + 1], memory, state)
        lstm = len(state) > 1 and isinstance(decoder.below, CELLS["lstm"])
        tops = [torch.tanh(part[-1]) for part in state[1::2]] if lstm else [part[-1] for part in state]
        for name, top in zip(steps, tops, strict=False):
            steps[name].append(top)
    return {name: torch.stack(found, dim=1) for name, found in steps.items() if found}


def meanings(readings: Sequence[Reading], seed: int = 0) -> list[Meaning]:
    """Cells and the property of words that each follows most closely, the clearest first; each property and each cell
    once.

    Karpathy, Johnson, Li 2015 ("Visualizing and Understanding Recurrent Networks", section 4.2) looked for such cells
    by eye; here it is the largest absolute Pearson correlation, over all words of all readings, between a cell and the
    property. With hundreds of cells and few words one fits by accident: `chance` is the 95th percentile of what the
    best cell has when the words are shuffled, and says what to believe."""
    correlations, chances = _correlations(readings, seed)
    pairs = [
        Meaning(cell, name, float(values[cell]), chance)
        for (name, values), chance in zip(correlations.items(), chances, strict=True)
        for cell in np.argsort(-np.abs(values), kind="stable")[: len(correlations)].tolist()
    ]
    found: list[Meaning] = []
    for pair in sorted(pairs, key=lambda pair: -abs(pair.correlation)):
        if all(pair.cell != other.cell and pair.property != other.property for other in found):
            found.append(pair)
    return found


def meanings_of(cells: Sequence[int], readings: Sequence[Reading], seed: int = 0) -> list[Meaning]:
    """For each of these cells the property that it follows most closely."""
    width = readings[0].cells.shape[1]
    wrong = [cell for cell in cells if not 0 <= cell < width]
    if wrong:
        raise ValueError(f"no cell {wrong[0]}; this layer has {width}, counted from 0: pass one up to {width - 1}.")
    correlations, chances = _correlations(readings, seed)
    found = []
    for cell in cells:
        of_cell = {name: float(values[cell]) for name, values in correlations.items()}
        best = max(of_cell, key=lambda name: abs(of_cell[name]))
        found.append(Meaning(cell, best, of_cell[best], chances[[*correlations].index(best)]))
    return found


def _correlations(readings: Sequence[Reading], seed: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """Of each property that varies, its correlation with every cell (H,), and its `chance`."""
    cells = _standard(np.concatenate([reading.cells for reading in readings]).astype(float))  # (N, H)
    random = np.random.default_rng(seed)
    found, chances = {}, []
    for name, property in PROPERTIES.items():
        values = _standard(np.concatenate([property(reading.words) for reading in readings]))  # (N,)
        if values.any():
            found[name] = values @ cells / len(values)
            shuffled = np.stack([random.permutation(values) for _ in range(40)]) @ cells / len(values)  # (40, H)
            chances.append(float(np.percentile(np.abs(shuffled).max(1), 95)))
    if not found:
        raise ValueError("too few words to tell what a cell is about; pass more photos.")
    return found, chances


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 along the first axis; 0 where nothing varies."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)


def gradient_norms(decoder: Decoder, tokens: Tensor, memory: Memory | None = None) -> Tensor:
    """How strongly the loss of the last word depends on what the network was fed before: the norms (N, S) of its
    gradient with respect to each step's input, the embeddings of the photo (with a `memory` only) and of all tokens
    but the last, which is the word to predict. Tokens (N, 1+T), no padding.

    A gradient with respect to an input is that with respect to the step's hidden state, carried through one step
    (Bengio et al. 1994; Pascanu et al. 2013, eq. 5), and it exists for every kind of cell."""
    inputs: list[Tensor] = []

    def catch(_: torch.nn.Module, arguments: tuple) -> tuple:
        inputs.append(arguments[0].detach().requires_grad_())
        return (inputs[0], *arguments[1:])

    hook = decoder.below.register_forward_pre_hook(catch)
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN has no gradient in eval mode
            logits, _, _ = decoder(tokens[:, :-1], memory)
            loss = F.cross_entropy(logits[:, -1], tokens[:, -1], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, inputs)
    finally:
        hook.remove()
    return gradient.norm(dim=-1)


def fresh_gradients(
    cell: str, words: int = 20, seeds: int = 5, captions: int = 16, embedding_size: int = 300, hidden_size: int = 512
) -> np.ndarray:
    """Norms (seeds, T) for decoders as training begins with them, of one recurrent layer and without photo, on random
    captions of so many words after BOS; the last step is the last word that was fed. Each the geometric mean over
    captions."""
    found = []
    for seed in range(seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            decoder = Decoder(1000, 1, 1, embedding_size, hidden_size, cell, layers_above=0, attention="none").eval()
            random = torch.randint(len(SPECIALS), 1000, (captions, words + 1))
        tokens = torch.cat([torch.full((captions, 1), BOS), random], dim=1)
        found.append(gradient_norms(decoder, tokens)[:, 1:].log().mean(0).exp().numpy())
    return np.stack(found)


def trained_gradients(captioner: Captioner, records: Sequence[Record], words: int = 20) -> np.ndarray:
    """Norms (S,) of a trained model on its photos and people's captions, S up to `words`: the last step is the last
    word that was fed, and each is the geometric mean over the captions that reach so far back, FEWEST or more."""
    model = captioner.model
    decoder = model.decoder.eval()
    reached: list[list[float]] = [[] for _ in range(words)]
    encoded = encode_captions(records, captioner.vocabulary, words + 1)
    for record, captions in zip(records, encoded, strict=True):
        with torch.no_grad():
            pixels = torch.from_numpy(captioner.preprocess.read(record.path)[0])[None].to(model.device)
            memory = model.encode(pixels)
        for caption in captions:
            tokens = torch.tensor([caption[:-1]], device=model.device)  # BOS and words, without the end
            if tokens.shape[1] > 2:
                norms = gradient_norms(decoder, tokens, memory)[0, 2:]  # without photo and BOS
                for back, norm in enumerate(norms.flip(0).log().tolist()):
                    reached[back].append(norm)
    means = [float(np.exp(np.mean(logs))) for logs in reached if len(logs) >= FEWEST]
    if not means:
        what = f"{len(records)} photos have fewer than {FEWEST} captions of two words or more"
        raise ValueError(f"{what}; take more photos.")
    return np.array(means[::-1])
