"""Molmo by its parts: OLMoE and OLMo 2 against transformers, pooling and crops against loops, its published names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import chiasm
from chiasm.connectors.mean_query_pool import MeanQueryPoolConfig
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.language.reordered import ReorderedDecoderConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.dynamic_tilers import OverlapCrops
from chiasm.processing.image_processor import ImageProcessor

ATOL = 1e-5
SHAPE = {
    "vocab_size": 90, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.1, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
OURS = {
    "vocab_size": 90, "hidden_dim": 48, "num_layers": 2, "num_heads": 4, "mlp_dim": 32, "context_length": 64,
    "norm_eps": 1e-5, "rotary": RotaryConfig(theta=1e4), "qk_norm": QKNormConfig(eps=1e-5),
}  # fmt: skip


def shaken(reference):
    for parameter in reference.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return reference.eval()


def agree(reference, decoder, names) -> None:
    """Same weights, logits, loss and gradients, and a cache that changes nothing."""
    pairs = {}
    for name in reference.state_dict():
        ours = name.removeprefix("model.").replace("layers.", "blocks.").replace("self_attn.", "attn.")
        for there, here in names:
            ours = ours.replace(there, here)
        pairs[ours] = name
    decoder.load_state_dict({ours: reference.state_dict()[name] for ours, name in pairs.items()})
    ids = torch.randint(1, 90, (2, 11))
    expected = reference(ids, labels=ids)
    logits = decoder.logits(decoder(decoder.embed_tokens(ids)))
    assert (logits - expected.logits).abs().max() <= ATOL
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected.loss.backward()
    there = dict(reference.named_parameters())
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad - there[pairs[name]].grad).abs().max() <= ATOL, name
    with torch.no_grad():
        cache = decoder.new_cache(2, 11)
        steps = [decoder.logits(decoder(decoder.embed_tokens(ids[:, at : at + 1]), cache=cache)) for at in range(11)]
    assert (torch.cat(steps, 1) - expected.logits).abs().max() <= ATOL


def test_olmoe() -> None:
    torch.manual_seed(6)
    config = transformers.OlmoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False)
    decoder = MixtureDecoderConfig(**OURS, num_kv_heads=4, num_experts=8, top_k=3, expert_dim=32).build()
    names = [
        ("input_layernorm", "norm1"), ("post_attention_layernorm", "norm2"), ("experts.gate_up_proj", "gate_up"),
        ("experts.down_proj", "down"), ("mlp.gate.weight", "mlp.router.weight"),
    ]  # fmt: skip
    agree(shaken(transformers.OlmoeForCausalLM(config)), decoder, names)


def test_olmo_2() -> None:
    torch.manual_seed(7)
    config = transformers.Olmo2Config(**SHAPE, num_key_value_heads=2)
    decoder = ReorderedDecoderConfig(**OURS, num_kv_heads=2).build()
    names = [("post_attention_layernorm", "norm1"), ("post_feedforward_layernorm", "norm2")]
    agree(shaken(transformers.Olmo2ForCausalLM(config)), decoder, names)


def test_pooling_is_attention_with_the_mean_as_query() -> None:
    torch.manual_seed(8)
    pool = MeanQueryPoolConfig(input_dim=12, pooled_dim=8, num_heads=2, hidden_dim=10, output_dim=6).build()
    x = torch.randn(2, 16, 12)
    out = pool(x).view(2, 2, 2, 6)
    grid = x.view(2, 4, 4, 12)
    for row in range(2):
        for column in range(2):
            window = grid[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, 4, 12)
            q = pool.attn.q_proj(window.mean(1)).view(2, 2, 4)
            k, v = (proj(window).view(2, 4, 2, 4) for proj in (pool.attn.k_proj, pool.attn.v_proj))
            weights = (torch.einsum("bhc,bshc->bhs", q, k) / 2).softmax(-1)
            pooled = pool.attn.o_proj(torch.einsum("bhs,bshc->bhc", weights, v).flatten(1))
            expected = pool.down_proj(torch.nn.functional.silu(pool.gate_proj(pooled)) * pool.up_proj(pooled))
            assert (out[:, row, column] - expected).abs().max() <= ATOL


def published_order(rows: int, columns: int, pool: int = 2) -> tuple[np.ndarray, int, int]:
    """Which (crop, row, column) each token of the high-resolution view is of, by the paper's bookkeeping."""
    seen = {}
    for i in range(rows):
        for j in range(columns):
            y0, x0 = (0 if i == 0 else 4 // pool), (0 if j == 0 else 4 // pool)
            tall = (16 + 4 * (i == 0) + 4 * (i == rows - 1)) // pool
            wide = (16 + 4 * (j == 0) + 4 * (j == columns - 1)) // pool
            for y in range(y0, y0 + tall):
                for x in range(x0, x0 + wide):
                    # 8 tokens a window: the canvas's own coordinates
                    seen[(i * 8 + y, j * 8 + x)] = (i * columns + j, y, x)
    height, width = max(y for y, _ in seen) + 1, max(x for _, x in seen) + 1
    return np.array([seen[(y, x)] for y in range(height) for x in range(width)]), height, width


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (1, 4), (3, 1)])
def test_margins_are_trimmed_and_rows_laid_out(rows, columns) -> None:
    from chiasm.core.plan import ImagePlan
    from chiasm.models.molmo import COLUMN, END, PATCH, START, Molmo

    tiler = OverlapCrops()
    order, height, width = published_order(rows, columns)
    assert tiler.lines(rows, columns) == (height, width)
    module = Molmo.__new__(Molmo)
    torch.nn.Module.__init__(module)
    module.config = chiasm.core.registry.family("molmo").presets["molmo_7b_d"]
    module.added_embed = torch.nn.Parameter(torch.tensor([[1000.0], [2000.0], [0.0], [3000.0]]))
    tokens = torch.arange((rows * columns + 1) * 144).float().view(-1, 144, 1)
    plan = ImagePlan((10, 10), (), (rows, columns), (12, 12), tiler.count(rows, columns))
    out = module.arrange(tokens, plan).flatten()
    assert len(out) == tiler.count(rows, columns) and PATCH == 2
    large = out[12 * 13 + 2 :]
    assert large[0] == 1000.0 * (START == 0) and large[-1] == 2000.0 * (END == 1)
    lines = large[1:-1].view(height, width + 1)
    assert (lines[:, -1] == 3000.0 * (COLUMN == 3)).all()
    expected = [144 * (1 + crop) + y * 12 + x for crop, y, x in order.tolist()]
    assert lines[:, :-1].flatten().tolist() == expected


