"""Decoders with mixtures of experts, and with latent attention: OLMoE, Moonlight and DeepSeek-V3's kin.

OLMoE (Muennighoff et al. 2024): every MLP a mixture, queries and keys normalised over the full width. DeepSeek-V3
(2024, §2.1): latent attention, a few dense layers first, then mixtures with a shared expert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.mla import LatentAttentionConfig, LatentShape
from chiasm.nn.moe import MoEConfig, SigmoidRouterConfig, SoftmaxRouterConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureDecoderConfig(DecoderConfig):
    """A causal language model with mixtures in its MLPs' place.

    Attributes:
        num_experts, top_k: E, and how many a token takes.
        expert_dim: hidden width of one expert.
        shared_dim: hidden width of the shared expert; 0 = none.
        router: how experts are chosen.
        dense_layers: how many first layers have a plain gated MLP of `mlp_dim`.
        latent: latent attention; None = plain attention.
    """

    num_experts: int
    top_k: int
    expert_dim: int
    shared_dim: int = 0
    router: SoftmaxRouterConfig | SigmoidRouterConfig = SoftmaxRouterConfig()
    dense_layers: int = 0
    latent: LatentShape | None = None

    @property
    def rotary_width(self) -> int:
        """Features of a head that turn."""
        return self.head_width if self.latent is None else self.latent.rope_dim

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Heads, key width and value width of what one layer keeps of a token; a latent serves as both."""
        if self.latent is None:
            return self.num_kv_heads, self.head_width, self.head_width
        return 1, self.latent.latent_dim + self.latent.rope_dim, 0

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        block: BlockConfig = DecoderConfig.block(self)
        if self.latent is not None:
            attention = LatentAttentionConfig(
                hidden_dim=self.hidden_dim, num_heads=self.num_heads, shape=self.latent, norm_eps=self.norm_eps
            )
            block = replace(block, attention=attention)
        if index < self.dense_layers:
            return block.build()
        mixture = MoEConfig(
            input_dim=self.hidden_dim,
            num_experts=self.num_experts,
            top_k=self.top_k,
            expert_dim=self.expert_dim,
            shared_dim=self.shared_dim,
            router=self.router,
            act=self.act,
        )
        return replace(block, mlp=mixture).build()
