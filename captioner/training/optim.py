"""Parameter groups, the learning-rate schedule and the state of an optimizer in a file. The schedule is a function of
the step alone, so it has no state to resume."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def build_optimizer(parts: Iterable[tuple[nn.Module, float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the parameters that learn in `parts`, each a module with its peak
    learning rate. Only matrices decay; embeddings do not. The betas are those of Vaswani et al. 2017, section 5.3. The
    fused implementation is not used, because with it a resumed run on a CPU differed in the last bits."""
    groups = []
    for module, peak in parts:
        embeddings = {id(inner.weight) for inner in module.modules() if isinstance(inner, nn.Embedding)}
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        decays = [parameter for parameter in learning if parameter.dim() > 1 and id(parameter) not in embeddings]
        decaying = {id(parameter) for parameter in decays}
        others = [parameter for parameter in learning if id(parameter) not in decaying]
        groups += [{"params": decays, "peak": peak, "lr": peak, "weight_decay": weight_decay}]
        groups += [{"params": others, "peak": peak, "lr": peak, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments as tensors named "parameter.moment", for a file."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the moments of a file into the optimizer. Each moment gets the strides of its parameter (channels-last for a
    convolution), which a file does not keep, because sums over other strides round differently."""
    parameters = parameters_of(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
