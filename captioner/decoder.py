"""The word decoder: a recurrent network whose first input is the photo and whose next inputs are words, with Luong's
global attention over the photo's grid after every step. With `memory=None` it is a plain language model. The CNN and
the search are elsewhere.

Shapes: B photos, C captions (or hypotheses) per photo, N = B·C rows, T tokens, V vocabulary, R image regions, D feature
size, E embedding size, H hidden size, L layers of a stack, Q = C·T queries of a photo.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.encoder import Features
from captioner.vocabulary import PAD

State = tuple[Tensor, ...]  # the recurrent state of every stack of layers, each (L, N, H)

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
ATTENTIONS = ("general", "dot", "concat", "none")
EMBEDDING_SCALE = 0.5  # root mean square of new word vectors; with smaller values training starts slowly


class Memory(NamedTuple):
    """What the decoder needs of B photos, computed once per photo and shared by all its rows."""

    values: Tensor  # (B, R, D) averaged by the attention
    keys: Tensor  # (B, R, H) compared with the hidden state
    image: Tensor  # (B, E) the image embedding, which is the first input of the recurrent network

    def select(self, images: Tensor) -> Memory:
        return Memory(*(part[images] for part in self))


class Attention(nn.Module):
    """Luong's global attention (Luong, Pham, Manning 2015, "Effective Approaches to Attention-based Neural Machine
    Translation", section 3.1). It scores a hidden state h against each region v in one of three ways (eq. 8):

        dot      hᵀ v              (the grid is first projected to the hidden size, so that the sizes agree)
        general  hᵀ W_a v
        concat   v_aᵀ tanh(W_a [h; v])

    The first two are divided by the square root of the hidden size (Vaswani et al. 2017, section 3.2.1). Without this
    scaling the softmax soon puts nearly all its weight on one region, and training is slow. Everything that does not
    depend on h is computed once per photo, in `project`.
    """

    def __init__(self, score: str, feature_size: int, hidden_size: int):
        super().__init__()
        if score not in ("dot", "general", "concat"):
            raise ValueError(f"unknown attention score {score!r}; there are: {', '.join(ATTENTIONS)}")
        self.score = score
        self.value_size = hidden_size if score == "dot" else feature_size
        self.key = nn.Linear(feature_size, hidden_size, bias=score == "concat")  # W_a, or its half that multiplies v
        if score == "concat":
            self.query = nn.Linear(hidden_size, hidden_size, bias=False)  # the half of W_a that multiplies h
            self.v = nn.Parameter(torch.empty(hidden_size).uniform_(-1, 1) / hidden_size**0.5)

    def project(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Grid (B, R, D) -> values (B, R, D or H), keys (B, R, H)."""
        keys = self.key(grid)
        return (keys if self.score == "dot" else grid), keys

    def forward(self, hidden: Tensor, values: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, Q, H) -> contexts (B, Q, D), weights (B, Q, R). With Q = C·T, all hidden states of a photo
        take one matrix product."""
        if self.score == "concat":
            summed = self.query(hidden)[:, :, None] + keys[:, None]  # (B, Q, R, H)
            scores = torch.tanh(summed) @ self.v  # (B, Q, R)
        else:
            scores = hidden @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5  # (B, Q, R)
        weights = scores.softmax(dim=-1)
        return weights @ values, weights


def drop_channels(features: Features, dropout: nn.Dropout) -> Features:
    """Pooled (B, D_p) and grid (B, R, D) features -> the same, with the channels of each photo dropped in all its
    regions at once (SpatialDropout; Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks").
    In most CNNs the pooled features are the mean of the grid, so the same channels are dropped from both. If the sizes
    differ (VGG, AlexNet, MobileNetV3), the pooled channels are dropped independently."""
    if not (dropout.training and dropout.p):
        return features  # keeps it out of exported graphs
    pooled, grid = features
    of_pooled = dropout(torch.ones_like(pooled))  # (B, D_p)
    of_grid = of_pooled if pooled.shape[1] == grid.shape[2] else dropout(torch.ones_like(grid[:, 0]))  # (B, D)
    return Features(pooled * of_pooled, grid * of_grid[:, None])


class Decoder(nn.Module):
    """Recurrent layers, attention over the grid, recurrent layers again, and logits of the next word.

    The order follows Luong et al., section 3. The hidden state h of the layers *below* the attention gives a context c,
    and h̃ = tanh(W_c [c; h]) (eq. 5) predicts the word. Layers *above* the attention take h̃ as their input, so their
    state carries what was attended to before; their output is added to h̃ (a residual connection). h̃ is not fed back
    to the layers below, so a stack reads a whole caption in one call. The photo is fed once, as the first input of the
    layers below, as in Vinyals et al. 2015 ("Show and Tell", eq. 10-12).
    """

    def __init__(
        self,
        vocabulary_size: int,
        pooled_size: int,
        grid_size: int,
        embedding_size: int = 300,
        hidden_size: int = 512,
        cell: str = "lstm",
        layers_below: int = 1,
        layers_above: int = 1,
        attention: str = "general",
        dropout: float = 0.0,
        tie_embeddings: bool = False,
        feature_dropout: float = 0.0,
    ):
        """`attention` is a score of `Attention`, or `none` for the decoder of Show and Tell, which sees the photo once.
        With `pooled_size` and `grid_size` 0 the decoder is a language model without weights for photos.
        `tie_embeddings` uses the input embeddings as the output layer (Press and Wolf 2017). `feature_dropout` is the
        probability with which `drop_channels` drops a channel in training. Raises ValueError for an unknown name or a
        wrong number of layers."""
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"unknown recurrent cell {cell!r}; there are: {', '.join(CELLS)}")
        if layers_below < 1 or layers_above < 0:
            raise ValueError(
                f"layers_below must be at least 1 and layers_above at least 0, got {layers_below} and {layers_above}"
            )

        def stack(input_size: int, layers: int) -> nn.RNNBase:
            return CELLS[cell](
                input_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
            )

        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=PAD)
        if pooled_size:
            self.first = nn.Linear(pooled_size, embedding_size)  # the image embedding; this name is in checkpoints
        self.below = stack(embedding_size, layers_below)
        reads_grid = bool(grid_size) and attention != "none"
        self.attention = Attention(attention, grid_size, hidden_size) if reads_grid else None
        if self.attention is not None:
            self.combine = nn.Linear(self.attention.value_size + hidden_size, hidden_size, bias=False)  # W_c
        self.above = stack(hidden_size, layers_above) if layers_above else None
        self.tie_embeddings = tie_embeddings
        if tie_embeddings:
            self.to_embedding = nn.Linear(hidden_size, embedding_size)
            self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        else:
            self.output = nn.Linear(hidden_size, vocabulary_size)
        self.dropout = nn.Dropout(dropout)
        self.feature_dropout = nn.Dropout(feature_dropout)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_SCALE)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            for stack in (self.below, self.above):
                if isinstance(stack, nn.LSTM):
                    # Forget-gate bias 1 (Jozefowicz et al. 2015): torch has two biases and orders gates i, f, g, o.
                    for layer in range(stack.num_layers):
                        forget = slice(stack.hidden_size, 2 * stack.hidden_size)
                        getattr(stack, f"bias_ih_l{layer}")[forget] = 1.0
                        getattr(stack, f"bias_hh_l{layer}")[forget] = 0.0

    def prepare(self, features: Features) -> Memory:
        """Pooled (B, D) and grid (B, R, D) features -> what every step needs of the photos."""
        features = drop_channels(features, self.feature_dropout)
        image = self.first(features.pooled)  # (B, E)
        if self.attention is None:
            nothing = features.grid[:, :0]  # (B, 0, D)
            return Memory(nothing, nothing, image)
        values, keys = self.attention.project(features.grid)
        return Memory(values, keys, image)

    def forward(
        self,
        tokens: Tensor,
        memory: Memory | None = None,
        state: State | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, State]:
        """Tokens (N, T) -> logits of the next tokens (N, T, V), attention (N, T, R) or None, and the state after them.

        `memory` holds B photos, and N must be a multiple of B: rows i·N/B to (i+1)·N/B - 1 belong to photo i, as its
        captions or its hypotheses. Without a `state` the photo is the input before the tokens, and the first token is
        BOS. With a `state` the tokens continue from it, so feeding a caption word by word gives the same result as one
        call. `real` (N, T) is true where logits are wanted, normally at all positions that are not padding. If given,
        the logits are (number of true positions, V), row by row. Without `memory` this is a language model: no photo,
        no attention.
        """
        hidden, attention, state = self.hidden_states(tokens, memory, state)
        if real is not None:
            hidden = hidden[real]  # (real positions, H)
        return self.logits(hidden), attention, state

    def hidden_states(
        self, tokens: Tensor, memory: Memory | None = None, state: State | None = None
    ) -> tuple[Tensor, Tensor | None, State]:
        """`forward` without its last layer: hidden states (N, T, H), to be passed to `logits`, then the attention and
        the state."""
        if memory is not None:
            N, B = tokens.shape[0], memory.values.shape[0]
            assert N % B == 0, f"{N} rows over {B} photos; expected the same number per photo"
        inputs = self.embedding(tokens)  # (N, T, E)
        photo_first = memory is not None and state is None
        if memory is not None and photo_first:
            image = memory.image.repeat_interleave(len(tokens) // len(memory.image), dim=0)  # (N, E)
            inputs = torch.cat([image[:, None], inputs], dim=1)  # (N, 1+T, E)
        hidden, attention, state = self._run_layers(inputs, memory, state)
        if photo_first:
            hidden = hidden[:, 1:]
            attention = None if attention is None else attention[:, 1:]
        return hidden, attention, state

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, H) -> logits of the next words (…, V)."""
        hidden = self.dropout(hidden)
        if self.tie_embeddings:
            return F.linear(self.to_embedding(hidden), self.embedding.weight, self.bias)
        return self.output(hidden)

    def initial_state(self, memory: Memory) -> State:
        """The state after the photo and before any word; the first token after it is BOS."""
        return self._run_layers(memory.image[:, None], memory, None)[2]

    def _run_layers(
        self, inputs: Tensor, memory: Memory | None, state: State | None
    ) -> tuple[Tensor, Tensor | None, State]:
        """Inputs (N, T, E) -> the hidden states that words are predicted from (N, T, H), the attention, and the new
        state."""
        state_below, state_above = self._split(state)
        hidden, state_below = self.below(self.dropout(inputs), state_below)
        attention = None
        if memory is not None and self.attention is not None:
            photos = memory.values.shape[0]  # len() would fix the number in an exported graph
            queries = hidden.reshape(
                photos, -1, hidden.shape[-1]
            )  # (B, Q, H): the captions of a photo one after the other
            context, weights = self.attention(queries, memory.values, memory.keys)
            context = context.reshape(*hidden.shape[:2], -1)  # (N, T, D)
            attention = weights.reshape(*hidden.shape[:2], -1)  # (N, T, R)
            hidden = torch.tanh(self.combine(torch.cat([context, hidden], dim=-1)))  # h̃, eq. 5
        if self.above is not None:
            output, state_above = self.above(self.dropout(hidden), state_above)
            hidden = hidden + output
        return hidden, attention, self._join(state_below, state_above)

    def _split(self, state: State | None) -> tuple:
        """The flat state -> the states of the torch layers below and above: (h, c) for an LSTM, h for the others."""
        if state is None:
            return None, None
        if isinstance(self.below, nn.LSTM):
            return state[:2], state[2:] or None
        return state[0], (state[1] if len(state) > 1 else None)

    def _join(self, *states: Tensor | tuple[Tensor, ...] | None) -> State:
        parts = [(state,) if isinstance(state, Tensor) else (state or ()) for state in states]
        return tuple(tensor for part in parts for tensor in part)
