"""A language model reads text segment by segment and predicts each next token: truncated back-propagation through time
(Williams and Peng 1990). The state at the end of a segment is carried to the next one, detached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captioner import distributed
from captioner.data.text import Segment, reset
from captioner.decoder import Decoder, State
from captioner.training.objectives import Loss
from captioner.training.objectives.cross_entropy import cross_entropy
from captioner.vocabulary import PAD

if TYPE_CHECKING:
    from captioner.training.text_run import TextBatch, TextRun


def segment_loss(decoder: Decoder, segment: Segment, state: State | None) -> tuple[Tensor, State | None]:
    """The summed cross-entropy of a segment's tokens in nats, and the state after it. The state of a row is reset where
    a document starts."""
    hidden = []
    for part in segment.parts():
        states, _, state = decoder.hidden_states(part.inputs, None, reset(state, part.starts[:, 0]))
        hidden.append(states)
    real = segment.targets != PAD
    logits = decoder.logits(torch.cat(hidden, dim=1)[real])  # (n, V)
    return cross_entropy(logits, segment.targets[real]), state


class NextToken(nn.Module):
    """The cross-entropy of each next token. If `carries`, the state is kept for the next segment; with several
    processes, each keeps that of its own streams."""

    def __init__(self, carries: bool = True) -> None:
        super().__init__()
        self.carries = carries
        self.state: State | None = None

    def forward(self, run: TextRun, batch: TextBatch) -> Loss:
        state = None
        if batch.continues:
            assert self.state is not None
            state = tuple(part.to(run.device) for part in self.state)
        total, state = segment_loss(run.model, batch.segment, state)
        assert state is not None
        self.state = tuple(part.detach() for part in state) if self.carries else None
        return Loss(total, (batch.segment.targets != PAD).sum())

    def get_extra_state(self) -> Any:
        """The state of all streams, (L, B, H), gathered from the processes, so all of them have to call this."""
        shares = distributed.gather(self.state and tuple(part.cpu() for part in self.state))
        if shares[0] is None:
            return None
        return tuple(distributed.join(parts, dim=1) for parts in zip(*shares, strict=True))

    def set_extra_state(self, state: Any) -> None:
        self.state = state and tuple(part[:, distributed.rank() :: distributed.count()] for part in state)


def build(run: TextRun) -> NextToken:
    return NextToken(run.config.document == "file")
