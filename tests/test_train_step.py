"""One step of training against the same step written by hand, accumulation against the large batch, terms and figures,
and the grammar of stages."""

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captioner.config import ModelConfig
from captioner.data.datasets import Batch
from captioner.model import build_model
from captioner.training.config import Stage, TrainConfig, parse_stage
from captioner.training.loop import step_means, train_step
from captioner.training.objectives import Loss, WithTerms
from captioner.training.objectives.cross_entropy import CrossEntropy
from captioner.training.optim import build_optimizer, restore_optimizer
from captioner.training.run import Progress
from captioner.vocabulary import BOS, EOS, PAD

DROPOUT, SMOOTHING, CLIP, RATE, ENCODER_RATE, DECAY = 0.4, 0.1, 0.05, 1e-2, 1e-3, 0.3


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr("captioner.training.loop.autocast", lambda device: nullcontext())


def make_run(dropout: float = DROPOUT, clip: float = CLIP, block: str | None = "features.12", objective=None):
    """A run of a tiny model, as far as a step needs one."""
    torch.manual_seed(0)
    config = ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=12, dropout=dropout)
    model = build_model(config, 20)
    model.encoder.unfreeze_from(block)
    parts = [(model.decoder, RATE), (model.encoder, ENCODER_RATE)]
    return SimpleNamespace(
        model=model.train(),
        objective=objective or CrossEntropy(SMOOTHING),
        optimizers={"model": build_optimizer(parts, DECAY)},
        config=TrainConfig((Path("data"),), Path("output"), clip=clip),
        progress=Progress(),
        parallel=None,
        average=None,
        device=torch.device("cpu"),
        last=Path("output/last"),
        saved=0,
    )


