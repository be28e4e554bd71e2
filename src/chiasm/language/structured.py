"""A log-bilinear language model gated by content and structure: SC-NLM (Kiros et al. 2014, "VSE", §3.1–3.3).

    r̂ = Σ_i C⁽ⁱ⁾ E w_{n−i}                             over the `context` words before word n
    û = ReLU(Σ_j T⁽ʲ⁾ t_{n+j} + T_u u + b)             structure of word n and the `ahead` words after it; content
    f = (W^fk r̂) ∘ (W^fd û),   E = (W^fk)ᵀ W^fv
    P(w_n = v) ∝ exp(W^fvᵀ_v f + b_v)

The gate multiplies, so the content decides which words are near and the structure (a kind of word for every place, such
as its part of speech) which of them fits here. Kinds are numbers; 0 is "no word", what stands behind the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class StructuredConfig:
    """An SC-NLM.

    Attributes:
        vocab_size, num_kinds: V words, and kinds of words with 0 for "no word".
        content_dim: E of the joint space that the content comes from.
        hidden_dim: K, width of a word.
        gate_dim: G, width of the gate.
        factor_dim: F.
        context: words before that are looked at.
        ahead: words after whose kinds are known.
    """

    vocab_size: int
    num_kinds: int
    content_dim: int
    hidden_dim: int = 300
    gate_dim: int = 300
    factor_dim: int = 300
    context: int = 5
    ahead: int = 3

    def build(self) -> StructuredWriter:
        return StructuredWriter(self)


class StructuredWriter(nn.Module):
    """Content and a sequence of kinds → words."""

    def __init__(self, config: StructuredConfig) -> None:
        super().__init__()
        self.config = config
        factors, width = config.factor_dim, config.hidden_dim
        self.word_factors = nn.Parameter(torch.empty(factors, config.vocab_size))  # W^fv
        self.state_factors = nn.Parameter(torch.empty(factors, width))  # W^fk
        self.gate_factors = nn.Parameter(torch.empty(factors, config.gate_dim))  # W^fd
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.context = nn.Parameter(torch.empty(config.context, width, width))  # C, the nearest word first
        self.kinds = nn.ModuleList(nn.Embedding(config.num_kinds, config.gate_dim) for _ in range(1 + config.ahead))
        self.content_proj = nn.Linear(config.content_dim, config.gate_dim)  # T_u and b
        self.init_weights()

    def init_weights(self) -> None:
        """Small numbers."""
        for tensor in (self.word_factors, self.state_factors, self.gate_factors):
            nn.init.normal_(tensor, std=tensor.shape[0] ** -0.5)
        nn.init.normal_(self.context, std=0.5 * (self.config.context * self.config.hidden_dim) ** -0.5)
        for kind in self.kinds:
            assert isinstance(kind, nn.Embedding)
            nn.init.normal_(kind.weight, std=0.1)

    def gate(self, kinds: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
        """û of every place.

        Args:
            kinds: (B, T), 0 = no word.
            content: (B, E).

        Returns:
            (B, T, G).
        """
        ahead = F.pad(kinds, (0, self.config.ahead))
        total = self.content_proj(content)[:, None]
        for offset, table in enumerate(self.kinds):
            shown = ahead[:, offset : offset + kinds.shape[1]]
            total = total + table(shown).masked_fill((shown == 0)[..., None], 0.0)
        return total.relu()

    def scores(self, before: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Next words.

        Args:
            before: (B, context) ids of the words before, the nearest first; −1 = there is none.
            gate: (B, G).

        Returns:
            (B, V) logits.
        """
        vectors = F.embedding(before.clamp(min=0), (self.state_factors.T @ self.word_factors).T)  # (B, context, K)
        vectors = vectors.masked_fill((before < 0)[..., None], 0.0)
        state = torch.einsum("bck,cjk->bj", vectors, self.context)
        factors = (state @ self.state_factors.T) * (gate @ self.gate_factors.T)
        return factors @ self.word_factors + self.word_bias

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
        """Every word from those before it, its structure and the content.

        Args:
            ids: (B, T), a start id first, right-padded with anything.
            kinds: (B, T − 1), of the words after the start; 0 behind the last.
            content: (B, E), a picture's or a text's place in the joint space.

        Returns:
            (B, T − 1, V) logits of the words after the start.
        """
        count, context = ids.shape[1] - 1, self.config.context
        padded = F.pad(ids, (context - 1, 0), value=-1)
        windows = padded.unfold(1, context, 1)[:, :count].flip(-1)  # (B, T − 1, context), the nearest first
        gate = self.gate(kinds, content)
        return self.scores(windows.flatten(0, 1), gate.flatten(0, 1)).unflatten(0, windows.shape[:2])

    @torch.inference_mode()
    def write(self, content: torch.Tensor, kinds: torch.Tensor, start_id: int) -> torch.Tensor:
        """The likeliest word at every place, one after the other; the structure says how many there are.

        Args:
            content: (B, E).
            kinds: (B, T), 0 behind the last word.
            start_id: what stands before the first word.

        Returns:
            (B, T) ids; −1 where the structure has no word.
        """
        gate, context = self.gate(kinds, content), self.config.context
        ids = content.new_full((len(content), 1), start_id, dtype=torch.long)
        for place in range(kinds.shape[1]):
            before = F.pad(ids, (context, 0), value=-1)[:, -context:].flip(-1)
            ids = torch.cat((ids, self.scores(before, gate[:, place]).argmax(-1, keepdim=True)), 1)
        return ids[:, 1:].masked_fill(kinds == 0, -1)
