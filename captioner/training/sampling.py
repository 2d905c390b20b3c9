"""Captions drawn from a model in the middle of a training step: one loop on the model's device, without gradients. The
search of `decoding` is for the captions that people see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captioner.decoder import Decoder, Memory
from captioner.vocabulary import BOS, EOS, PAD, UNK

NEVER = (PAD, BOS, UNK)  # tokens that no caption of a model holds


def allowed(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits (…, V) of the words that may be drawn, at a temperature: the others get -inf. A loss of drawn captions
    needs these, too."""
    logits = logits.float() / temperature
    never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[list(NEVER)] = True
    return logits.masked_fill(never, -torch.inf)


def drawn_from(logits: Tensor) -> Tensor:
    """Logits (N, V) -> one word per row, (N, 1). On a CPU, `torch.multinomial` draws a number for each word of the
    vocabulary, which takes longer than the decoder; there the word is found in the cumulative distribution."""
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
    """Captions (B·S, T) of at most `max_length` tokens, S per photo side by side, from the model's own distribution at
    a temperature (or the most probable word each time). What follows an EOS has no meaning: see `through_end`. Draws
    from torch's generator; dropout is as the decoder's mode has it."""
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
    """Tokens (N, T) -> mask (N, T) of those up to the first EOS, which is included. Position decides: a model may draw
    any token after it."""
    ends = (tokens == EOS).long()
    return ends.cumsum(1) - ends == 0


def inputs_of(tokens: Tensor) -> Tensor:
    """Drawn tokens (N, T) -> what the decoder was fed before each: BOS, then all but the last."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Nothing is dropped inside of this context. The module stays in training mode, without which cuDNN's recurrent
    layers have no gradients."""
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
