"""What several test files share: a tiny model with random weights, on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side, one a core


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The checkpoint of an untrained model: it babbles, but everything else about it is real."""
    import torch

    from captioner.backend import TorchBackend
    from captioner.captioner import Captioner
    from captioner.checkpoint import save_checkpoint
    from captioner.config import ModelConfig
    from captioner.decoding import Decoding
    from captioner.images import Preprocess
    from captioner.model import build_model
    from captioner.vocabulary import Vocabulary

    torch.manual_seed(0)
    vocabulary = Vocabulary("a the dog cat 's ball runs sleeps on under grass sofa and".split())  # noqa: SIM905
    config = ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24)
    model = build_model(config, len(vocabulary), weights=None)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)  # so that it has opinions
    captioner = Captioner(
        TorchBackend(model, torch.device("cpu")), vocabulary, Preprocess(64), config, Decoding(max_length=8)
    )
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(directory, model.state_dict(), captioner.to_config(), "A tiny model.\n", half=False)
    return directory


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of photos of several sizes, and one below it."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, size in {"b.jpg": (80, 60), "a.png": (50, 90), "c.webp": (64, 64), "deeper/d.jpg": (70, 70)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        small = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder
