"""The recipe of the shipped model: MobileNetV2 and LSTM, jointly trained on Flickr8k.

python scripts/train_flickr8k.py --data datasets/flickr8k --output runs/flickr8k [any setting of captioner train]"""

from pathlib import Path

import tyro

from captioner.training.config import TrainConfig
from captioner.training.train import train

RECIPE = TrainConfig(
    data=(Path("datasets/flickr8k"),),
    output=Path("runs/flickr8k"),
    stages=("decoder:5", "features.7:5"),
    patience=0,
)

if __name__ == "__main__":
    print("best checkpoint:", train(tyro.cli(TrainConfig, default=RECIPE, description=__doc__)))
