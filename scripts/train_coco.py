"""A recipe for COCO: ResNet-50 and a larger LSTM; first the decoder over the frozen CNN, then both, block by block.

python scripts/train_coco.py --data datasets/coco2017 --output runs/coco [any setting of captioner train]

It is meant for a GPU. Its authors have not run it to the end, so it comes without scores.
The first stage stores the features of 123,000 photos: 25 GB on disk, in the folder given by --cache."""

from pathlib import Path

import tyro

from captioner.config import ModelConfig
from captioner.training.config import TrainConfig
from captioner.training.train import train

RECIPE = TrainConfig(
    data=(Path("datasets/coco2017"),),
    output=Path("runs/coco"),
    model=ModelConfig(encoder="resnet50", hidden_size=1024),
    stages=("decoder:8", "layer4:4", "layer2:8"),
    batch_size=32,
    joint_learning_rate=2e-4,
    encoder_learning_rate=2e-5,
    workers=8,
)

if __name__ == "__main__":
    print("best checkpoint:", train(tyro.cli(TrainConfig, default=RECIPE, description=__doc__)))
