"""From a frozen classifier into a text encoder's space: known concepts by name, the rest by what was learned.

A classifier that knows K classes places a picture at the mean of their names' vectors, weighted by its probabilities
(ConSE, Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings", eq. 5); an MLP on the
classifier's features adds what the classes don't name:
    y = u(MLP((f - μ) / σ)) + g Σ_k softmax(t l)_k (c_k - c̄)        u(v) = v / |v|
The second term is short where the classifier is unsure (its classes then cancel), and the MLP decides; it is long where
one class is certain, as in photographs of everyday things. Departures from ConSE: all classes instead of the ten most
probable, vectors centred, temperature t and weight g learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptHeadConfig:
    """A head on a classifier.

    Attributes:
        input_dim: width of the features f.
        num_concepts: K, classes.
        hidden_dim: M, of the MLP.
        output_dim: E, the text encoder's width.
        input_dropout, dropout: of the standardised features and of the MLP's hidden layer, in training.
        init_weight: g at first.
    """

    input_dim: int
    num_concepts: int
    hidden_dim: int
    output_dim: int
    input_dropout: float = 0.2
    dropout: float = 0.5
    init_weight: float = 2.5

    def build(self) -> ConceptHead:
        return ConceptHead(self)


class ConceptHead(nn.Module):
    """Features and class logits → one vector in the text encoder's space."""

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    concepts: torch.Tensor

    def __init__(self, config: ConceptHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("feature_mean", torch.zeros(config.input_dim))
        self.register_buffer("feature_std", torch.ones(config.input_dim))
        self.register_buffer("concepts", torch.zeros(config.num_concepts, config.output_dim))
        self.input_dropout, self.dropout = nn.Dropout(config.input_dropout), nn.Dropout(config.dropout)
        self.fc1 = nn.Linear(config.input_dim, config.hidden_dim)
        self.fc2 = nn.Linear(config.hidden_dim, config.output_dim)
        self.log_temperature = nn.Parameter(torch.tensor(0.0))
        self.weight = nn.Parameter(torch.tensor(config.init_weight))

    def init_weights(self) -> None:
        """Draw concepts as though they were names' vectors; a recipe sets the real ones."""
        nn.init.normal_(self.concepts, std=self.config.output_dim**-0.5)

    def standardise(self, features: torch.Tensor) -> None:
        """Set μ and σ from features (N, input_dim); rare channels are kept from being blown up."""
        spread = features.std(0)
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(spread + 0.05 * features.std())

    def name_concepts(self, vectors: torch.Tensor) -> None:
        """Set the concepts from their names' L2-normalised vectors (K, E)."""
        self.concepts.copy_(vectors - vectors.mean(0))

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Place pictures among texts.

        Args:
            features: (B, input_dim).
            logits: (B, K) class scores.

        Returns:
            (B, E), not normalised.
        """
        x = self.input_dropout((features - self.feature_mean) / self.feature_std)
        learned = F.normalize(self.fc2(self.dropout(F.gelu(self.fc1(x)))), dim=-1)
        named = (logits * self.log_temperature.exp()).softmax(-1) @ self.concepts
        return learned + self.weight * named
