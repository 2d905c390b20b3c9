"""A recipe for everyday photos. The CNN and the decoder learn together, with attention supervision. Then self-critical
training rewards the decoder for CIDEr-D and penalises objects that are not in the photo.

python scripts/train_everyday.py --data flickr8k web coco_part --output runs/everyday [any setting of captioner train]
captioner export runs/everyday/best
captioner calibrate runs/everyday/best --data flickr8k coco_part

It is a shorter form of what docs/everyday.md describes, and has been run on a small part of the data only, so it comes
without scores. The weights that are shipped are a mean of several runs."""

from pathlib import Path

import tyro

from captioner.config import ModelConfig
from captioner.data.augment import AugmentConfig
from captioner.decoding import Decoding
from captioner.training.config import SelfCriticalConfig, TrainConfig
from captioner.training.train import train

RECIPE = TrainConfig(
    data=(),
    output=Path("runs/everyday"),
    model=ModelConfig(embedding_size=320, layers_above=0, tie_embeddings=True, feature_dropout=0.4),
    image_size=256,
    stages=(
        "cross-entropy+attention-supervision@features.14:4",
        "cross-entropy+attention-supervision@features.7:8",
        "self-critical@decoder:2",
    ),
    batch_size=32,
    ema=0.998,
    attention_supervision=0.5,
    self_critical=SelfCriticalConfig(wrong_object=0.7, learning_rate_scale=0.15),
    augment=AugmentConfig(smallest_crop=0.5, colour=0.3),
    decoding=Decoding(no_repeat_ngram=1),
    patience=0,
)

if __name__ == "__main__":
    print("best checkpoint:", train(tyro.cli(TrainConfig, default=RECIPE, description=__doc__)))
