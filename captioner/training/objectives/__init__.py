"""What a training step minimises. An objective is a module: called with the run and a batch, it returns a `Loss`. Each
objective is one file here, named as on the command line, with a function `build(run)` that makes it; its name is listed
in `training.config.OBJECTIVES`. A term (`TERMS`) is a module that can be added to any objective: it gets the
objective's forward pass and returns a sum. An objective or a term may have parameters of its own (a discriminator, a
word classifier), which are trained by the optimizer named "objective" and saved in last/. An objective may have a
`learning_rate_scale`, a factor for the learning rates of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from captioner.encoder import Features
from captioner.training.config import Stage

if TYPE_CHECKING:
    from captioner.training.run import Run


class Forward(NamedTuple):
    """An objective's forward pass over captions, as input of the added terms."""

    features: Features  # pooled (B, D), grid (B, R, D)
    hidden: Tensor  # (N, T, H), what the next words are predicted from
    attention: Tensor | None  # (N, T, R); None for a decoder without attention
    logits: Tensor  # (n, V), of the n real tokens, row by row
    targets: Tensor  # (N, T), the words that were to be predicted
    real: Tensor  # (N, T), False where there is padding


@dataclass(frozen=True)
class Loss:
    """A sum of losses and the number of tokens in it. The step divides by the count of the whole step, so padding,
    accumulation and the number of processes do not bias it."""

    sum: Tensor  # scalar, in nats
    count: Tensor | int  # of tokens
    figures: Mapping[str, tuple[Tensor, Tensor | int]] = field(default_factory=dict)  # other means to log: sum, count
    forward: Forward | None = None


class WithTerms(nn.Module):
    """An objective with terms added to it. A term is called as term(run, batch, forward) and returns a weighted sum
    over the captions of the batch; its share of the loss is logged under its name."""

    def __init__(self, objective: nn.Module, terms: Mapping[str, nn.Module]):
        super().__init__()
        self.objective = objective
        self.terms = nn.ModuleDict(dict(terms))

    def forward(self, run: Run, batch: Any) -> Loss:
        loss = self.objective(run, batch)
        total, figures = loss.sum, dict(loss.figures)
        for name, term in self.terms.items():
            added = term(run, batch, loss.forward)
            total, figures[name] = total + added, (added.detach(), loss.count)
        return replace(loss, sum=total, figures=figures)


def learning_rate_scale(objective: nn.Module) -> float:
    """The factor for the learning rates of stages that minimise the objective."""
    if isinstance(objective, WithTerms):
        objective = objective.objective
    return getattr(objective, "learning_rate_scale", 1.0)


def build_objective(stage: Stage, run: Run) -> nn.Module:
    """The objective of a stage, with its terms, on the device of the model."""

    def build(name: str) -> nn.Module:
        return import_module(f"{__name__}.{name.replace('-', '_')}").build(run)

    objective = build(stage.objective)
    if stage.terms:
        objective = WithTerms(objective, {name: build(name) for name in stage.terms})
    return objective.to(run.device)
