"""Visual tokens taught to speak before any language model listens: words of the answers among its input embeddings.

For each picture, every word that is said of it is to be near one of the picture's tokens, nearer than words that are
said of the batch's other pictures. With unit vectors t_n of the tokens and e_w of the language model's own input
embeddings, s_w = τ · logsumexp_n(t_n · e_w / τ), and

    L = −mean over a picture's words w of log( exp(s_w/τ) / (exp(s_w/τ) + Σ_{v said of others only} exp(s_v/τ)) )

Contrastive in form (Radford et al. 2021, fig. 3); no language model is run, so a step costs what the connector costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.objectives.captioning import IGNORED
from chiasm.objectives.config import ObjectiveConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenWords(ObjectiveConfig):
    """The alignment of a splicing model's connector.

    Attributes:
        temperature: τ.
        common: words that are said of a larger share of a batch's pictures say nothing of any of them.
        length: weight of the tokens' lengths, which are to be those of embeddings.
    """

    temperature: float = 0.07
    common: float = 0.4
    length: float = 0.1

    def build(self) -> SpokenObjective:
        return SpokenObjective(self)


class SpokenObjective(nn.Module):
    """Rows of a batch have one picture and one answer each."""

    def __init__(self, config: SpokenWords) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch: `features` or `pixel_values` of a picture a row, `labels` (B, T)."""
        assert batch.labels is not None and len(batch.spans) == len(batch.labels), "one picture a row"
        tokens, table = visual_tokens(module, batch)
        words, said = said_words(batch.labels, self.config.common)
        loss = spoken_loss(tokens, table[words] - table.mean(0), said, self.config.temperature)
        return {"loss": loss + self.config.length * lengths(tokens, table), "words": loss.detach()}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenCells(ObjectiveConfig):
    """The same where it is known which token is to say which words: an alignment cell by cell.

    With unit vectors t of a token and e_w of the language model's input embeddings, all its words as negatives,

        L = −1/n Σ_tokens mean over its words w of log softmax_w(t · e / τ),   n = tokens that say something

    Attributes:
        temperature: τ.
        length: see `SpokenWords`.
    """

    takes: ClassVar[str | None] = "cells"
    temperature: float = 0.07
    length: float = 0.1

    def build(self) -> SpokenCellsObjective:
        return SpokenCellsObjective(self)


class SpokenCellsObjective(nn.Module):
    """`labels` (B, N, W) name each token's words; where the first is 0 there is nothing to say."""

    def __init__(self, config: SpokenCells) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch; `named` is how many tokens say their first word louder than any other's."""
        assert batch.labels is not None
        tokens, table = visual_tokens(module, batch)
        close = F.normalize(tokens, dim=-1) @ F.normalize(table - table.mean(0), dim=-1).T  # (B, N, V)
        spoken = (close / self.config.temperature).log_softmax(-1)
        words, said = batch.labels, batch.labels != IGNORED
        each = spoken.gather(-1, words.clamp(min=0)).masked_fill(~said, 0.0).sum(-1) / said.sum(-1)  # (B, N)
        full = words[..., 0] > 0
        loss = -each.sum() / full.sum().clamp(min=1)
        firsts = words[..., 0].unique()
        named = (firsts[close.detach()[full][:, firsts].argmax(-1)] == words[..., 0][full]).float().mean()
        return {"loss": loss + self.config.length * lengths(tokens, table), "words": loss.detach(), "named": named}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


def visual_tokens(module: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N, D) tokens of pictures, one a row, and (V, D), the language model's input embeddings, as they are."""
    features = batch.features_by(module.visual_features)
    return module.connector(features).float(), module.language.embed_tokens.weight.detach().float()


def lengths(tokens: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """How far tokens are from being as long as embeddings."""
    return (tokens.norm(dim=-1) / table.norm(dim=-1).mean() - 1).square().mean()


def said_words(labels: torch.Tensor, common: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The different words of a batch's answers, (W,) ids, and (B, W) bool, who says which.

    Args:
        labels: (B, T), `IGNORED` where nothing is said.
        common: a larger share of rows that say a word leaves the word out.
    """
    words = labels[labels != IGNORED].unique()
    said = (labels[:, :, None] == words).any(1)
    kept = said.float().mean(0) <= common
    return words[kept], said[:, kept]


def spoken_loss(tokens: torch.Tensor, words: torch.Tensor, said: torch.Tensor, temperature: float) -> torch.Tensor:
    """See the module.

    Args:
        tokens: (B, N, D) of the pictures.
        words: (W, D).
        said: (B, W) bool.
        temperature: τ.
    """
    close = F.normalize(tokens, dim=-1) @ F.normalize(words, dim=-1).T / temperature  # (B, N, W)
    scores = close.logsumexp(1)  # (B, W)
    others = scores.masked_fill(said, -torch.inf).logsumexp(1, keepdim=True)
    return F.softplus(others - scores)[said].mean()
