"""Random augmentation of training photos: crop, mirror image, colour. It runs before `Preprocess`, in training only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data.streams import Purpose, random_stream
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True)
class AugmentConfig:
    """How training photos are augmented while the CNN learns."""

    smallest_crop: float = 0.7
    """Smallest share of the photo's area that a random crop keeps; 1 for no crop."""
    flip: bool = True
    """Mirror half of the photos, and swap the words left and right in their captions."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation; 0 for none."""


class Augmenter:
    """Applies a random crop, reflection and colour change to photo `index`, as a function of (seed, index) alone. In
    the captions of a mirrored photo, left and right are swapped."""

    def __init__(self, config: AugmentConfig, vocabulary: Vocabulary, seed: Sequence[int]):
        self.config, self.seed = config, tuple(seed)
        self.mirrored_words = {}
        if "left" in vocabulary and "right" in vocabulary:
            left, right = vocabulary.encode(["left", "right"])
            self.mirrored_words = {left: right, right: left}

    def __call__(
        self, photo: Image.Image, captions: list[list[int]], index: int
    ) -> tuple[Image.Image, list[list[int]]]:
        config, random = self.config, random_stream(Purpose.AUGMENTATION, *self.seed, index)
        if config.smallest_crop < 1:
            share, aspect = random.uniform(config.smallest_crop, 1), np.exp(random.uniform(-0.15, 0.15))
            width = min(1.0, np.sqrt(share * aspect)) * photo.width
            height = min(1.0, np.sqrt(share / aspect)) * photo.height
            left, top = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
            size = (max(1, round(width)), max(1, round(height)))
            photo = photo.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        if config.flip and random.random() < 0.5:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self.mirrored_words:
                captions = [[self.mirrored_words.get(word, word) for word in caption] for caption in captions]
        if config.colour > 0:
            for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                photo = change(photo).enhance(random.uniform(1 - config.colour, 1 + config.colour))
        return photo, captions
