"""Captions sampled from a model during a training step, in one loop on the model's device, without gradients. For
captions that people see, use the search of `decoding`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captioner.decoder import Decoder, Memory
from captioner.vocabulary import BOS, EOS, PAD, UNK

NEVER = (PAD, BOS, UNK)  # tokens that a generated caption never contains


def allowed(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits (…, V) at a temperature, with -inf for words that may not be drawn. A loss on drawn captions needs these,
    too."""
    logits = logits.float() / temperature
    never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[list(NEVER)] = True
    return logits.masked_fill(never, -torch.inf)


def drawn_from(logits: Tensor) -> Tensor:
    """Logits (N, V) -> one word per row, (N, 1). On a CPU the word is found in the cumulative distribution, because
    `torch.multinomial` draws a number for each word of the vocabulary, which takes longer there than the decoder."""
    probabilities = logits.softmax(1)
    if logits.device.type != "cpu":
        return torch.multinomial(probabilities, 1)
    masses = probabilities.cumsum(1)
    points = torch.rand(len(masses), 1) * masses[:, -1:]
    return torch.searchsorted(masses, points, right=True).clamp(max=masses.shape[1] - 1)


@torch.no_grad()
def draw(
    decoder: Decoder, memory: Memory, samples: int, max_length: int, temperature: float = 1.0, greedy: bool = False
) -> Tensor:
    """Captions (B·S, T) of at most `max_length` tokens, S adjacent rows per photo, drawn from the model's distribution
    at a temperature or, if `greedy`, of the most probable words. Tokens after an EOS are meaningless: see
    `through_end`. Uses torch's global generator; dropout follows the decoder's mode."""
    state = tuple(part.repeat_interleave(samples, dim=1) for part in decoder.initial_state(memory))  # (L, B·S, H)
    tokens = torch.full((len(memory.image) * samples, 1), BOS, device=memory.image.device)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    drawn = []
    for _ in range(max_length):
        logits, _, state = decoder(tokens, memory, state)
        choices = allowed(logits[:, 0], temperature)  # (B·S, V)
        tokens = choices.argmax(1, keepdim=True) if greedy else drawn_from(choices)
        drawn.append(tokens)
        ended |= tokens == EOS
        if ended.all():
            break
    return torch.cat(drawn, dim=1)


def through_end(tokens: Tensor) -> Tensor:
    """Tokens (N, T) -> mask (N, T) of those up to the first EOS, which is included. The mask goes by position, because
    any token may be drawn after an EOS."""
    ends = (tokens == EOS).long()
    return ends.cumsum(1) - ends == 0


def inputs_of(tokens: Tensor) -> Tensor:
    """Drawn tokens (N, T) -> the tokens that the decoder was fed: BOS, then all but the last."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Switch off dropout inside this context. The module stays in training mode, which cuDNN's recurrent layers need
    for their backward pass."""
    names: list[tuple[nn.Module, str]] = [(part, "p") for part in module.modules() if isinstance(part, nn.Dropout)]
    names += [(part, "dropout") for part in module.modules() if isinstance(part, nn.RNNBase)]
    before = [getattr(part, name) for part, name in names]
    try:
        for part, name in names:
            setattr(part, name, 0.0)
        yield
    finally:
        for (part, name), share in zip(names, before, strict=True):
            setattr(part, name, share)
