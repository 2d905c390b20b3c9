"""The encoder: any torchvision classification CNN by name, its softmax classifier cut off.

An image goes in; the final FC features (the input of the layer that was cut off) and the grid features (the
last spatial map, before pooling) come out. Here lives all that knows torchvision: names, weights, how a CNN
is taken apart into blocks, which blocks train. Reading and normalising photos is the business of `images`,
what to do with the features that of `decoder`.
"""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

FAMILIES = (
    *("alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "googlenet", "inception"),
    *("mobilenet", "shufflenet", "squeezenet", "mnasnet", "efficientnet", "regnet", "convnext"),
)
CONTAINERS = ("features", "layers", "trunk_output")  # their children are blocks, not they
WITH_AUXILIARY = ("googlenet", "inception_v3")  # auxiliary heads while training; images in [-1, 1]
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

Triple = tuple[float, float, float]


class Features(NamedTuple):
    """What the encoder says of B images: `pooled (B, D_p)` and `grid (B, R, D)`, its R cells row by row."""

    pooled: Tensor
    grid: Tensor


def cnn_names() -> list[str]:
    """The names that `Encoder` takes."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(FAMILIES)]


def check_name(name: str) -> None:
    if name in cnn_names():
        return
    known = name in torchvision.models.list_models(module=torchvision.models)
    what = "is in torchvision but is no CNN" if known else "is no model of torchvision's"
    near = difflib.get_close_matches(name, cnn_names(), n=5, cutoff=0.5) or ["mobilenet_v2", "resnet50"]
    raise ValueError(
        f"{name!r} {what}; the encoder must be a torchvision classification CNN. "
        f"Near names: {', '.join(near)}. captioner.encoder.cnn_names() lists them all."
    )


def build_cnn(name: str) -> nn.Module:
    """The whole torchvision model, classifier and all, with random weights and without auxiliary heads."""
    options = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, **options)


def outline_cnn(name: str) -> nn.Module:
    """The same with shapes only (on the meta device): no memory, and no time lost in random numbers."""
    computes_widths = name.startswith("regnet")  # with tensors, which needs real ones
    with torch.device("cpu" if computes_widths else "meta"):
        return build_cnn(name).to("meta")


def is_random(weights: str | Path | None) -> bool:
    return weights is None or str(weights).lower() == "none"


def is_file(weights: str | Path | None) -> bool:
    return weights is not None and str(weights).endswith((".safetensors", ".pth", ".pt"))


def is_checkpoint(weights: str | Path | None) -> bool:
    return weights is not None and Path(weights).is_dir()


def enum_member(name: str, weights: str) -> Any:
    members = torchvision.models.get_model_weights(name)
    if weights not in members.__members__:
        raise ValueError(
            f"{name} has no weights {weights!r}; torchvision has: {', '.join(members.__members__)}. "
            "Or pass a .safetensors or .pth file, a captioner checkpoint, or none."
        )
    return members[weights]


def expected_image(name: str, weights: str | Path | None) -> tuple[Triple, Triple, int]:
    """The mean and std (one a channel) and the side in pixels that the weights were trained for."""
    from_enum = not (is_random(weights) or is_file(weights) or is_checkpoint(weights))
    preset = enum_member(name, str(weights) if from_enum else "DEFAULT").transforms()
    size = int(preset.crop_size[0])
    if name in WITH_AUXILIARY:  # torchvision turns ImageNet's normalisation into this one inside the model
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), size
    (r, g, b), (dr, dg, db) = preset.mean, preset.std
    return (r, g, b), (dr, dg, db), size


def read_weights(name: str, weights: str | Path | None) -> dict[str, Tensor]:
    if is_file(weights):
        return read_file(Path(str(weights)))
    if is_checkpoint(weights):
        state = read_file(Path(str(weights)) / "model.safetensors")
        return {key.removeprefix("encoder."): tensor for key, tensor in state.items() if key.startswith("encoder.")}
    member = enum_member(name, str(weights))
    try:
        return member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights {member} of {name} cannot be downloaded from {member.url} ({error}). Get that file "
            "where there is a network and pass its path as the weights, or pass none for random weights."
        ) from error


def read_file(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.safetensors` or `.pth` file, whose pickle may hold tensors only."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected a torchvision state dict (.safetensors or .pth).")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as weights ({reason}); expected a state dict of tensors, as "
            "torch.save(model.state_dict(), path) writes it."
        ) from error
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(
            f"{path} holds no state dict (tensors by name); save one with torch.save(model.state_dict(), path)."
        )
    return state


def select_tensors(
    found: dict[str, Tensor], full: dict[str, torch.Size], wanted: dict[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The `wanted` tensors among those `found` in `source`, in float32.

    `full` are the shapes of the model before the cut: only what is in neither is unknown.
    """
    # The oldest DenseNet files say norm.1 for norm1; files older than 2018 count no batches.
    old_name = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    counters = {key: torch.tensor(0) for key in wanted if key.endswith("num_batches_tracked")}
    found = counters | {old_name.sub(r"\1\2", key): tensor for key, tensor in found.items()}

    expected = f"{source}: expected the state dict of this torchvision model"
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in full and not key.startswith(AUXILIARY)]
    if missing or unknown:
        lacks = [f"lacks {first_few(missing)}"] if missing else []
        holds = [f"holds the unknown {first_few(unknown)}"] if unknown else []
        raise ValueError(f"{expected}, but it {' and '.join(lacks + holds)}.")
    for key, tensor in wanted.items():
        shape = found[key].shape
        if shape != tensor.shape:
            raise ValueError(f"{expected}, but {key} has shape {[*shape]}, not {[*tensor.shape]}.")
        if not found[key].isfinite().all():  # torchvision's VGG16_Weights.IMAGENET1K_FEATURES, for one
            raise ValueError(f"{expected}, but {key} holds values that are no numbers. Choose other weights.")
    # Copies: memory lent by a file may be aligned otherwise, which changes the last bits of a CPU's results.
    return {
        key: found[key].to(torch.float32 if found[key].is_floating_point() else torch.int64, copy=True)
        for key in wanted
    }


