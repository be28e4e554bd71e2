"""Visual tokens taught to speak before any language model listens: words of the answers among its input embeddings.

For each picture, every word that is said of it is to be near one of the picture's tokens, nearer than words that are
said of the batch's other pictures. With unit vectors t_n of the tokens and e_w of the language model's own input
embeddings, s_w = τ · logsumexp_n(t_n · e_w / τ), and

    L = −mean over a picture's words w of log( exp(s_w/τ) / (exp(s_w/τ) + Σ_{v said of others only} exp(s_v/τ)) )

Contrastive in form (Radford et al. 2021, fig. 3); no language model is run, so a step costs what the connector costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        features = batch.features
        if features is None:
            assert batch.pixel_values is not None
            features = module.visual_features(batch.pixel_values)
        tokens = module.connector(features).float()  # (B, N, D)
        table = module.language.embed_tokens.weight.detach().float()
        words, said = said_words(batch.labels, self.config.common)
        loss = spoken_loss(tokens, table[words] - table.mean(0), said, self.config.temperature)
        lengths = (tokens.norm(dim=-1) / table.norm(dim=-1).mean() - 1).square().mean()
        return {"loss": loss + self.config.length * lengths, "words": loss.detach()}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


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
