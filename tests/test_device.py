"""Devices and precision. There is no GPU in these tests: the flags are looked at, and CUDA is mocked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from captioner.backends.torch_backend import TorchBackend
from captioner.config import ModelConfig
from captioner.device import autocast, choose_device, has_bfloat16
from captioner.model import build_model


@pytest.mark.parametrize("cuda, mps, expected", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert choose_device().type == expected


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="there is no device 'gpu'; expected cuda"):
        choose_device("gpu")
    with pytest.raises(ValueError, match=r"device 'tpu' cannot be used here .* Pass --device auto or cpu\."):
        choose_device("tpu")


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_used_where_it_is_fast(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert has_bfloat16(torch.device("cuda")) == supported
    assert not has_bfloat16(torch.device("mps"))
    with autocast(torch.device("mps")):
        assert not torch.is_autocast_enabled("mps")


@pytest.fixture
def with_tf32():
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in flags]
    for each in flags:
        each.allow_tf32 = True
    yield
    for each, value in zip(flags, before, strict=True):
        each.allow_tf32 = value


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_captioning_on_cuda_switches_tf32_off(monkeypatch, with_tf32, device):
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    with torch.device("meta"):
        model = build_model(ModelConfig("squeezenet1_1", embedding_size=4, hidden_size=4), 10, weights=None)
    TorchBackend(model, torch.device(device))
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (device == "cpu")
    with torch.backends.cudnn.flags(enabled=False):  # raises if flags of the old and the new kind are mixed
        pass


def test_make_deterministic():
    """In a process of its own, as it cannot be taken back."""
    code = """
import os, torch
from captioner.device import make_deterministic
torch.backends.cudnn.benchmark = True
make_deterministic()
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
assert not torch.backends.cudnn.benchmark and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