def test_crops_against_a_loop() -> None:
    """Grid, placing and pixels by the released preprocessing, written straight."""
    ours, random = ImageProcessor(tiler=OverlapCrops()), np.random.default_rng(3)
    sizes = [(1, 1), (5000, 200), (336, 336), (3840, 2160), (100, 2000)]
    sizes += [tuple(int(n) for n in np.exp(random.uniform(2, 7.5, 2))) for _ in range(60)]
    for width, height in sizes:
        grids = sorted(
            ((i, j) for i in range(1, 13) for j in range(1, 13) if i * j <= 12), key=lambda g: (g[0] * g[1], g[0])
        )
        scales = []
        for i, j in grids:
            with np.errstate(divide="ignore"):
                scales.append(
                    min(
                        np.float32(i * 224) / np.float32(height - 112),
                        np.float32(j * 224) / np.float32(width - 112),
                    )
                )
        fitting = [at for at, scale in enumerate(scales) if scale >= 1]
        best = grids[min(fitting, key=lambda at: scales[at])] if fitting else grids[int(np.argmax(scales))]
        plan = ours.plan((width, height))
        assert plan.grid == best, (width, height)
        assert len(plan.crops) == best[0] * best[1] + 1
    picture = Image.fromarray(random.integers(0, 256, (300, 500, 3), dtype=np.uint8))
    pixels, (plan,) = ours.pixels([picture])
    first = plan.crops[1]
    right = pixels[1 + 1, :, :, : 2 * 4 * 14]  # the second crop begins where the first has 112 pixels left
    assert torch.equal(pixels[1, :, :, 224:], right) and first.size == (336, 336)


def test_names_are_the_published_ones() -> None:
    from chiasm.weights.layouts.molmo import table

    model = chiasm.new("molmo")
    theirs = set(table(model.config).to_theirs(model.module.state_dict()))
    tower, text = "model.vision_backbone.image_vit.", "model.transformer."
    expected = {tower + n for n in ("class_embedding", "positional_embedding", "patch_embedding.weight")}
    expected |= {f"{tower}pre_ln.{p}" for p in ("weight", "bias")}
    block = ["attention_norm", "ffn_norm", "feed_forward.w1", "feed_forward.w2", *(f"attention.w{n}" for n in "qkvo")]
    expected |= {
        f"{tower}transformer.resblocks.{i}.{n}.{p}" for i in range(3) for n in block for p in ("weight", "bias")
    }
    backbone = "model.vision_backbone."
    expected |= {f"{backbone}image_pooling_2d.w{n}.{p}" for n in "qkvo" for p in ("weight", "bias")}
    expected |= {f"{backbone}image_projector.w{n}.weight" for n in (1, 2, 3)} | {backbone + "pad_embed"}
    expected |= {text + n for n in ("wte.embedding", "wte.new_embedding", "ln_f.weight", "ff_out.weight")}
    for i in range(2):
        one = f"{text}blocks.{i}."
        expected |= {one + f"att_proj.{p}" for p in ("weight", "bias")}
        expected |= {f"{one}{n}.weight" for n in ("attn_out", "ff_proj", "ff_out", "attn_norm", "ff_norm")}
    assert theirs == expected


@pytest.mark.parametrize("kind", ["olmo", "olmoe"])
def test_other_language_models_save_and_load(kind, tmp_path) -> None:
    from dataclasses import replace

    from chiasm.models.model import Model
    from chiasm.weights.layouts.molmo import LAYOUT
    from chiasm.weights.load import _writer

    torch.manual_seed(1)
    model = chiasm.new("molmo")
    old = model.config.language
    shape = {**OURS, "vocab_size": old.vocab_size, "context_length": 2048, "num_kv_heads": 2, "mlp_dim": 16}
    language = (
        ReorderedDecoderConfig(**shape)
        if kind == "olmo"
        else MixtureDecoderConfig(**shape, num_experts=4, top_k=2, expert_dim=16)
    )
    config = replace(model.config, language=language)
    module = config.build()
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    made = Model(module, model.processor, model.family, config, writer=_writer(LAYOUT))
    made.save(tmp_path / "saved")
    again = chiasm.load(tmp_path / "saved")
    talk = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (60, 40))}, "what?"]}]
    assert again.config == config
    assert again.generate(talk, max_new_tokens=4)[0].token_ids == made.generate(talk, max_new_tokens=4)[0].token_ids
