"""Knowledge distillation (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network"): besides the
words themselves, the model learns the word probabilities that a teacher gives after the same words. The teacher may be
a larger model, an ensemble, or a model of the same size from an earlier run (Furlanello et al. 2018, "Born-Again Neural
Networks")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from captioner.captioner import Captioner
from captioner.data.datasets import Batch
from captioner.encoder import Features
from captioner.model import CaptionModel
from captioner.training.objectives import Loss
from captioner.training.objectives.cross_entropy import cross_entropy, forward_pass
from captioner.vocabulary import SPECIALS, Vocabulary

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun


class Teacher:
    """A trained captioner that gives the probabilities of the next word over another model's vocabulary."""

    def __init__(self, model: CaptionModel, own: Vocabulary, vocabulary: Vocabulary):
        """`own` is the teacher's vocabulary, `vocabulary` the student's."""
        self.model = model.requires_grad_(False).eval()
        self.to_own = translation(vocabulary, own)
        self.from_own = translation(own, vocabulary)

    @torch.no_grad()
    def __call__(self, images: Tensor | Features, inputs: Tensor, real: Tensor) -> Tensor:
        """Photos (B, 3, S, S) or their features, the input words (N, T), and a mask of the n positions that count (N,
        T) -> probabilities (n, V) of the next words there. A word that one of the two vocabularies lacks becomes its
        unknown word."""
        logits, _, _ = self.model(images, self.to_own.to(inputs.device)[inputs], real)
        probabilities = logits.float().softmax(1)
        return probabilities.new_zeros(len(logits), len(self.to_own)).index_add_(
            1, self.from_own.to(inputs.device), probabilities
        )


def translation(words: Vocabulary, others: Vocabulary) -> Tensor:
    """(V,): the id in the vocabulary `others` of each word of the vocabulary `words`; UNK if it lacks the word."""
    return torch.tensor([*range(len(SPECIALS)), *others.encode(list(words.words))])


class Distillation(nn.Module):
    """The cross-entropy to a target that mixes the mean of the teachers' word probabilities (weight `share`) and the
    word of the human caption (weight 1 - `share`), summed over the real tokens. The teachers' probabilities replace
    label smoothing; at share 0 it is `cross_entropy` without it."""

    def __init__(self, teachers: Sequence[Teacher], share: float):
        super().__init__()
        self.teachers = list(teachers)  # not submodules: they are neither trained nor saved with the run
        self.share = share

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        decoder, features = run.model.decoder, run.model.features(batch.images)
        forward = forward_pass(decoder, features, decoder.prepare(features), batch.inputs, batch.targets)
        real, words = forward.real, batch.targets[forward.real]  # (N, T), (n,)
        taught = torch.stack([teacher(batch.images, batch.inputs, real) for teacher in self.teachers]).mean(0)
        targets = self.share * taught  # (n, V)
        targets.scatter_add_(1, words[:, None], targets.new_full((len(words), 1), 1 - self.share))
        return Loss(cross_entropy(forward.logits, targets), real.sum(), forward=forward)


def build(run: CaptionRun) -> Distillation:
    config = run.config.distillation
    loaded = [Captioner.load(name, device=str(run.device), backend="torch") for name in config.teacher]
    teachers = [Teacher(teacher.model, teacher.vocabulary, run.captioner.vocabulary) for teacher in loaded]
    return Distillation(teachers, config.share)
