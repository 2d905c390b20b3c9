"""The torch backend: runs a `CaptionModel` for the search, on any device. Logits and states stay on the device; the
search sees only the chosen words, in NumPy. It computes in float32, without TF32 on CUDA, so that a photo gets the same
caption on every machine and in every batch, unless the scores of two hypotheses agree to about six digits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.config import ModelConfig
from captioner.decoder import Decoder, Memory, State
from captioner.device import choose_device, use_full_float32
from captioner.model import CaptionModel, build_model
from captioner.step import Choices, Choose, Step, all_but_one

WITHOUT_FLOAT64 = ("mps",)  # device types on which torch has no float64


class TorchBackend:
    def __init__(self, model: CaptionModel, device: torch.device):
        if device.type == "cuda":
            use_full_float32()
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device = device

    def __reduce__(self) -> Any:
        return TorchBackend, (self.model, self.device)

    def __str__(self) -> str:
        return f"torch on {self.device}"

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Memory:
        """Preprocessed photos (B, 3, S, S) -> what the decoder needs of them."""
        self.model.eval()
        batch = torch.from_numpy(images).to(self.device, memory_format=torch.channels_last)
        return self.model.encode(batch)

    def grid_mean(self, memory: Memory) -> np.ndarray | None:
        """The mean features of the grid (B, D); None without attention."""
        return memory.values.mean(dim=1).cpu().numpy() if memory.values.shape[1] else None

    def step(self, memory: Memory) -> Step:
        return partial(step, self.model.decoder, memory)

    @torch.inference_mode()
    def step_without_each_region(self, memory: Memory) -> Step:
        """The step of one photo as R photos, each without one region of the grid. The state after the photo is that of
        the whole photo."""
        decoder, regions = self.model.decoder, memory.values.shape[1]
        kept = torch.from_numpy(all_but_one(regions)).to(self.device)
        recurrent = tuple(part.repeat(1, regions, 1) for part in decoder.initial_state(memory))  # (L, R, H)
        each = Memory(memory.values[0, kept], memory.keys[0, kept], memory.image.repeat(regions, 1))
        start = Carried(recurrent, each, np.arange(regions))

        def step_from_start(
            words: np.ndarray, rows: np.ndarray, state: Carried | None, images: np.ndarray, choose: Choose
        ) -> tuple[Choices, Carried]:
            return step(decoder, each, words, rows, state or start, images, choose)

        return step_from_start


class Carried(NamedTuple):
    """The state that a step passes to the next: that of the rows, and of the photos still under search."""

    recurrent: State
    memory: Memory
    images: np.ndarray  # (B,) the indices of these photos


@torch.inference_mode()
def step(
    decoder: Decoder,
    memory: Memory,
    words: np.ndarray,
    rows: np.ndarray,
    state: Carried | None,
    images: np.ndarray,
    choose: Choose,
) -> tuple[Choices, Carried]:
    """A `Step` once `decoder` and `memory` are bound. Without a state it starts from the photos in `memory`."""
    device = memory.image.device
    recurrent = None
    if state is not None:
        parents = torch.from_numpy(rows).to(device)
        recurrent = tuple(part.index_select(1, parents) for part in state.recurrent)  # (L, N, H)
        memory = state.memory
        if len(images) < len(state.images):
            kept = np.searchsorted(state.images, images)
            memory = memory.select(torch.from_numpy(kept).to(device))
    tokens = torch.from_numpy(words)[:, None].to(device)  # (N, 1)
    logits, attention, recurrent = decoder(tokens, memory, recurrent)
    choices = choose_words(logits[:, 0], choose, None if attention is None else attention[:, 0])
    return choices, Carried(recurrent, memory, images)


def choose_words(logits: Tensor, choose: Choose, attention: Tensor | None = None) -> Choices:
    """`captioner.step.choose_words` on the device: logits (N, V), attention (N, R) -> what was chosen, in NumPy."""
    allowed = logits.float().log_softmax(-1)
    allowed[:, list(choose.suppressed)] = -torch.inf
    if choose.banned is not None:
        allowed.scatter_(1, torch.from_numpy(choose.banned).to(logits.device), -torch.inf)
    if choose.wanted is not None:
        words = torch.from_numpy(choose.wanted).to(logits.device)
    elif choose.uniforms is not None:
        words = _sample(allowed, choose)
    else:
        words = allowed.topk(min(choose.count, allowed.shape[1]), dim=1).indices
    alternatives = None
    if choose.alternatives:
        top = allowed.topk(min(choose.alternatives, allowed.shape[1]), dim=1)
        alternatives = top.indices.cpu().numpy(), top.values.cpu().numpy()
    return Choices(
        words.cpu().numpy(),
        allowed.gather(1, words).cpu().numpy(),
        None if attention is None else attention.float().cpu().numpy(),
        alternatives,
    )


def _sample(allowed: Tensor, choose: Choose) -> Tensor:
    """`captioner.step.choose_sampled`: log-probabilities (N, V), uniforms (N, P) -> words (N, P). Computed in float64,
    so that a seed gives the same words on every device; on the CPU if the device has no float64."""
    device = allowed.device
    if device.type in WITHOUT_FLOAT64:
        allowed = allowed.cpu()
    uniforms = torch.from_numpy(choose.uniforms).to(allowed.device)
    count = min(choose.top_k or allowed.shape[1], allowed.shape[1])
    scores, order = allowed.double().topk(count, dim=1)  # (N, V or top_k)
    masses = (scores / choose.temperature).softmax(dim=1).nan_to_num()  # also if no word is allowed
    before = masses.cumsum(1) - masses
    masses = masses.masked_fill(before >= choose.top_p * masses.sum(1, keepdim=True), 0)
    cumulative = masses.cumsum(1)
    places = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)  # (N, P)
    last = ((masses > 0).sum(1, keepdim=True) - 1).clamp(min=0)  # rounding must not go past the last word
    return order.gather(1, torch.minimum(places, last)).to(device)


def load_backend(directory: Path, config: ModelConfig, vocabulary_size: int, device: str = "auto") -> TorchBackend:
    """The backend of a checkpoint. The model is built without initialising weights, which are then loaded. Raises
    CheckpointError, and ValueError for a device that does not exist."""
    tensors, _ = load_checkpoint(directory)
    with torch.device("meta"):
        model = build_model(config, vocabulary_size, weights=None)
    load_into(model, tensors, directory)
    return TorchBackend(model, choose_device(device))
