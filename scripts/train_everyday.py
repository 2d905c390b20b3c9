"""A recipe for photos of everything. The CNN and the decoder learn together and are taught where to look. Then the
decoder is rewarded for captions that people would write and that name what is there.

python scripts/train_everyday.py --data flickr8k web coco_part --output runs/everyday [any setting of captioner train]

Then the checkpoint gets its graphs and its confidence. docs/everyday.md measures the steps. The weights that are
shipped are a mean of several runs of such steps. This program has been run on a small part of the data only, so it
comes without scores."""

from pathlib import Path

import tyro

from captioner import Captioner
from captioner.backends.export import export
from captioner.calibrate import DataSet, calibrate, save_confidence
from captioner.config import ModelConfig
from captioner.data.augment import AugmentConfig
from captioner.data.sources import read_sources
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
    self_critical=SelfCriticalConfig(wrong_object=0.7),
    augment=AugmentConfig(smallest_crop=0.5, colour=0.3),
    decoding=Decoding(method="beam", beam_size=3, max_length=20, length_penalty=0.7, no_repeat_ngram=2),
    patience=0,
)


def main(config: TrainConfig) -> None:
    best = train(config)
    export(best)
    print("best checkpoint:", best)
    sets = {
        name: DataSet(*([record for record in records if record.split == split] for split in ("train", "val")))
        for name, records in read_sources(config.data, config.images).items()
    }
    # A right caption often differs from a single reference.
    sets = {name: each for name, each in sets.items() if each.validation and len(each.validation[0].captions) > 1}
    confidence, figures = calibrate(Captioner.load(best), sets)
    save_confidence(best, confidence, {"fitted_on": {name: len(each.validation) for name, each in sets.items()}})
    for name, calibration in figures.items():
        print(f"{name}, photos that the confidence was fitted on:\n{calibration}\n")


if __name__ == "__main__":
    main(tyro.cli(TrainConfig, default=RECIPE, description=__doc__))
