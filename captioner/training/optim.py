"""Parameter groups and the learning-rate schedule. Both are functions of their arguments alone, so a resumed run needs
nothing of them but the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from captioner.model import CaptionModel


def build_optimizer(
    model: CaptionModel, learning_rate: float, encoder_learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over whatever learns. Each group keeps its `peak` learning rate; only
    matrices decay, and embeddings do not. Not the fused kind: on a CPU a resumed run then differed in the last bits."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups = []
    for part, peak in ((model.decoder, learning_rate), (model.encoder, encoder_learning_rate)):
        learning = [parameter for parameter in part.parameters() if parameter.requires_grad]
        decays = [parameter for parameter in learning if parameter.dim() > 1 and id(parameter) not in embeddings]
        decaying = {id(parameter) for parameter in decays}
        others = [parameter for parameter in learning if id(parameter) not in decaying]
        groups += [{"params": decays, "peak": peak, "weight_decay": weight_decay}]
        groups += [{"params": others, "peak": peak, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, 0.98))


def schedule(step: int, steps: int, warmup: float, floor: float = 0.02) -> float:
    """The share of the peak learning rate at `step` of `steps`: a linear rise over the share `warmup` of the steps,
    then half a cosine down to `floor` (Loshchilov and Hutter 2017, eq. 5)."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's moments as named tensors, for a file."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
