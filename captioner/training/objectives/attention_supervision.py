"""Attention supervision without boxes. A linear classifier predicts the caption's words from the mean-pooled grid, and
its class activation map shows which regions are evidence for a word (Zhou et al. 2016, "Learning Deep Features for
Discriminative Localization", eq. 2). For each content word of a caption, the map of that word is the soft target of the
attention (supervised attention: Liu et al. 2017, "Attention Correctness in Neural Image Captioning", section 3.3, where
the targets are boxes). The classifier is not needed at inference.

The classifier is trained together with the captioner. If the CNN learns, too, this second task keeps the grid features
local."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.data.datasets import Batch
from captioner.training.objectives import Forward
from captioner.vocabulary import PAD, SPECIALS, Vocabulary

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun

SHARPNESS = 2.0  # factor on the standardised maps before the softmax; the shipped model was trained with it


class AttentionSupervision(nn.Module):
    """The term: the cross-entropy of the attention to the maps of the words, plus the loss of the classifier."""

    content: Tensor

    def __init__(self, weight: float, grid_size: int, content: Tensor, priors: Tensor):
        """`content` (V,) marks the words to supervise. `priors` (V,) is the share of photos whose captions have each
        word; the classifier starts from these."""
        super().__init__()
        self.weight = weight
        self.classifier = nn.Linear(grid_size, len(content))
        self.register_buffer("content", content)
        nn.init.zeros_(self.classifier.weight)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.logit(priors.clamp(1e-4, 0.99)))

    def forward(self, run: CaptionRun, batch: Batch, forward: Forward) -> Tensor:
        grid, attention = forward.features.grid, forward.attention  # (B, R, D), (N, T, R)
        assert attention is not None
        words = forward.targets.masked_fill(~forward.real, PAD)  # (N, T)
        scores = self.classifier(grid.mean(1))[:, self.content].float()  # (B, V')
        labels = self.labels(batch.targets, len(grid))[:, self.content]  # (B, V')
        naming = F.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
        return self.weight * (self.looking(grid, words, attention) + naming)

    def labels(self, targets: Tensor, photos: int) -> Tensor:
        """Token ids (N, T) -> (B, V): 1 for each word in any caption of the photo."""
        labels = torch.zeros(photos, len(self.content), device=targets.device)
        return labels.scatter_(1, targets.reshape(photos, -1), 1.0)

    def looking(self, grid: Tensor, targets: Tensor, attention: Tensor) -> Tensor:
        """Cross-entropy of the attention (N, T, R) to the maps of the content words among the targets (N, T), summed.
        Each word is weighted by the probability that the classifier gives it in the photo, because the map of a word
        that the classifier does not see is no target."""
        rows, places = torch.nonzero(self.content[targets], as_tuple=True)  # (n,) each
        photos = rows // (len(targets) // len(grid))
        with torch.no_grad():
            words, index = targets[rows, places].unique(return_inverse=True)  # (U,), (n,)
            weight, bias = self.classifier.weight[words], self.classifier.bias[words]
            evidence = (grid.float() @ weight.T).transpose(1, 2)  # (B, U, R)
            seen = (evidence.mean(2) + bias).sigmoid()[photos, index]  # (n,)
            wanted = (SHARPNESS * standardised(smoothed(evidence))).softmax(2)[photos, index]  # (n, R)
        given = attention[rows, places].float()  # (n, R)
        return -(seen[:, None] * wanted * given.clamp(min=1e-8).log()).sum()


def smoothed(maps: Tensor) -> Tensor:
    """Maps (B, U, R) over a square grid, each region replaced by the mean of its neighbourhood of 3×3."""
    side = round(maps.shape[2] ** 0.5)
    assert side * side == maps.shape[2], "the grid is not square"
    return F.avg_pool2d(maps.unflatten(2, (side, side)), 3, 1, 1, count_include_pad=False).flatten(2)


def standardised(maps: Tensor) -> Tensor:
    """Maps (B, U, R) with mean 0 and standard deviation 1 each; a flat map stays flat."""
    return (maps - maps.mean(2, keepdim=True)) / maps.std(2, keepdim=True).clamp(min=1e-6)


def build(run: CaptionRun) -> AttentionSupervision:
    """The term with a new classifier of the content words of the training captions, or with the one of the previous
    stage."""
    if run.model.decoder.attention is None:
        raise ValueError("attention-supervision needs attention, but the model has none. Choose a --model.attention.")
    trained = getattr(getattr(run, "objective", None), "terms", {})
    if "attention-supervision" in trained:
        return trained["attention-supervision"]
    vocabulary, captions = run.captioner.vocabulary, run.training.captions
    photos_with = torch.zeros(len(vocabulary))
    for of_photo in captions:
        photos_with[sorted({word for caption in of_photo for word in caption})] += 1
    priors = photos_with / len(captions)
    weight, grid_size = run.config.attention_supervision, run.model.encoder.grid_size
    return AttentionSupervision(weight, grid_size, content_words(vocabulary), priors)


def content_words(vocabulary: Vocabulary) -> Tensor:
    """(V,): which words can be pointed at."""
    content = torch.ones(len(vocabulary), dtype=torch.bool)
    content[[*range(len(SPECIALS)), *vocabulary.function_words]] = False
    return content
