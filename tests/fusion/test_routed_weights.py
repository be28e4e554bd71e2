"""Visual expert and partial LoRA against loops over tokens; CogVLM's positions and routes; published names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import ImagePlan
from chiasm.fusion.routed_weights import ExpertDecoderConfig, PartialLoraDecoderConfig
from chiasm.language.decoder import DecoderConfig
from chiasm.nn.masks import attention_mask
from chiasm.nn.positions import rotate

ATOL = 1e-5
SHAPE = {
    "vocab_size": 20, "hidden_dim": 24, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 40,
    "context_length": 32, "norm_eps": 1e-5,
}  # fmt: skip
ROUTE = torch.tensor([[0, 1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)


def attend(block, q, k, v, rotary):
    """Plain grouped attention from the equation."""
    q = rotate(q.view(2, 7, 4, 6).transpose(1, 2), rotary)
    k = rotate(k.view(2, 7, 2, 6).transpose(1, 2), rotary).repeat_interleave(2, 1)
    v = v.view(2, 7, 2, 6).transpose(1, 2).repeat_interleave(2, 1)
    scores = (q @ k.transpose(-1, -2)) / 6**0.5
    scores = scores.masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def chosen(x, text, visual):
    """Token by token."""
    rows = [[visual(x[b, t]) if ROUTE[b, t] else text(x[b, t]) for t in range(x.shape[1])] for b in range(x.shape[0])]
    return torch.stack([torch.stack(row) for row in rows])


def setup(config):
    torch.manual_seed(0)
    decoder = config.build()
    for parameter in decoder.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    rotary = decoder._rotary(torch.arange(7)[None], torch.float32, None)
    mask = attention_mask(None, causal=True, queries=7, keys=7)
    return decoder.blocks[0], rotary, mask, torch.randn(2, 7, 24)


def test_each_token_goes_through_its_own_weights() -> None:
    block, rotary, mask, x = setup(ExpertDecoderConfig(**SHAPE, visual_bias=True))
    out = block(x, mask=mask, rotary=rotary, route=ROUTE)
    h, a = block.norm1(x), block.attn
    q, k, v = (chosen(h, getattr(a, f"{n}_proj"), getattr(a, f"visual_{n}_proj")) for n in "qkv")
    y = x + chosen(attend(block, q, k, v, rotary), a.o_proj, a.visual_o_proj)
    expected = y + chosen(block.norm2(y), block.mlp, block.visual_mlp)
    assert (out - expected).abs().max() <= ATOL
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_visual_tokens_get_the_low_rank_addition() -> None:
    block, rotary, mask, x = setup(PartialLoraDecoderConfig(**SHAPE, rank=3))
    out = block(x, mask=mask, rotary=rotary, route=ROUTE)
    h, a, m = block.norm1(x), block.attn, block.mlp

    def full(plain, up, down):
        return lambda z: plain(z) + z @ (up.weight @ down.weight).T

    q, k, v = (
        chosen(h, getattr(a, f"{n}_proj"), full(getattr(a, f"{n}_proj"), getattr(a, f"lora_{n}"), a.lora_down))
        for n in "qkv"
    )
    attended = attend(block, q, k, v, rotary)
    y = x + chosen(attended, a.o_proj, full(a.o_proj, a.lora_o.up, a.lora_o.down))
    z = block.norm2(y)
    gate = chosen(z, m.gate_proj, full(m.gate_proj, m.lora_gate.up, m.lora_gate.down))
    up = chosen(z, m.up_proj, full(m.up_proj, m.lora_up.up, m.lora_up.down))
    inner = torch.nn.functional.silu(gate) * up
    expected = y + chosen(inner, m.down_proj, full(m.down_proj, m.lora_down.up, m.lora_down.down))
    assert (out - expected).abs().max() <= ATOL


def test_without_a_route_they_are_the_plain_decoder() -> None:
    torch.manual_seed(1)
    plain = DecoderConfig(**SHAPE).build()
    ids = torch.randint(0, 20, (2, 7))
    for config in (ExpertDecoderConfig(**SHAPE), PartialLoraDecoderConfig(**SHAPE, rank=2)):
        other = config.build()
        other.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(other(other.embed_tokens(ids)), plain(plain.embed_tokens(ids)))


def published_positions(types: list[int]) -> list[int]:
    """CogVLM's rule, over token types (1 = visual): marks count as text, a run of patches as one."""
    marked = list(types)
    for at, kind in enumerate(types):
        edge = at == 0 or types[at - 1] == 0 or at == len(types) - 1 or types[at + 1] == 0
        if kind and edge:
            marked[at] = 0
    positions, now = [], 0
    for at, kind in enumerate(marked):
        if at and (kind == 0 or marked[at - 1] == 0):
            now += 1
        positions.append(now)
    return positions


def test_a_picture_takes_three_positions_and_its_end_goes_to_the_text() -> None:
    module = chiasm.new("cogvlm").module
    ids = torch.zeros(1, 16, dtype=torch.long)
    plan = ImagePlan((1, 1), (), num_tokens=7)
    batch = Batch(input_ids=ids, plans=(plan,), spans=(ImageSpan(0, 1, 8),))
    types = [0] + [1] * 7 + [0] * 8
    assert module.positions(batch, None)[0].tolist() == published_positions(types)
    visual = [bool(a and b) for a, b in zip(types, [*types[1:], 0], strict=True)]
    assert module.route(batch)[0].tolist() == visual