def first_few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def block_names(children: Iterable[tuple[str, nn.Module]]) -> Iterable[str]:
    for key, module in children:
        if key in CONTAINERS:
            yield from (f"{key}.{inner}" for inner, _ in module.named_children())
        else:
            yield key


def split_classifier(classifier: nn.Module) -> tuple[nn.Sequential, nn.Linear | nn.Conv2d]:
    """What stands before the last classification layer (without its dropout), and that layer."""
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

    `weights` is `"DEFAULT"` or another member of the model's torchvision enum (`"IMAGENET1K_V1"`; downloaded
    once), the path of a torchvision state dict (`.safetensors`, or `.pth` read with `weights_only=True`), the
    directory of a captioner checkpoint with this CNN, or None for random weights (under `torch.device("meta")` none
    at all, to be loaded with `assign=True`). `mean`, `std` and `image_size` are what the weights expect of an image.
    Everything is frozen until `unfreeze_from` says otherwise. Raises ValueError or FileNotFoundError.
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
        """Take over the model's modules up to, and without, its last classification layer."""
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
        """Encode normalised images (B, 3, S, S). Channels-last images give the grid without a copy."""
        x = images
        for step in self._trunk:
            x = self.get_submodule(step)(x)
        grid = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, R, D)
        for step in self._head:
            x = self.get_submodule(step)(x)
        return Features(x, grid)

    def unfreeze_from(self, block: str | None, train_batch_norm: bool = False) -> None:
        """Let `block` and all later blocks train and freeze the rest; None freezes everything.

        Batch norm keeps its running statistics, also in blocks that train (there its scale and shift learn),
        unless `train_batch_norm`.
        """
        if block is not None and block not in self.blocks:
            raise ValueError(f"{self.name} has no block {block!r}; it has, in order: {', '.join(self.blocks)}.")
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
        """Set the mode of the blocks that train; frozen ones, and batch norm, stay in eval mode."""
        super().train(mode)
        for step in self._frozen_steps():
            self.get_submodule(step).eval()
        if not self.train_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