def make_batch(seed: int, captions: list[list[int]]) -> Batch:
    """Two captions per photo, as long as they are given."""
    length = max(map(len, captions)) + 2
    tokens = torch.full((len(captions), length), PAD)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption) + 2] = torch.tensor([BOS, *caption, EOS])
    photos = len(captions) // 2
    images = torch.randn(photos, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return Batch(images, tokens, list(range(photos)))


BATCHES = [make_batch(1, [[4, 5, 6], [7], [8, 9], [10, 11, 12, 13]]), make_batch(2, [[5, 5], [6, 7, 8], [], [19]])]


def by_hand(model, batch: Batch) -> torch.Tensor:
    """The loss of a step: captions go through the layers with dropout, and a word is predicted at each real place."""
    decoder = model.decoder
    pooled, grid = model.encoder(batch.images)
    image = decoder.first(pooled).repeat_interleave(2, dim=0)  # (N, E)
    inputs = torch.cat([image[:, None], decoder.embedding(batch.tokens[:, :-1])], dim=1)  # (N, 1+T, E)
    hidden, _ = decoder.below(F.dropout(inputs, DROPOUT))  # (N, 1+T, H)
    grid = grid.repeat_interleave(2, dim=0)  # (N, R, D)
    keys = grid @ decoder.attention.key.weight.T  # (N, R, H)
    attention = torch.softmax(hidden @ keys.transpose(1, 2) / hidden.shape[-1] ** 0.5, dim=-1)  # (N, 1+T, R)
    hidden = torch.tanh(torch.cat([attention @ grid, hidden], dim=-1) @ decoder.combine.weight.T)
    hidden = hidden + decoder.above(F.dropout(hidden, DROPOUT))[0]
    targets = batch.tokens[:, 1:]
    rows = hidden[:, 1:][targets != PAD]  # (n, H)
    logits = F.dropout(rows, DROPOUT) @ decoder.output.weight.T + decoder.output.bias  # (n, V)
    logs = logits.log_softmax(-1)
    right = logs[torch.arange(len(logs)), targets[targets != PAD]]
    return -((1 - SMOOTHING) * right + SMOOTHING * logs.mean(-1)).mean()


def test_a_step_is_the_step_written_by_hand():
    """Two steps with dropout, smoothing, clipping and AdamW (Loshchilov and Hutter 2019, algorithm 2)."""
    run = make_run()
    model = deepcopy(run.model)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("encoder.") for name in learning)
    first, second = ({name: torch.zeros_like(p) for name, p in learning.items()} for _ in range(2))  # moments
    for step, batch in enumerate(BATCHES, start=1):
        torch.manual_seed(step)
        figures = train_step(run, [batch])

        torch.manual_seed(step)
        loss = by_hand(model, batch)
        gradients = dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
        assert norm > 2 * CLIP
        with torch.no_grad():
            for name, p in learning.items():
                g = gradients[name] * CLIP / norm
                rate = RATE if name.startswith("decoder.") else ENCODER_RATE
                if p.ndim > 1 and name != "decoder.embedding.weight":
                    p -= rate * DECAY * p
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.98 * second[name] + 0.02 * g**2
                p -= rate * (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.98**step)).sqrt() + 1e-8)
        assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert figures["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
        for name, p in run.model.named_parameters():
            if name in learning:
                torch.testing.assert_close(p.grad, gradients[name] * CLIP / norm, rtol=1e-3, atol=1e-7)
                torch.testing.assert_close(p, learning[name], rtol=1e-3, atol=2e-4)


def test_accumulated_batches_are_the_large_batch():
    """Parts with 14 and 8 tokens: a mean of their means would be another loss."""
    large = make_run(dropout=0.0)
    pad = BATCHES[0].tokens.shape[1] - BATCHES[1].tokens.shape[1]
    tokens = torch.cat([BATCHES[0].tokens, F.pad(BATCHES[1].tokens, (0, pad), value=PAD)])
    whole = Batch(torch.cat([batch.images for batch in BATCHES]), tokens, [0, 1, 2, 3])
    wanted = train_step(large, [whole])
    parts = make_run(dropout=0.0)
    assert train_step(parts, BATCHES) == pytest.approx(wanted, rel=1e-4)
    for ours, theirs in zip(parts.model.parameters(), large.model.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


class Coverage(nn.Module):
    """A term with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, run, batch, forward):
        assert forward.hidden.shape[:2] == forward.real.shape and len(forward.logits) == forward.real.sum()
        looked = (forward.attention * forward.real[..., None]).sum(1)  # (N, R)
        return self.weight * ((1 - looked) ** 2).sum()


def test_terms_add_to_the_sum_and_are_logged():
    plain, term = make_run(dropout=0.0), Coverage()
    run = make_run(dropout=0.0, objective=WithTerms(CrossEntropy(SMOOTHING), {"coverage": term}))
    run.optimizers["objective"] = build_optimizer([(run.objective, 0.1)], 0.0)
    alone, both = train_step(plain, BATCHES), train_step(run, BATCHES)
    assert both["coverage"] > 0 and both["loss"] == pytest.approx(alone["loss"] + both["coverage"], rel=1e-5)
    assert term.weight.item() == pytest.approx(0.4)  # a first step of Adam has the size of its learning rate


def test_figures_are_means_over_the_whole_step():
    losses = [Loss(torch.tensor(6.0), 3, {"reward": (torch.tensor(1.0), 1)}),
              Loss(torch.tensor(2.0), torch.tensor(1), {"reward": (torch.tensor(0.0), 3)})]  # fmt: skip
    count, means = step_means(losses)
    assert count == 4 and means == {"loss": 2.0, "reward": 0.25}


def test_a_loss_that_is_not_finite_changes_nothing():
    run = make_run()
    with torch.no_grad():
        run.model.decoder.output.bias[0] = torch.nan
    before = deepcopy(run.model.state_dict())
    with pytest.raises(FloatingPointError, match=r"step 1: the loss is nan .*the batch is 0, 1\..*after step 0"):
        train_step(run, BATCHES[:1])
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_restored_moments_have_the_strides_of_their_parameters():
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer([(convolution, 0.1)], 0.0)
    moments = {"0.step": torch.tensor(3.0)} | {
        f"0.{name}": torch.randn(4, 3, 3, 3) for name in ("exp_avg", "exp_avg_sq")
    }
    restore_optimizer(optimizer, moments)
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimizer.state[convolution.weight][name]
        assert moment.stride() == convolution.weight.stride() and torch.equal(moment, moments[f"0.{name}"])
    assert optimizer.state[convolution.weight]["step"] == 3


def test_stages(monkeypatch):
    assert parse_stage("decoder:10") == Stage("decoder", 10)
    assert parse_stage("features.14:3") == Stage("features.14", 3)
    assert parse_stage("cross-entropy@decoder:5") == Stage("decoder", 5)
    monkeypatch.setattr("captioner.training.config.TERMS", ("coverage", "pointing"))
    stage = parse_stage("cross-entropy+coverage+pointing@layer4:2")
    assert stage == Stage("layer4", 2, "cross-entropy", ("coverage", "pointing"))
    assert (stage.name, stage.block) == ("cross-entropy+coverage+pointing@layer4", "layer4")
    assert (Stage("decoder", 1).name, Stage("decoder", 1).block) == ("decoder", None)
    for wrong in ("decoder", "decoder:", ":3", "decoder:0", "decoder:x", "@decoder:3", "a@b@c:3", "decoder:3:4"):
        with pytest.raises(ValueError, match=r"is not \[OBJECTIVE\[\+TERM"):
            parse_stage(wrong)
    with pytest.raises(ValueError, match="unknown objective 'self'; expected one of: cross-entropy"):
        parse_stage("self@decoder:3")
    with pytest.raises(ValueError, match="unknown term 'x'; expected one of: coverage, pointing"):
        parse_stage("cross-entropy+x@decoder:3")
    with pytest.raises(ValueError, match="adds a term twice"):
        parse_stage("cross-entropy+coverage+coverage@decoder:3")
