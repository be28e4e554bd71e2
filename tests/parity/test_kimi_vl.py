"""Kimi-VL by its parts: MoonViT and projector against `kimi_k25`, Moonlight against `deepseek_v3`; its own names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.parity.reference import run_reference
from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25VisionModel

import chiasm
from chiasm.models.kimi_vl import moon_vit
from chiasm.nn.cache import Cache
from chiasm.processing.native_tilers import NativePack
from chiasm.processing.packed_processor import PackedImageProcessor
from chiasm.vision.native import merged_positions
from chiasm.weights.layouts import deepseek
from chiasm.weights.rules import PairedRotary
from chiasm.weights.table import Table

ATOL = 1e-5


@pytest.fixture(scope="module")
def moonlight():
    torch.manual_seed(4)
    config = transformers.DeepseekV3Config(
        vocab_size=120, hidden_size=48, intermediate_size=96, moe_intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=2, n_routed_experts=8, kv_lora_rank=24,
        q_lora_rank=20, qk_rope_head_dim=4, v_head_dim=10, qk_nope_head_dim=8, n_group=4, topk_group=2,
        num_experts_per_tok=3, first_k_dense_replace=1, max_position_embeddings=256, initializer_range=0.1,
        num_nextn_predict_layers=0,
    )  # fmt: skip
    reference = transformers.DeepseekV3ForCausalLM(config).eval()
    for name, tensor in [*reference.named_parameters(), *reference.named_buffers()]:
        if tensor.ndim <= 1 and "inv_freq" not in name:
            tensor.data += 0.1 * torch.randn_like(tensor)
    return reference


def published(reference, folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    reference.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_the_language_model_agrees_with_gradients_and_cache(moonlight, tmp_path) -> None:
    state = published(moonlight, tmp_path)
    config = deepseek.decoder_config(moonlight.config.to_dict())
    decoder = config.build()
    table = Table(deepseek.decoder_rules(config))
    decoder.load_state_dict(table.to_ours(state))
    assert set(table.to_theirs(decoder.state_dict())) == set(state)
    ids = torch.randint(0, 120, (2, 13))
    expected = moonlight(ids, labels=ids)
    logits = decoder.logits(decoder(decoder.embed_tokens(ids)))
    assert (logits - expected.logits).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward(), expected.loss.backward()
    theirs = {name: p.grad for name, p in moonlight.named_parameters()}
    ours = {name: p.grad for name, p in decoder.named_parameters()}
    assert (ours["embed_tokens.weight"] - theirs["model.embed_tokens.weight"]).abs().max() <= ATOL
    for layer in (1, 2):
        for a, b in (
            ("gate_up", "experts.gate_up_proj"),
            ("down", "experts.down_proj"),
            ("router.weight", "gate.weight"),
        ):
            pair = ours[f"blocks.{layer}.mlp.{a}"], theirs[f"model.layers.{layer}.mlp.{b}"]
            assert (pair[0] - pair[1]).abs().max() <= ATOL, (layer, a)
        for a, b in (("q_down", "q_a_proj"), ("kv_down", "kv_a_proj_with_mqa"), ("kv_up", "kv_b_proj")):
            pair = ours[f"blocks.{layer}.attn.{a}.weight"], theirs[f"model.layers.{layer}.self_attn.{b}.weight"]
            assert (pair[0] - pair[1]).abs().max() <= ATOL, (layer, a)
    with torch.no_grad():  # one token at a time, in the latent space
        cache: Cache = decoder.new_cache(2, 13)
        assert cache.keys.shape[2:] == (1, 13, 28) and cache.values.numel() == 0
        steps = [decoder.logits(decoder(decoder.embed_tokens(ids[:, :5]), cache=cache))]
        for at in range(5, 13):
            steps.append(decoder.logits(decoder(decoder.embed_tokens(ids[:, at : at + 1]), cache=cache)))
    assert (torch.cat(steps, 1) - expected.logits).abs().max() <= ATOL


def test_tower_and_projector_agree() -> None:
    torch.manual_seed(5)
    config = transformers.models.kimi_k25.configuration_kimi_k25.Kimi_K25VisionConfig(
        patch_size=4, pos_emb_height=8, pos_emb_width=8, num_attention_heads=2, num_hidden_layers=3, hidden_size=32,
        intermediate_size=64,
    )  # fmt: skip
    reference = Kimi_K25VisionModel(config).eval()
    for parameter in reference.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    ours = moon_vit(32, 3, 2, 64, patch=4, grid=8).build()
    state = {}
    for name, tensor in reference.state_dict().items():
        name = name.replace("encoder_blocks", "blocks").replace("layers.", "blocks.")
        name = name.removeprefix("encoder.").replace("attn.proj", "attn.o_proj")
        name = name.replace("patch_embed.proj", "patch_embed").replace(
            "patch_embed.pos_emb.position_embeddings", "pos_embed"
        )
        name = name.replace("final_layernorm", "norm_post").replace("layernorm", "norm_post")
        state[name] = tensor
    state["patch_embed.weight"] = state["patch_embed.weight"].flatten(1)
    state["pos_embed"] = state["pos_embed"].flatten(0, 1)
    ours.load_state_dict(state)
    grids = [(1, 4, 6), (1, 8, 8), (1, 2, 10)]
    patches = torch.randn(sum(h * w for _, h, w in grids), 3 * 16)
    with torch.no_grad():
        features = ours(patches, grids)
        start = 0
        for grid in grids:
            _, h, w = grid
            stop = start + h * w
            rows, columns = merged_positions([grid], 2)
            raster = torch.empty(h * w, 48)
            raster[rows * w + columns] = patches[start:stop]
            out = reference(raster.view(-1, 3, 4, 4), grid_thw=torch.tensor([grid]))
            expected = out.last_hidden_state.view(h * w, -1)[rows * w + columns]
            assert (features[start:stop] - expected).abs().max() <= 2e-5, grid
            start = stop


def test_pairs_become_halves_and_back() -> None:
    rule = PairedRotary("a", ("q", "k", "v"), heads=2)
    fused = torch.randn(3 * 8, 5)
    q, k, v = rule.forward([fused])
    assert torch.equal(rule.backward([q, k, v])[0], fused)
    first = fused[:8].view(2, 2, 2, 5)  # (heads, pairs, 2, D)
    assert torch.equal(q.view(2, 2, 2, 5)[:, 0], first[:, :, 0]) and torch.equal(v, fused[16:])


def test_names_are_the_published_ones() -> None:
    model = chiasm.new("kimi_vl")
    from chiasm.weights.layouts.kimi_vl import table

    theirs = set(table(model.config).to_theirs(model.module.state_dict()))
    wanted = {
        "vision_tower.patch_embed.proj.weight", "vision_tower.patch_embed.pos_emb.weight",
        "vision_tower.encoder.blocks.2.wqkv.bias", "vision_tower.encoder.blocks.0.wo.weight",
        "vision_tower.encoder.blocks.1.norm0.weight", "vision_tower.encoder.blocks.1.mlp.fc0.weight",
        "vision_tower.encoder.final_layernorm.bias", "multi_modal_projector.pre_norm.weight",
        "multi_modal_projector.linear_2.bias", "language_model.model.layers.0.mlp.gate_proj.weight",
        "language_model.model.layers.1.mlp.experts.7.down_proj.weight",
        "language_model.model.layers.2.mlp.gate.e_score_correction_bias",
        "language_model.model.layers.2.mlp.shared_experts.up_proj.weight",
        "language_model.model.layers.2.self_attn.kv_a_proj_with_mqa.weight", "language_model.lm_head.weight",
    }  # fmt: skip
    assert wanted <= theirs


def test_pictures_shrink_to_the_limit_and_are_padded_to_whole_tokens() -> None:
    tiler = NativePack()
    plan = tiler.plan((3840, 2160))
    patches = (plan.crops[0].size[0] // 14) * (plan.crops[0].size[1] // 14)
    assert patches <= 4096 * 1.1 and plan.num_tokens == patches // 4
    assert tiler.plan((30, 29)).crops[0].size == (56, 56) and tiler.plan((30, 29)).crops[0].resized == (30, 29)
    assert tiler.plan((1, 1)).num_tokens == 1
    with pytest.raises(ValueError, match="picture_too_thin"):
        tiler.plan((1, 20000))
    picture = Image.fromarray(np.full((20, 30, 3), 255, np.uint8))
    ours = PackedImageProcessor.from_settings({"image_processor_type": "KimiVLImageProcessor"}, frames=1)
    pixels, plans = ours.pixels([picture])
    (seen,) = ours.crops(pixels, plans)[0]
    assert seen.size == (56, 28) and seen.getpixel((29, 19)) == (255,) * 3 and seen.getpixel((30, 5)) == (0,) * 3


REFERENCE = """
import numpy as np
from PIL import Image
from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
theirs = Kimi_K25ImageProcessor(max_patches=4096)
counts = [theirs.get_number_of_image_patches(height, width) for width, height in inputs.pop("sizes").tolist()]
outputs["counts"] = torch.tensor(counts)
for name, levels in inputs.items():
    given = theirs(Image.fromarray(levels.numpy()), return_tensors="pt")
    outputs[name], outputs["grid." + name] = given["pixel_values"], given["image_grid_thw"]
