"""The folder of a training run: nothing of another run is overwritten, and a damaged file is named."""

import json
from pathlib import Path

import pytest
import torch

from captioner.checkpoint.manifest import CheckpointError
from captioner.checkpoint.tensors import save_checkpoint
from captioner.training.config import TrainConfig
from captioner.training.run import STATE_PARTS, check_unused, load_last, write_settings

STATE = dict.fromkeys(STATE_PARTS)


@pytest.fixture
def config(tmp_path):
    config = TrainConfig(data=(Path("data"),), output=tmp_path)
    write_settings(config, "digest")
    return config


def save(folder, state=None):
    save_checkpoint(folder, {"a": torch.ones(1)}, {"model": {}}, "# card\n", state=state)


def test_a_best_that_stands_alone_is_kept(tmp_path):
    check_unused(tmp_path)
    save(tmp_path / "best")
    with pytest.raises(ValueError, match=r"best is a checkpoint and would be overwritten\. Choose another --output"):
        check_unused(tmp_path)


@pytest.mark.parametrize("cut", ["", "[1, 2]", '{"records": "dig'])
def test_cut_settings(config, cut):
    save(config.output / "last", STATE)
    assert load_last(config, "digest") == STATE
    (config.output / "train.json").write_text(cut)
    with pytest.raises(CheckpointError, match=r"train\.json (is not JSON|holds a list)"):
        load_last(config, "digest")


def test_a_state_without_its_parts(config):
    save(config.output / "last", {"progress": None})
    with pytest.raises(CheckpointError, match=r"state\.json lacks parts of a run; expected average, objective, opt"):
        load_last(config, "digest")


def test_settings_of_an_older_file(config):
    save(config.output / "last", STATE)
    settings = json.loads((config.output / "train.json").read_text())
    del settings["records"]
    (config.output / "train.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="was started with other data"):
        load_last(config, "digest")
