"""torchvision's classification CNNs: their names, their weights, and the images that these weights expect. How a CNN
becomes an encoder is in `encoder`."""

from __future__ import annotations

import difflib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.checkpoint.manifest import describe_mismatch

FAMILIES = (
    *("alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "googlenet", "inception"),
    *("mobilenet", "shufflenet", "squeezenet", "mnasnet", "efficientnet", "regnet", "convnext"),
)
WITH_AUXILIARY = ("googlenet", "inception_v3")  # have auxiliary heads in training, and take images in [-1, 1]
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

Triple = tuple[float, float, float]


def cnn_names() -> list[str]:
    """The names that `Encoder` accepts."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(FAMILIES)]


def check_name(name: str) -> None:
    if name in cnn_names():
        return
    known = name in torchvision.models.list_models(module=torchvision.models)
    what = "is in torchvision but is not a classification CNN" if known else "is not a torchvision model"
    near = difflib.get_close_matches(name, cnn_names(), n=5, cutoff=0.5) or ["mobilenet_v2", "resnet50"]
    raise ValueError(
        f"{name!r} {what}; expected a torchvision classification CNN. "
        f"Similar names: {', '.join(near)}. captioner.pretrained.cnn_names() lists all."
    )


def build_cnn(name: str) -> nn.Module:
    """The whole torchvision model including its classifier, with random weights and without auxiliary heads."""
    options = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, **options)


def outline_cnn(name: str) -> nn.Module:
    """The same model on the meta device, which has shapes only and takes no memory or initialisation time."""
    computes_widths = name.startswith("regnet")  # its constructor computes with tensors, which must be real
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
            "You can also pass a .safetensors or .pth file, a captioner checkpoint, or none."
        )
    return members[weights]


def expected_image(name: str, weights: str | Path | None) -> tuple[Triple, Triple, int]:
    """The mean and std per channel and the side in pixels of the images that the weights were trained on."""
    from_enum = not (is_random(weights) or is_file(weights) or is_checkpoint(weights))
    preset = enum_member(name, str(weights) if from_enum else "DEFAULT").transforms()
    size = int(preset.crop_size[0])
    if name in WITH_AUXILIARY:  # torchvision converts from ImageNet's normalisation inside the model
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
            f"the weights {member} of {name} cannot be downloaded from {member.url} ({error}). Download that file "
            "elsewhere and pass its path as the weights, or pass none for random weights."
        ) from error


def read_file(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.safetensors` file, or from a `.pth` file that holds only tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a torchvision state dict (.safetensors or .pth).")
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
            f"{path} is not a state dict (tensors by name). Save one with torch.save(model.state_dict(), path)."
        )
    return state


def select_tensors(
    found: dict[str, Tensor], full: dict[str, torch.Size], wanted: dict[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The `wanted` tensors among those `found` in `source`, in float32.

    `full` has the shapes of the model with its classifier; a name that is neither in it nor part of an auxiliary head
    is an error. Raises ValueError.
    """
    # Old DenseNet files have norm.1 for norm1; files from before 2018 have no batch counters.
    old_name = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    counters = {key: torch.tensor(0) for key in wanted if key.endswith("num_batches_tracked")}
    found = counters | {old_name.sub(r"\1\2", key): tensor for key, tensor in found.items()}

    expected = f"{source}: expected the state dict of this torchvision model"
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in full and not key.startswith(AUXILIARY)]
    if mismatch := describe_mismatch(missing, unknown):
        raise ValueError(f"{expected}, but it {mismatch}.")
    for key, tensor in wanted.items():
        shape = found[key].shape
        if shape != tensor.shape:
            raise ValueError(f"{expected}, but {key} has shape {[*shape]}, not {[*tensor.shape]}.")
        if not found[key].isfinite().all():  # such as torchvision's VGG16_Weights.IMAGENET1K_FEATURES
            raise ValueError(f"{expected}, but {key} holds NaN or infinity. Choose other weights.")
    # Copied, because memory-mapped tensors may be aligned differently, which changes the last bits of results on a CPU.
    return {
        key: found[key].to(torch.float32 if found[key].is_floating_point() else torch.int64, copy=True)
        for key in wanted
    }
