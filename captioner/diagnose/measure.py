"""The measurements behind the checks: teacher-forced losses per photo and generated captions; and the losses with
shuffled photos, with other preprocessing, and with other batch-norm statistics. `checks` judges them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from captioner.captioner import Caption, Captioner
from captioner.data.datasets import collate, encode_captions, in_order
from captioner.data.readers import Record
from captioner.encoder import Encoder, Features
from captioner.images import Preprocess, open_image
from captioner.vocabulary import PAD

View = Callable[[Image.Image], np.ndarray]  # an upright photo -> pixels for the CNN (3, S, S)

BATCH = 16
MOST_WORDS = 40  # longer references are truncated


@dataclass(frozen=True)
class Losses:
    """Teacher-forced losses of n photos."""

    nats: np.ndarray  # (n,) summed over the tokens of a photo's captions
    tokens: np.ndarray  # (n,)

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    def above(self, other: Losses) -> tuple[float, float]:
        """The difference between these losses and `other` losses of the same photos in nats per token, and its standard
        error."""
        difference = self.nats - other.nats
        mean = difference.sum() / self.tokens.sum()
        error = np.sqrt(((difference - mean * self.tokens) ** 2).sum()) / self.tokens.sum()
        return float(mean), float(error)


def encode(
    captioner: Captioner,
    records: Sequence[Record],
    title: str,
    view: View | None = None,
    encoder: Encoder | None = None,
) -> Features:
    """The features of each photo, by the model's preprocessing and CNN unless a `view` or an `encoder` is given."""
    view = view or captioner.preprocess
    encoder = encoder or captioner.model.encoder
    found = []
    bar = tqdm(in_order(len(records), BATCH), desc=title, leave=False, disable=None)
    for rows in bar:
        pixels = np.stack([view(open_image(records[row].path)) for row in rows])  # (b, 3, S, S)
        found.append(encoder(torch.from_numpy(pixels).to(captioner.model.device)))
    return Features(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def teacher_forced(captioner: Captioner, records: Sequence[Record], features: Features) -> Losses:
    """The cross-entropy of each photo's references, without label smoothing, given the photos' features."""
    decoder, device = captioner.model.decoder, captioner.model.device
    encoded = encode_captions(records, captioner.vocabulary, MOST_WORDS)
    nothing = (np.zeros(1, np.float32),) * 2
    nats, tokens = [], []
    for rows in in_order(len(records), BATCH):
        batch = collate([(nothing, encoded[row], row) for row in rows])  # for its tokens
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        real = targets != PAD
        logits, _, _ = decoder(inputs, decoder.prepare(_select(features, rows)), real=real)
        loss = torch.zeros(real.shape, device=device)  # (b·C, T)
        loss[real] = F.cross_entropy(logits, targets[real], reduction="none")
        nats.append(loss.reshape(len(rows), -1).sum(1))
        tokens.append(real.reshape(len(rows), -1).sum(1))
    return Losses(torch.cat(nats).double().cpu().numpy(), torch.cat(tokens).cpu().numpy())


def free_captions(captioner: Captioner, features: Features) -> list[Caption]:
    captions: list[Caption] = []
    for rows in tqdm(in_order(len(features.pooled), BATCH), desc="captions", leave=False, disable=None):
        memory = captioner.model.decoder.prepare(_select(features, rows))
        captions += captioner.search(memory, len(rows), captioner.decoding)
    return captions


def shuffled_losses(captioner: Captioner, records: Sequence[Record], features: Features) -> tuple[Losses, Losses]:
    """The losses with a wrong photo (half the data set away, as neighbours may be similar), and with only the grid of a
    wrong photo, while the image embedding is that of the right one."""
    pooled, grid = (part.roll(len(part) // 2, 0) for part in features)
    other, other_grid = Features(pooled, grid), Features(features.pooled, grid)
    return teacher_forced(captioner, records, other), teacher_forced(captioner, records, other_grid)


def views(preprocess: Preprocess, encoder: Encoder) -> dict[str, View]:
    """Preprocessing variants that programs often confuse. The checkpoint's own, "as stored", comes first."""
    ways = {
        "normalised as the CNN's weights expect": replace(preprocess, mean=encoder.mean, std=encoder.std),
        "0 to 1, not normalised": replace(preprocess, mean=(0, 0, 0), std=(1, 1, 1)),
        "0 to 255, not normalised": replace(preprocess, mean=(0, 0, 0), std=(1 / 255,) * 3),
        "-1 to 1": replace(preprocess, mean=(0.5,) * 3, std=(0.5,) * 3),
        f"{encoder.image_size} pixels a side": replace(preprocess, size=encoder.image_size),
        "squashed to a square": replace(preprocess, resize="squash"),
        "cropped to a square": replace(preprocess, resize="crop"),
        "padded to a square": replace(preprocess, resize="pad"),
    }
    swapped = {"red and blue swapped": lambda photo: preprocess(Image.merge("RGB", photo.split()[::-1]))}
    return {"as stored": preprocess, **swapped, **{name: way for name, way in ways.items() if way != preprocess}}


def losses_of_views(captioner: Captioner, records: Sequence[Record]) -> dict[str, Losses]:
    ways = views(captioner.preprocess, captioner.model.encoder)
    return {
        name: teacher_forced(captioner, records, encode(captioner, records, f"photos {name}", view))
        for name, view in ways.items()
    }


def batch_norm_drift(
    captioner: Captioner, records: Sequence[Record]
) -> tuple[dict[str, tuple[float, float]], Losses | None, Losses | None]:
    """For each batch-norm layer, how far the data's mean is from the running mean (in standard deviations) and the
    data's variance from the running variance (in factors of two), averaged over channels. Then the losses with the
    running statistics and with those of each batch; None for a CNN without batch norm."""
    encoder = captioner.model.encoder
    if not any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        return {}, None, None
    with _input_statistics(encoder) as seen:
        running = encode(captioner, records, "batch norm")
    drift = {}
    for name, layer in encoder.named_modules():
        if name in seen and isinstance(layer, _BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            mean, variance = torch.stack(seen[name]).mean(0)  # (2, channels)
            spread = layer.running_var + layer.eps
            off = ((mean - layer.running_mean).abs() / spread.sqrt()).mean()
            wider = ((variance + layer.eps) / spread).log2().abs().mean()
            drift[name] = (off.item(), wider.item())
    own = copy.deepcopy(encoder)
    for module in own.modules():
        if isinstance(module, _BatchNorm):
            module.training = True
    batch = encode(captioner, records, "batch norm", encoder=own)
    return drift, teacher_forced(captioner, records, running), teacher_forced(captioner, records, batch)


@contextmanager
def _input_statistics(encoder: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Inside this context, collect the mean and variance (2, channels) of each batch-norm layer's inputs."""
    seen: dict[str, list[Tensor]] = {}

    def remember(name: str) -> Callable:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
            seen.setdefault(name, []).append(torch.stack([mean, variance]))

        return hook

    layers = [(name, module) for name, module in encoder.named_modules() if isinstance(module, _BatchNorm)]
    hooks = [layer.register_forward_hook(remember(name)) for name, layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _select(features: Features, rows: list[int]) -> Features:
    return Features(*(part[rows] for part in features))
