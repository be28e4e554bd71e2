"""The configurable Vision Transformer (Dosovitskiy et al. 2021, §3.1) behind CLIP, SigLIP and the LLaVAs.

CLIP (Radford et al. 2021): a class token, a norm before the blocks, the normalised class token as the
picture's vector. SigLIP (Zhai et al. 2023): no class token; multi-head attention pooling by one learned probe
(Zhai et al. 2022, "Scaling Vision Transformers", §2.2) over the normalised patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig, QKNormConfig
from chiasm.nn.blocks import BlockConfig, SublayerNormBlockConfig
from chiasm.nn.mlp import MLPConfig
from chiasm.nn.positions import resize_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """A ViT with learned positions.

    Attributes:
        image_size, patch_size: pixels; what the last whole patch leaves over at the right and bottom is unseen.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        act: activation name.
        norm_eps: ε of every LayerNorm.
        class_token: whether a class token leads the patches; its normalised state is then the pooled vector.
        norm_pre: a norm before the first block (CLIP).
        patch_bias: whether the patch projection has a bias.
        attention_pool: pool by a learned probe (SigLIP).
        norm_post: a norm after the last block; InternViT and CogVLM's tower have none.
        rms_norm: RMSNorm instead of LayerNorm in the blocks (InternViT-6B).
        qkv_bias: whether queries, keys and values have biases.
        qk_norm: norms of queries and keys (InternViT-6B); None = none.
        layer_scale: start of a learned factor on each sublayer's output (InternViT); None = none.
        sublayer_norm: blocks normalise their sublayers' output, not their input (EVA2-CLIP-E).
        position_grid: side of the learned grid of positions, which is stretched to the picture's each time (Qwen-VL);
            None = the picture's own grid was learned. Only without a class token.
    """

    image_size: int
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    act: str
    norm_eps: float
    class_token: bool
    norm_pre: bool
    patch_bias: bool
    attention_pool: bool
    norm_post: bool = True
    rms_norm: bool = False
    qkv_bias: bool = True
    qk_norm: QKNormConfig | None = None
    layer_scale: float | None = None
    sublayer_norm: bool = False
    position_grid: int | None = None

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def output_dim(self) -> int:
        """Width of the pooled vector."""
        return self.hidden_dim

    def attention(self) -> AttentionConfig:
        return AttentionConfig(
            hidden_dim=self.hidden_dim, num_heads=self.num_heads, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm
        )

    def mlp(self) -> MLPConfig:
        return MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act)

    def block(self) -> BlockConfig:
        kind = SublayerNormBlockConfig if self.sublayer_norm else BlockConfig
        return kind(
            attention=self.attention(),
            mlp=self.mlp(),
            norm_eps=self.norm_eps,
            rms_norm=self.rms_norm,
            layer_scale=self.layer_scale,
        )

    def build(self) -> ViT:
        return ViT(self)


class ProbePool(nn.Module):
    """Attention pooling by one learned query, then an MLP with a residual."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.hidden_dim))
        self.attn = config.attention().build()
        self.norm = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.mlp = config.mlp().build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, D) → (B, D)."""
        pooled = self.attn(self.probe.expand(x.shape[0], -1, -1), x)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class ViT(nn.Module):
    """Pixels → patches → blocks → one vector, or the patches' features of any layer."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_dim, config.patch_size
        self.patch_embed = nn.Conv2d(3, width, patch, patch, bias=config.patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(width)) if config.class_token else None
        places = (config.position_grid or config.grid) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(places + config.class_token, width))
        self.norm_pre = nn.LayerNorm(width, eps=config.norm_eps) if config.norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(config.block().build() for _ in range(config.num_layers))
        self.norm_post = nn.LayerNorm(width, eps=config.norm_eps) if config.norm_post else nn.Identity()
        self.pool = ProbePool(config) if config.attention_pool else None

    def init_weights(self) -> None:
        """Draw positions and tokens as CLIP's reference does; linear layers keep torch's own initialisation."""
        std = self.config.hidden_dim**-0.5
        nn.init.normal_(self.pos_embed, std=std)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=std)
        if self.pool is not None:
            nn.init.xavier_uniform_(self.pool.probe)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, class + P, D), positions added and pre-normalised."""
        # patches don't overlap: one matrix product does the convolution, and much faster
        b, size = len(pixels), self.config.patch_size
        rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
        whole = pixels[:, :, : rows * size, : columns * size]
        patches = whole.reshape(b, 3, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(b, rows * columns, -1)  # (B, P, 3·size²)
        x = nn.functional.linear(patches, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(b, 1, -1), x), 1)
        return self.norm_pre(x + self.places())

    def places(self) -> torch.Tensor:
        """(class + P, D) positions of the picture's grid."""
        learned, grid = self.config.position_grid, self.config.grid
        if learned is None:
            return self.pos_embed
        return resize_grid(self.pos_embed, (learned, learned), (grid, grid))

    def features(self, pixels: torch.Tensor, layer: int = -1) -> torch.Tensor:
        """Hidden states after a block, not normalised; blocks beyond it are not computed.

        Args:
            pixels: (B, 3, h, w).
            layer: index into [embeddings, block 1, …, block L], as `hidden_states` in published code.

        Returns:
            (B, class + P, D).
        """
        return self.features_of(pixels, (layer,))[0]

    def features_of(self, pixels: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """`features` of several layers from one pass; blocks beyond the deepest are not computed."""
        wanted = [layer % (len(self.blocks) + 1) for layer in layers]
        x = self.embed(pixels)
        found = {0: x}
        for depth, block in enumerate(self.blocks[: max(wanted)], 1):
            x = block(x)
            if depth in wanted:
                found[depth] = x
        return [found[depth] for depth in wanted]

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """Every position of the last block, normalised: (B, 3, h, w) → (B, class + P, D)."""
        return self.norm_post(self.features(pixels))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """One vector a picture.

        Args:
            pixels: (B, 3, h, w), normalised.

        Returns:
            (B, D), the pooled state before any projection.
        """
        if self.pool is not None:
            return self.pool(self.norm_post(self.features(pixels)))
        # only the class token leaves the last block: its other rows are never computed
        x = self.blocks[-1](self.features(pixels, -2), keep=slice(0, 1))
        return self.norm_post(x[:, 0])