"""


def sizes() -> list[tuple[int, int]]:
    random = np.random.default_rng(3)
    found = [
        (1, 1),
        (1, 200),
        (200, 1),
        (5000, 200),
        (200, 5000),
        (28, 28),
        (29, 27),
        (3840, 2160),
        (1, 5000),
        (13, 900),
    ]
    logs = random.uniform(0, np.log(4000), (190, 2))
    return found + [(int(width), int(height)) for width, height in np.exp(logs)]


def test_counts_of_200_sizes_and_their_pixels_are_the_references(tmp_path) -> None:
    """Kimi-K2.5's processor has Kimi-VL's rule; it shrinks what is too long, where Kimi-VL's refuses it."""
    chosen = [size for size in sizes() if 1 < size[0] * size[1] < 60_000][:15] + [(1300, 900)]
    random = np.random.default_rng(4)
    levels = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in chosen]
    inputs = {f"{at}": torch.from_numpy(each) for at, each in enumerate(levels)}
    wanted = run_reference(REFERENCE, {"sizes": torch.tensor(sizes()), **inputs}, tmp_path)
    counts = [4 * NativePack().plan(size).num_tokens for size in sizes()]
    assert counts == wanted["counts"].tolist() and len(counts) == 200
    ours = PackedImageProcessor.from_settings({"image_processor_type": "KimiVLImageProcessor"}, frames=1)
    for at, each in enumerate(levels):
        pixels, (plan,) = ours.pixels([Image.fromarray(each)])
        grid = (1, 2 * plan.tokens[0], 2 * plan.tokens[1])
        assert [list(grid)] == wanted[f"grid.{at}"].tolist()
        rows, columns = merged_positions([grid], 2)
        theirs = wanted[f"{at}"].flatten(1)[rows * grid[2] + columns]
        off = (pixels - theirs).abs() * 255 / 2  # levels: pixels run from -1 to 1
        resized = plan.crops[0].resized != plan.source
        assert off.max() <= (2 if resized else 0) + 1e-4  # their bicubic is torchvision's, ours Pillow's
        assert (off > 1.001).float().mean() <= 1e-3
