"""Every way from a frozen tower's features to a language model's input, as one type: a family's field of this type can
be set to any of them, which is how the answers are compared over the same towers."""

from __future__ import annotations

from chiasm.connectors.cross_attention_resampler import GridResamplerConfig, LatentAttentionConfig
from chiasm.connectors.grid_transformer import GridTransformerConfig
from chiasm.connectors.linear import LinearConnectorConfig
from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.connectors.pooled import PooledConfig
from chiasm.connectors.prefix import PrefixConfig
from chiasm.connectors.qformer import QFormerConfig
from chiasm.connectors.resampler import ResamplerConfig

Connector = (
    LinearConnectorConfig
    | MLPConnectorConfig
    | QFormerConfig
    | ResamplerConfig
    | GridResamplerConfig
    | LatentAttentionConfig
    | PooledConfig
    | PrefixConfig
    | GridTransformerConfig
)


def visual_tokens(config: Connector, patches: int) -> int:
    """Tokens that one crop's `patches` features become."""
    if isinstance(config, (LinearConnectorConfig, MLPConnectorConfig)):
        return patches
    return config.visual_tokens(patches)
