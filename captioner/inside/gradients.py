"""How far back in a caption the loss of its last word reaches: the vanishing gradient, of untrained and of trained
decoders. `visualize.gradients` draws it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from captioner.captioner import Captioner
from captioner.data.datasets import encode_captions
from captioner.data.readers import Record
from captioner.decoder import Decoder, Memory
from captioner.vocabulary import BOS, SPECIALS

FEWEST = 20  # a mean is taken over at least this number of captions


def gradient_norms(decoder: Decoder, tokens: Tensor, memory: Memory | None = None) -> Tensor:
    """How strongly the loss of the last word depends on earlier inputs: the norms (N, S) of its gradient by each step's
    input. The inputs are the image embedding (if there is a `memory`) and the embeddings of all tokens but the last,
    which is the word to predict. Tokens (N, 1+T), without padding.

    The literature takes the gradient with respect to the hidden states (Bengio et al. 1994; Pascanu et al. 2013, eq.
    5). The gradient with respect to an input is the same one propagated through one more step, and it exists for every
    kind of cell."""
    inputs: list[Tensor] = []

    def catch(_: torch.nn.Module, arguments: tuple) -> tuple:
        inputs.append(arguments[0].detach().requires_grad_())
        return (inputs[0], *arguments[1:])

    hook = decoder.below.register_forward_pre_hook(catch)
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN computes no gradients in eval mode
            logits, _, _ = decoder(tokens[:, :-1], memory)
            loss = F.cross_entropy(logits[:, -1], tokens[:, -1], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, inputs)
    finally:
        hook.remove()
    return gradient.norm(dim=-1)


def untrained_gradients(
    cell: str, words: int = 20, seeds: int = 5, captions: int = 16, embedding_size: int = 300, hidden_size: int = 512
) -> np.ndarray:
    """Gradient norms (seeds, T) of untrained decoders with one recurrent layer and no photo, on random captions of T =
    `words` words after BOS. The last step is the last input word. Each norm is the geometric mean over captions."""
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
    """Gradient norms (S,) of a trained model on photos and their human captions, S at most `words`. The last step is
    the last input word. Each norm is the geometric mean over the captions that are long enough, at least FEWEST. Raises
    ImageError, and ValueError if there are too few captions."""
    model = captioner.model
    decoder = model.decoder.eval()
    log_norms: list[list[float]] = [[] for _ in range(words)]  # by distance from the last input word
    encoded = encode_captions(records, captioner.vocabulary, words + 1)
    for record, captions in zip(records, encoded, strict=True):
        with torch.no_grad():
            pixels = torch.from_numpy(captioner.preprocess.read(record.path)[0])[None].to(model.device)
            memory = model.encode(pixels)
        for caption in captions:
            tokens = torch.tensor([caption[:-1]], device=model.device)  # BOS and the words, without the end token
            if tokens.shape[1] > 2:
                norms = gradient_norms(decoder, tokens, memory)[0, 2:]  # without the photo and BOS
                for back, norm in enumerate(norms.flip(0).log().tolist()):
                    log_norms[back].append(norm)
    means = [float(np.exp(np.mean(logs))) for logs in log_norms if len(logs) >= FEWEST]
    if not means:
        raise ValueError(
            f"{len(records)} photos have fewer than {FEWEST} captions of at least two words. Pass more photos."
        )
    return np.array(means[::-1])
