"""Connectors and blocks without a package to compare with, against torch's own parts and the papers' formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import chiasm
from chiasm.connectors.cross_attention_resampler import GridResamplerConfig, LatentAttentionConfig
from chiasm.connectors.linear import LinearConnectorConfig
from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.connectors.pooled import PooledConfig
from chiasm.connectors.prefix import PrefixConfig
from chiasm.connectors.qformer import QFormerConfig
from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.registry import families
from chiasm.models import minigpt4
from chiasm.models.assembly import Parts
from chiasm.models.languages import palm
from chiasm.nn.positions import resize_grid, sincos_grid
from chiasm.weights.load import initialise

ATOL = 1e-5


def test_the_grid_of_queries_is_multihead_attention_with_positions_on_queries_and_keys() -> None:
    module = initialise(GridResamplerConfig(input_dim=24, output_dim=32, grid=2, num_heads=4))
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        own = module.attn
        attention.in_proj_weight.copy_(torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]))
        attention.in_proj_bias.copy_(torch.cat([own.q_proj.bias, own.k_proj.bias, own.v_proj.bias]))
        attention.out_proj.load_state_dict(own.o_proj.state_dict())
        x = torch.randn(3, 16, 24)
        values = module.norm_context(module.kv_proj(x))
        keys = values + resize_grid(module.pos_embed, (2, 2), (4, 4))
        queries = (module.norm_queries(module.queries) + module.pos_embed).expand(3, -1, -1)
        expected = module.proj(module.norm_post(attention(queries, keys, values, need_weights=False)[0]))
        assert (module(x) - expected).abs().max() <= ATOL


def test_pooled_cells_are_means_of_the_patches_below_them() -> None:
    module = initialise(PooledConfig(input_dim=6, output_dim=8, grid=2))
    x = torch.randn(3, 16, 6)
    rows = x.view(3, 4, 4, 6)
    for at, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        mean = rows[:, top : top + 2, left : left + 2].mean((1, 2))
        assert (module(x)[:, at] - module.proj(mean)).abs().max() <= ATOL
    whole = initialise(PooledConfig(input_dim=6, output_dim=8, grid=4))
    assert (whole(x) - whole.proj(x)).abs().max() <= ATOL


def test_the_sine_grid_tells_columns_then_rows() -> None:
    grid = sincos_grid(3, 8)
    for row in range(3):
        for column in range(3):
            line = [np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100)]
            line += [np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100)]
            assert np.allclose(grid[3 * row + column], line, atol=1e-6)


def test_frames_get_time_embeddings_and_masked_patches_do_not_count() -> None:
    config = ResamplerConfig(
        input_dim=16, output_dim=8, num_latents=3, num_layers=2, num_heads=2, head_dim=8, mlp_dim=32, max_frames=4
    )
    module = initialise(config)
    x = torch.randn(2, 3, 5, 16)
    with torch.no_grad():
        by_hand = module((x + module.frame_embed[:3, None]).flatten(1, 2) - module.frame_embed[0])
        assert (module(x) - by_hand).abs().max() <= ATOL
        assert (module(x) - module(x.flip(1))).abs().max() > 1e-3  # the order of frames matters
        some, attend = x[:, 0], torch.tensor([[True, True, True, False, False], [True] * 5])
        short = module(some[:1, :3])
        assert (module(some, attend)[:1] - short).abs().max() <= ATOL


def test_palms_block_is_the_formula() -> None:
    """y = x + MLP(LayerNorm(x)) + Attention(LayerNorm(x)), one head of keys and values, SwiGLU, no biases."""
    config = dataclasses.replace(palm(50, 32, 1, 4, head_dim=8, context=64), rotary=None)
    module = initialise(config)
    assert not any(name.endswith("bias") for name, _ in module.named_parameters())
    block, x = module.blocks[0], torch.randn(2, 6, 32)
    with torch.no_grad():
        h = F.layer_norm(x, (32,), block.norm.weight, None, 1e-6)
        q = block.attn.q_proj(h).view(2, 6, 4, 8).transpose(1, 2)
        k, v = block.attn.k_proj(h)[:, None], block.attn.v_proj(h)[:, None]
        scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -torch.inf)
        attended = block.attn.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        mlp = block.mlp.down_proj(F.silu(block.mlp.gate_proj(h)) * block.mlp.up_proj(h))
        expected = F.layer_norm(x + attended + mlp, (32,), module.norm.weight, None, 1e-6)
        assert (module(x) - expected).abs().max() <= ATOL


CONNECTORS = {
    "linear": (LinearConnectorConfig(input_dim=32, output_dim=48), 17),
    "mlp": (MLPConnectorConfig(input_dim=32, output_dim=48), 17),
    "pooled": (PooledConfig(input_dim=32, output_dim=48, grid=2), 4),
    "prefix": (PrefixConfig(input_dim=32, output_dim=48, num_tokens=2), 2),
    "qformer": (
        QFormerConfig(input_dim=32, output_dim=48, num_queries=5, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=32),
        5,
    ),
    "resampler": (
        ResamplerConfig(input_dim=32, output_dim=48, num_latents=6, num_layers=1, num_heads=2, head_dim=8, mlp_dim=32),
        6,
    ),
    "latents": (LatentAttentionConfig(input_dim=32, output_dim=48, num_latents=3, num_heads=4), 3),
}


@pytest.mark.parametrize("name", CONNECTORS)
def test_any_connector_fits_between_the_same_towers(name) -> None:
    connector, tokens = CONNECTORS[name]
    base, processor = minigpt4.tiny()
    config = dataclasses.replace(base, connector=connector)
    processor = minigpt4.processor(config, Parts(processor.tokenizer))
    picture = Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "what is it?"}]
    batch = processor([[{"role": "user", "content": parts}]])
    assert batch.spans[0].stop - batch.spans[0].start == tokens
    with torch.no_grad():
        assert initialise(config)(batch).isfinite().all()


# billions, as the papers state them
STATED = {
    ("frozen", "frozen_7b"): (6.5, 0.1),
    ("minigpt4", "minigpt4_7b"): (7.8, 0.05),
    ("minigpt4", "minigpt4_13b"): (14.1, 0.05),
    ("palme", "palm_e_12b"): (12.0, 0.1),
    ("palme", "palm_e_84b"): (84.0, 0.1),
    ("palme", "palm_e_562b"): (562.0, 0.1),
    ("qwen_vl", "qwen_vl_7b"): (9.6, 0.03),
    ("xgen_mm", "xgen_mm_phi3_mini"): (4.4, 0.05),
    ("kosmos", "kosmos_1"): (1.6, 0.1),
}


@pytest.mark.parametrize("family,name", STATED)
def test_sizes_are_near_the_stated_ones(family, name) -> None:
    with torch.device("meta"):
        module = families()[family].presets[name].build()
    count, gap = STATED[family, name]
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(count, rel=gap)


def test_minigpt4_trains_one_affine_map() -> None:
    with torch.device("meta"):
        module = minigpt4.PRESETS["minigpt4_7b"].build()
    trained = sum(p.numel() for name, p in module.named_parameters() if name.startswith(minigpt4.TRAINED))
    assert trained == 768 * 4096 + 4096


def test_frozen_trains_through_its_language_model_without_moving_it() -> None:
    model = chiasm.new("frozen")
    module = model.module
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith("language."))
    before = {name: p.clone() for name, p in module.language.named_parameters()}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8))
    turns = [
        {"role": "user", "content": [{"type": "image", "image": picture}]},
        {"role": "assistant", "content": "a red cat"},
    ]
    batch = model.processor([turns], add_generation_prompt=False, supervise=True)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        logits = module(batch)
        loss = F.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[name]) for name, p in module.language.named_parameters())
