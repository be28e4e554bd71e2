"""A connector that speaks in soft words: every thing it finds becomes a few mixtures of real input embeddings.

    h = W₁ LN((x − shift) · scale) + p;   h ← blocks(h);   z = W₂ LN(h) / ‖W₂ LN(h)‖
    π_v = softmax(t z · m_v)              for the vocabularies of what a thing is and where it is
    n_i = Σ_j |π_j| ⟨√π̂_i, √π̂_j⟩          while learning: how many are like the thing in cell i, over all cells j
    π_k = softmax(−s (n − k)²)            for the vocabulary of counts k = 1, 2, …
    token = Σ_w π_vw e_vw

|π| is the probability that a cell holds anything and π̂ its names alone, so that ⟨√π̂_i, √π̂_j⟩ (Bhattacharyya's
coefficient) is 1 for two cells with the same doubts about the same thing. x are a frozen tower's features of one cell,
p is a learned position, the blocks are self-attention over the cells. m_vw are unit vectors that stand for word w, e_vw
the language model's own input embeddings of its tokens: what the language model reads lies among what it knows how to
read, as in AlignVLM (Masry et al. 2025), whose mixtures are over the whole vocabulary. Only the `num_slots` cells that
most probably hold something are spoken of, in reading order, so a picture costs num_slots × (tokens of a phrase).

When it speaks, it counts what it found instead of adding up probabilities, which come out too low for scenes it
hasn't trained on: a cell is found when it holds something more surely than its eight neighbours, and the nine of them
add up to more than `LEAST`; there, "nothing" is believed less by a fitted `doubt`. Beside a surer one a cell is
found, too, when it holds something for certain: by more than `CERTAIN`, with "nothing" believed more by `STRICT`.
Names are weighed by how often the whole picture says them, and found things of one most probable name are alike. The
numbers were fitted on validation scenes.

The first vocabulary has one more entry, "nothing", with vectors of its own; an empty cell's phrase is that. Counts
are never words that the blocks could learn by heart: of learned counts, 93 % came out right for things in training
scenes and 77 % in other ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.mlp import MLPConfig

LEAST = 0.2  # what a cell and its neighbours must add up to for a thing to be there
CERTAIN, STRICT = 0.8, 2.0  # what a cell must hold to be found beside a surer one, and how much more "nothing" counts
OWN = 0.1  # a name's weight beside how often the picture says it


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftWordsConfig:
    """A soft-word connector.

    Attributes:
        input_dim: width of a cell's features.
        output_dim: D of the language model.
        num_positions: P, cells of a picture.
        hidden_dim: width in between.
        num_layers: self-attention blocks.
        num_heads: of each block.
        words: size of each vocabulary: names, places, counts.
        tokens: tokens of a word, by vocabulary.
        num_slots: cells that are spoken of.
        doubt: what the logit of "nothing" is lowered by when it speaks; fitted on validation scenes.
    """

    input_dim: int
    output_dim: int
    num_positions: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    words: tuple[int, int, int]
    tokens: tuple[int, int, int]
    num_slots: int
    doubt: float = 0.0

    @property
    def num_tokens(self) -> int:
        """N, visual tokens of a picture."""
        return self.num_slots * sum(self.tokens)

    def build(self) -> SoftWordConnector:
        return SoftWordConnector(self)

    def block(self) -> BlockConfig:
        attention = AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads)
        mlp = MLPConfig(input_dim=self.hidden_dim, hidden_dim=4 * self.hidden_dim)
        return BlockConfig(attention=attention, mlp=mlp, norm_eps=1e-5)


class SoftWordConnector(nn.Module):
    """Cells → phrases of soft words."""

    shift: torch.Tensor
    scale: torch.Tensor
    match_0: torch.Tensor
    match_1: torch.Tensor
    phrase_0: torch.Tensor
    phrase_1: torch.Tensor
    phrase_2: torch.Tensor

    def __init__(self, config: SoftWordsConfig) -> None:
        super().__init__()
        self.config = config
        width, dim = config.hidden_dim, config.output_dim
        self.register_buffer("shift", torch.zeros(config.input_dim))
        self.register_buffer("scale", torch.ones(config.input_dim))
        self.norm_in = nn.LayerNorm(config.input_dim)
        self.proj_in = nn.Linear(config.input_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_positions, width))
        self.blocks = nn.ModuleList(config.block().build() for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, dim)
        self.nothing = nn.Parameter(0.05 * torch.randn(dim))
        self.log_scale = nn.Parameter(torch.tensor([3.0]))
        self.log_sharpness = nn.Parameter(torch.tensor([0.0]))
        self.silence = nn.Parameter(0.02 * torch.randn(sum(config.tokens), dim))
        for index, (words, tokens) in enumerate(zip(config.words, config.tokens, strict=True)):
            self.register_buffer(f"phrase_{index}", torch.randn(words, tokens, dim))
            if index < 2:
                self.register_buffer(f"match_{index}", F.normalize(torch.randn(words, dim), dim=-1))

    def standardise(self, features: torch.Tensor) -> None:
        """Set shift and scale from a sample: (…, input_dim) features."""
        flat = features.flatten(0, -2).float()
        self.shift.copy_(flat.mean(0))
        self.scale.copy_(1 / (flat.std(0) + 1e-3))

    def set_words(self, vocabulary: int, phrases: torch.Tensor, match: torch.Tensor | None) -> None:
        """Set one vocabulary: (words, tokens, D) input embeddings, and (words, D) unit vectors but for counts."""
        getattr(self, f"phrase_{vocabulary}").copy_(phrases)
        if match is not None:
            getattr(self, f"match_{vocabulary}").copy_(match)

    def directions(self, features: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim) features → (B, P, D) unit vectors."""
        x = self.proj_in(self.norm_in((features - self.shift) * self.scale)) + self.positions
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.proj_out(self.norm_out(x)), dim=-1)

    def logits(self, directions: torch.Tensor) -> list[torch.Tensor]:
        """(B, P, D) float32 directions → (B, P, words) of each vocabulary; the first ends with "nothing"."""
        scaled = self.log_scale.exp() * directions
        what = scaled @ torch.cat((self.match_0, F.normalize(self.nothing, dim=0)[None])).to(scaled.dtype).T
        held = what.softmax(-1)[..., :-1]  # (B, P, names)
        there = held.sum(-1, keepdim=True)  # (B, P, 1)
        root = (held / there.clamp(min=1e-6) + 1e-8).sqrt()
        like = (root * (there * root).sum(1, keepdim=True)).sum(-1)  # (B, P)
        counts = torch.arange(1, self.config.words[2] + 1, device=like.device)
        many = -self.log_sharpness.exp() * (like[..., None] - counts) ** 2
        return [what, scaled @ self.match_1.to(scaled.dtype).T, many]

    def find(self, what: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The things that a picture's cells hold.

        Args:
            what: (B, P, names + 1) logits of names and "nothing".

        Returns:
            (B, P, names) probabilities of names; (B, P) how surely each cell holds something, its neighbours
            included where it is surer than they; (B, P) bool, whether it is found.
        """
        side = round(what.shape[1] ** 0.5)

        def believed(less: float) -> torch.Tensor:
            return torch.cat((what[..., :-1], what[..., -1:] - less), -1).softmax(-1)[..., :-1]

        held = believed(self.config.doubt)
        there = rearrange(held.sum(-1), "b (y x) -> b 1 y x", y=side)
        peak = there >= F.max_pool2d(there, 3, 1, 1)
        # a thing between cells may show in several: the strongest speaks for all of them
        around = F.avg_pool2d(there, 3, 1, 1, divisor_override=1)
        found = (peak & (around > LEAST)).flatten(1) | (believed(-STRICT).sum(-1) > CERTAIN)
        sure = torch.where(peak, around.clamp(max=1.0), there).flatten(1)
        names = held * (OWN + (held * found[..., None]).sum(1, keepdim=True))
        return names / names.sum(-1, keepdim=True).clamp(min=1e-12), sure, found

    def counts(self, names: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """(B, P, names), (B, P) → (B, P, counts): one-hot, how many found things share the most probable name."""
        name = names.argmax(-1)
        alike = ((name[:, :, None] == name[:, None, :]) & found[:, None, :]).sum(-1)
        return F.one_hot(alike.clamp(1, self.config.words[2]) - 1, self.config.words[2]).float()

    def forward(self, features: torch.Tensor, num_slots: int | None = None) -> torch.Tensor:
        """Say what the cells hold.

        Args:
            features: (B, P, input_dim).
            num_slots: of how many cells it speaks, the surest; None = as configured.

        Returns:
            (B, N, D) tokens.
        """
        what, where, _ = self.logits(self.directions(features).float())
        names, sure, found = self.find(what)
        shares = (names, where.softmax(-1), self.counts(names, found))
        chosen = (
            torch.where(found, sure, 0.1 * sure)
            .topk(num_slots or self.config.num_slots)
            .indices.sort()
            .values[..., None]
        )
        mixtures = zip(shares, (self.phrase_0, self.phrase_1, self.phrase_2), strict=True)
        said = torch.cat(
            [
                torch.einsum("bsw,wtd->bstd", share.gather(1, chosen.expand(-1, -1, share.shape[-1])), phrase.float())
                for share, phrase in mixtures
            ],
            2,
        )
        sure = sure.gather(1, chosen[..., 0])[..., None, None]  # (B, slots, 1, 1)
        return (sure * said + (1 - sure) * self.silence).flatten(1, 2).to(features.dtype)
