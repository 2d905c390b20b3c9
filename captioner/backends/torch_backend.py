"""The torch backend: runs a `CaptionModel` for the search, on any device. The search sees NumPy arrays only; logits and
states stay where they were computed. It computes in float32, without TF32 on CUDA, so that a photo has the same caption
on every machine and in every batch, unless two hypotheses are equal to about six digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.config import ModelConfig
from captioner.decoder import Decoder, Memory, State
from captioner.decoding import Choices, Choose
from captioner.device import choose_device, use_full_float32
from captioner.model import CaptionModel, build_model


class TorchBackend:
    def __init__(self, model: CaptionModel, device: torch.device):
        if device.type == "cuda":
            use_full_float32()
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Memory:
        """Preprocessed photos (B, 3, S, S) -> what the decoder needs of them."""
        self.model.eval()
        batch = torch.from_numpy(images).to(self.device, memory_format=torch.channels_last)
        return self.model.encode(batch)

    def step(self, memory: Memory) -> TorchStep:
        return TorchStep(self.model.decoder, memory)


class TorchStep:
    """`decoding.Step` over a decoder and the photos it remembers."""

    def __init__(self, decoder: Decoder, memory: Memory):
        self.decoder = decoder
        self.all = memory
        self.memory = memory
        self.images = np.arange(len(memory.image))
        self.state: State | None = None

    @torch.inference_mode()
    def __call__(self, words: np.ndarray, rows: np.ndarray | None, images: np.ndarray, choose: Choose) -> Choices:
        device = self.all.image.device
        if rows is None:
            self.memory, self.images, self.state = self.all, images, None
        elif self.state is not None:
            order = torch.from_numpy(rows).to(device)
            self.state = tuple(part.index_select(1, order) for part in self.state)  # (L, N, H)
            if len(images) < len(self.images):
                kept = torch.from_numpy(np.searchsorted(self.images, images)).to(device)
                self.memory, self.images = self.memory.select(kept), images
        tokens = torch.from_numpy(words)[:, None].to(device)  # (N, 1)
        logits, attention, self.state = self.decoder(tokens, self.memory, self.state)
        return choose_words(logits[:, 0], choose, None if attention is None else attention[:, 0])


def choose_words(logits: Tensor, choose: Choose, attention: Tensor | None = None) -> Choices:
    """`decoding.choose_words` on the device: logits (N, V), attention (N, R) -> only what was chosen, on NumPy."""
    allowed = logits.float().log_softmax(-1)
    allowed[:, list(choose.suppressed)] = -torch.inf
    if choose.banned is not None:
        allowed.scatter_(1, torch.from_numpy(choose.banned).to(logits.device), -torch.inf)
    if choose.uniforms is None:
        gains, words = allowed.topk(min(choose.count, allowed.shape[1]), dim=1)
    else:
        uniforms = torch.from_numpy(choose.uniforms).to(logits.device)
        words = _sample(allowed, uniforms, choose.temperature, choose.top_k, choose.top_p)
        gains = allowed.gather(1, words)
    others = allowed.topk(min(choose.alternatives, allowed.shape[1]), dim=1) if choose.alternatives else None
    return Choices(
        words.cpu().numpy(),
        gains.cpu().numpy(),
        None if attention is None else attention.float().cpu().numpy(),
        None if others is None else (others.indices.cpu().numpy(), others.values.cpu().numpy()),
    )


def _sample(allowed: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """`decoding.choose_sampled`: (N, V) and uniforms (N, S) -> words (N, S)."""
    scores, order = allowed.double().topk(min(top_k or allowed.shape[1], allowed.shape[1]), dim=1)
    masses = (scores / temperature).softmax(dim=1).nan_to_num()  # also where nothing is allowed
    before = masses.cumsum(1) - masses
    masses = masses.masked_fill(before >= top_p * masses.sum(1, keepdim=True), 0)
    cumulative = masses.cumsum(1)
    places = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    last = ((masses > 0).sum(1, keepdim=True) - 1).clamp(min=0)  # rounding must not lead past the last word
    return order.gather(1, torch.minimum(places, last))


def load_backend(directory: Path, config: ModelConfig, vocabulary_size: int, device: str = "auto") -> TorchBackend:
    """The backend of a checkpoint; nothing is initialised only to be overwritten. Raises CheckpointError, and
    ValueError for a device that is not there."""
    tensors, _ = load_checkpoint(directory)
    with torch.device("meta"):
        model = build_model(config, vocabulary_size, weights=None)
    load_into(model, tensors, directory)
    return TorchBackend(model, choose_device(device))