def test_a_layer_of_the_tower_adds_what_it_normalised() -> None:
    vision = chiasm.new("cogvlm").module.vision
    block, x = vision.blocks[0], torch.randn(2, 5, 32)
    y = x + block.norm1(block.attn(x))
    assert torch.equal(block(x), y + block.norm2(block.mlp(y)))


def test_the_adapter_is_its_equation() -> None:
    adapter = chiasm.new("cogvlm").module.connector
    x = torch.randn(1, 16, 32)
    out = adapter(x)
    grid = adapter.conv(x.view(1, 4, 4, 32).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    y = torch.nn.functional.gelu(adapter.norm(adapter.linear(grid)))
    y = adapter.mlp.down_proj(torch.nn.functional.silu(adapter.mlp.gate_proj(y)) * adapter.mlp.up_proj(y))
    assert (out[:, 1:-1] - y).abs().max() <= 1e-6
    assert torch.equal(out[0, 0], adapter.begin) and torch.equal(out[0, -1], adapter.end)


def names(family: str) -> set[str]:
    from chiasm.weights.layouts import layout_of

    model = chiasm.new(family)
    return set(layout_of(model.config).table(model.config).to_theirs(model.module.state_dict()))


def test_cogvlm_s_names_are_the_published_ones() -> None:
    tower = "model.vision."
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for i in range(2):
        one = f"model.layers.{i}."
        expected |= {one + n for n in ("input_layernorm.weight", "post_attention_layernorm.weight")}
        for kind in ("vision", "language"):
            expected |= {f"{one}self_attn.{kind}_expert_{n}.weight" for n in ("query_key_value", "dense")}
            expected |= {f"{one}mlp.{kind}_mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
        expected.add(one + "self_attn.vision_expert_query_key_value.bias")
    both = ("weight", "bias")
    for i in range(3):
        one = f"{tower}transformer.layers.{i}."
        parts = ("attention.query_key_value", "attention.dense", "input_layernorm", "post_attention_layernorm")
        expected |= {f"{one}{n}.{p}" for n in (*parts, "mlp.fc1", "mlp.fc2") for p in both}
    expected |= {f"{tower}patch_embedding.proj.{p}" for p in both} | {f"{tower}conv.{p}" for p in both}
    expected |= {tower + n for n in ("patch_embedding.cls_embedding", "patch_embedding.position_embedding.weight")}
    expected |= {f"{tower}linear_proj.norm1.{p}" for p in both} | {tower + "boi", tower + "eoi"}
    glu = ("linear_proj", "gate_proj", "dense_h_to_4h", "dense_4h_to_h")
    expected |= {f"{tower}linear_proj.{n}.weight" for n in glu}
    assert names("cogvlm") == expected


def test_xcomposer_s_names_are_the_published_ones() -> None:
    found = names("xcomposer")
    expected = {"model.tok_embeddings.weight", "model.norm.weight", "output.weight", "plora_glb_GN", "plora_sub_GN"}
    for i in range(2):
        one = f"model.layers.{i}."
        expected |= {one + n for n in ("attention_norm.weight", "ffn_norm.weight")}
        for part in ("attention.wqkv", "attention.wo", *(f"feed_forward.w{n}" for n in (1, 2, 3))):
            expected |= {f"{one}{part}.{n}" for n in ("weight", "Plora_A.weight", "Plora_B.weight")}
    expected |= {f"vision_proj.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")}
    assert {name for name in found if not name.startswith("vit.")} == expected
    assert "vit.vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.bias" in found


@pytest.mark.parametrize("size", [(1, 1), (5000, 200), (200, 5000), (3840, 2160), (336, 336), (1000, 700)])
def test_hd_transform_fills_its_tiles(size) -> None:
    from chiasm.processing.dynamic_tilers import HDTransform

    tiler = HDTransform()
    plan = tiler.plan(size)
    (rows, columns), tile = plan.grid, plan.crops[1]
    assert rows * columns <= 55 and len(plan.crops) == rows * columns + 1
    assert plan.num_tokens == (rows * columns + 1) * 144 + 1 + (rows + 1) * 12
    long = 0 if size[0] >= size[1] else 1
    assert tile.resized[long] == (columns, rows)[long] * 336  # the longer side is filled
    assert plan.to_source(*plan.crops[1].offset, crop=1) == (0, 0)


def test_a_portrait_is_laid_on_its_side_and_padded_white() -> None:
    from chiasm.processing.dynamic_tilers import HDTransform

    tiler = HDTransform(max_tiles=4)
    picture = Image.fromarray(np.zeros((330, 100, 3), np.uint8))
    plan = tiler.plan(picture.size)
    whole, *tiles = tiler.render(picture, plan)
    assert plan.grid == (3, 1) and len(tiles) == 3 and whole.dtype == np.float32
    assert tiles[0].getpixel((0, 5)) == (255,) * 3 and tiles[0].getpixel((168, 5)) == (0,) * 3
