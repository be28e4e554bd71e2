"""Recurrent sentence encoders: GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997), read at the last word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentConfig:
    """A sentence encoder.

    Attributes:
        vocab_size, context_length: V, most tokens.
        embed_dim: width of word vectors.
        hidden_dim: D of the state.
        num_layers: recurrent layers.
        lstm: LSTM cells, not GRU cells.
    """

    vocab_size: int
    context_length: int
    embed_dim: int
    hidden_dim: int
    num_layers: int = 1
    lstm: bool = False

    def build(self) -> RecurrentEncoder:
        return RecurrentEncoder(self)


class RecurrentEncoder(nn.Module):
    """Token ids → the state after the last real word."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embed = nn.Embedding(config.vocab_size, config.embed_dim)
        cell = nn.LSTM if config.lstm else nn.GRU
        self.rnn = cell(config.embed_dim, config.hidden_dim, config.num_layers, batch_first=True)

    def init_weights(self) -> None:
        """Word vectors within ±0.1, as the reference draws them."""
        nn.init.uniform_(self.token_embed.weight, -0.1, 0.1)

    def forward(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """Read right-padded texts.

        Args:
            ids: (B, T).
            attend: (B, T) bool, True = a real token; None = no padding.

        Returns:
            (B, D).
        """
        states, _ = self.rnn(self.token_embed(ids))  # padding comes after the last word and can't reach it
        last = ids.new_full((len(ids),), ids.shape[1] - 1) if attend is None else attend.sum(1) - 1
        return states[torch.arange(len(ids), device=ids.device), last]
