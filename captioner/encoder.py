"""The encoder: any torchvision classification CNN by name, its softmax classifier cut off.

An image goes in; the final FC features (the input of the layer that was cut off) and the grid features (the last
feature map, before pooling) come out. This file takes a CNN apart into blocks and decides which of them train. Names
and weights of torchvision are in `pretrained`, photo files in `images`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from captioner.pretrained import (
    build_cnn,
    check_name,
    expected_image,
    is_random,
    outline_cnn,
    read_weights,
    select_tensors,
)

CONTAINERS = ("features", "layers", "trunk_output")  # modules whose children are the blocks


class Features(NamedTuple):
    """The features of B images: the final FC features `pooled (B, D_p)` and `grid (B, R, D)`, regions row by row."""

    pooled: Tensor
    grid: Tensor


def block_names(children: Iterable[tuple[str, nn.Module]]) -> Iterable[str]:
    """The names of a CNN's blocks: "layer1", or "features.3" inside a container."""
    for key, module in children:
        if key in CONTAINERS:
            yield from (f"{key}.{inner}" for inner, _ in module.named_children())
        else:
            yield key


def split_classifier(classifier: nn.Module) -> tuple[nn.Sequential, nn.Linear | nn.Conv2d]:
    """The layers before the last classification layer, without the dropout directly before it; and the last layer
    itself."""
    if isinstance(classifier, nn.Linear):
        return nn.Sequential(), classifier
    assert isinstance(classifier, nn.Sequential)
    modules = list(classifier)
    cut = max(i for i, module in enumerate(modules) if isinstance(module, nn.Linear | nn.Conv2d))
    last = modules[cut]
    assert isinstance(last, nn.Linear | nn.Conv2d)
    while cut and isinstance(modules[cut - 1], nn.Dropout):
        cut -= 1
    return classifier[:cut], last


class Encoder(nn.Module):
    """A torchvision CNN without its classifier; its tensors keep torchvision's names (`features.0.0.weight`).

    `weights` is one of: `"DEFAULT"` or another member of the model's torchvision enum, such as `"IMAGENET1K_V1"`
    (downloaded once); the path of a torchvision state dict (`.safetensors`, or `.pth` read with `weights_only=True`);
    the directory of a captioner checkpoint with this CNN; or None for random weights. Under `torch.device("meta")`,
    None allocates nothing; load the weights with `assign=True`. `mean`, `std` and `image_size` describe the images that
    the weights were trained on. Everything is frozen until `unfreeze_from` is called. Raises ValueError or
    FileNotFoundError.
    """

    def __init__(self, name: str, weights: str | Path | None = "DEFAULT") -> None:
        super().__init__()
        check_name(name)
        self.name = name
        self.mean, self.std, self.image_size = expected_image(name, weights)
        self.train_batch_norm = False
        self._first_trained: str | None = None

        full = outline_cnn(name)
        full_shapes = {key: tensor.shape for key, tensor in full.state_dict().items()}
        self._take_apart(full)
        image = torch.empty(1, 3, self.image_size, self.image_size, device="meta")
        self.grid_size = self.eval()(image).grid.shape[-1]
        if not is_random(weights):
            state = select_tensors(read_weights(name, weights), full_shapes, self.state_dict(), str(weights))
            self.load_state_dict(state, assign=True)
        elif torch.get_default_device().type != "meta":
            self._take_apart(build_cnn(name))
        self.unfreeze_from(None)
        self.train()

    def _take_apart(self, cnn: nn.Module) -> None:
        """Take over the CNN's modules up to its last classification layer, which is dropped."""
        children = dict(cnn.named_children())
        classifier = children.pop("fc") if "fc" in children else children.pop("classifier")
        tail, last = split_classifier(classifier)
        pool = children.pop("avgpool", nn.AdaptiveAvgPool2d(1))
        children.pop("dropout", None)
        if self.name.startswith("densenet"):
            children["relu"] = nn.ReLU(inplace=True)  # torchvision applies it in `forward`
        self._trunk = list(block_names(children.items()))

        head: dict[str, nn.Module] = {"avgpool": pool}
        if not any(isinstance(module, nn.Flatten) for module in tail):
            head["flatten"] = nn.Flatten(1)
        self._head = [*head, *(f"classifier.{key}" for key, _ in tail.named_children())]
        if len(tail):
            head["classifier"] = tail
        for key, module in {**children, **head}.items():
            self.add_module(key, module)

        self._steps = [*self._trunk, *self._head]
        self.blocks = [step for step in self._steps if [*self.get_submodule(step).parameters()]]
        self.pooled_size = last.in_features if isinstance(last, nn.Linear) else last.in_channels

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images (B, 3, S, S). If they are channels-last, the grid is a view and not a copy."""
        x = images
        for step in self._trunk:
            x = self.get_submodule(step)(x)
        grid = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, R, D)
        for step in self._head:
            x = self.get_submodule(step)(x)
        return Features(x, grid)

    def check_block(self, block: str | None) -> None:
        """Raise ValueError if the CNN has no block of that name."""
        if block is not None and block not in self.blocks:
            raise ValueError(f"{self.name} has no block {block!r}; it has, in order: {', '.join(self.blocks)}.")

    def unfreeze_from(self, block: str | None, train_batch_norm: bool = False) -> None:
        """Let `block` and all later blocks train, and freeze the others; None freezes everything.

        In blocks that train, batch norm learns its scale and shift. Its running statistics stay as they are unless
        `train_batch_norm`. Raises ValueError for an unknown block.
        """
        self.check_block(block)
        self._first_trained = block
        self.train_batch_norm = train_batch_norm
        frozen = set(self._frozen_steps())
        for step in self._steps:
            self.get_submodule(step).requires_grad_(step not in frozen)
        self.train(self.training)

    def _frozen_steps(self) -> list[str]:
        first = self._first_trained
        return self._steps if first is None else self._steps[: self._steps.index(first)]

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode of the blocks that train; frozen blocks, and batch norm unless it trains, stay in eval mode."""
        super().train(mode)
        for step in self._frozen_steps():
            self.get_submodule(step).eval()
        if not self.train_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
