"""xGen-MM as published: every tensor's name, the masked bands of tiles as the published code makes them, a folder there
and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import chiasm
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.models import xgen_mm
from chiasm.weights.layouts import layout_for, layout_of
from chiasm.weights.rules import Grown


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def names_published() -> set[str]:
    names = {"vision_encoder.embeddings.position_embedding.weight", "vision_encoder.head.probe",
             "vision_tokenizer.latents"}  # fmt: skip
    layer = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm1",
             "layer_norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip
    pairs = [f"vision_encoder.encoder.layers.{i}.{n}" for i in range(27) for n in layer]
    pairs += [f"vision_encoder.{n}" for n in ("embeddings.patch_embedding", "post_layernorm", "head.layernorm",
                                              "head.mlp.fc1", "head.mlp.fc2", "head.attention.out_proj")]  # fmt: skip
    pairs += ["vision_tokenizer.norm", "vision_tokenizer.projection"]
    for i in range(6):
        pairs += [f"vision_tokenizer.layers.{i}.{n}" for n in ("0.norm_media", "0.norm_latents", "1.0")]
        names |= {f"vision_tokenizer.layers.{i}.{n}.weight" for n in ("0.to_q", "0.to_kv", "0.to_out", "1.1", "1.3")}
    names |= {f"vision_encoder.head.attention.in_proj_{p}" for p in ("weight", "bias")}
    language = ["model.embed_tokens", "model.embed_tokens.additional_embedding", "model.norm", "lm_head",
                "lm_head.additional_fc"]  # fmt: skip
    for i in range(32):
        own = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", "input_layernorm",
               "post_attention_layernorm")  # fmt: skip
        language += [f"model.layers.{i}.{n}" for n in own]
    names |= {f"lang_model.{n}.weight" for n in language}
    names |= {"lang_model.lm_head.bias", "lang_model.lm_head.additional_fc.bias"}
    return {f"vlm.{n}" for n in names | {f"{n}.{p}" for n in pairs for p in ("weight", "bias")}}


def test_the_published_size_has_every_published_tensor() -> None:
    config = xgen_mm.PRESETS["xgen_mm_phi3_mini"]
    with torch.device("meta"):
        module = config.build()
    stored = json.loads(json.dumps(layout_of(config).config_to(config)))
    assert layout_for(stored).config_from(stored) == config
    theirs = layout_of(config).table(config).to_theirs(module.state_dict())
    assert set(theirs) == names_published()
    assert theirs["vlm.lang_model.model.embed_tokens.weight"].shape == (32064, 3072)
    assert theirs["vlm.lang_model.lm_head.additional_fc.weight"].shape == (3, 3072)
    assert sum(p.numel() for p in module.connector.parameters()) == 109_901_568
    with pytest.raises(ConfigError, match="model_name"):
        layout_for(stored).config_from({**stored, "vision_encoder_config": {"model_name": "another"}})


def test_rows_that_are_never_read_are_written_as_zeros() -> None:
    rule = Grown(("a", "b"), "c", 6, 4)
    first, more = torch.arange(12.0).view(6, 2), torch.ones(3, 2)
    (ours,) = rule.forward([first, more])
    assert torch.equal(ours, torch.cat((first[:4], more)))
    back = rule.backward([ours])
    assert torch.equal(back[0][:4], first[:4]) and not back[0][4:].any() and torch.equal(back[1], more)
    with pytest.raises(CheckpointError, match="5 rows, not 6"):
        rule.forward([first[:5], more])


def published_features(crops: torch.Tensor, size: tuple[int, int], grid: tuple[int, int]) -> tuple:
    """Stitched, masked and viewed as the published code does it: (crops, P, D) and a mask."""
    side, (rows, columns) = round(crops.shape[1] ** 0.5), grid
    tiles = crops[1:].view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3).contiguous()
    tiles = tiles.flatten(1, 2).flatten(2, 3)  # (D, rows·h, columns·w)
    height, width = tiles.shape[1:]
    mask = torch.ones(height, width)
    if size[0] / size[1] > width / height:
        padding = (height - int(size[1] * (width / size[0]))) // 2
        mask[:padding, :] = 0
        mask[height - padding :, :] = 0
    else:
        padding = (width - int(size[0] * (height / size[1]))) // 2
        mask[:, :padding] = 0
        mask[:, width - padding :] = 0
    tiles = tiles.view(-1, rows, columns, side**2).flatten(1, 2).permute(1, 2, 0)
    mask = mask.view(rows, columns, side**2).flatten(0, 1)
    return torch.cat((crops[:1], tiles)), torch.cat((torch.ones(1, side**2), mask))


def published_resampler(state: dict, x: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """The resampler spelled out from its published tensors."""
    own = {name.removeprefix("vlm.vision_tokenizer."): t for name, t in state.items() if "vision_tokenizer" in name}

    def norm(y, name):
        return F.layer_norm(y, y.shape[-1:], own[name + ".weight"], own[name + ".bias"], 1e-5)

    latents = own["latents"].expand(len(x), -1, -1)
    count = latents.shape[1]
    for i in range(sum(name.endswith("to_q.weight") for name in own)):
        attn, ff = f"layers.{i}.0.", f"layers.{i}.1."
        queries = norm(latents, attn + "norm_latents")
        seen = torch.cat((norm(x, attn + "norm_media"), queries), 1)
        q = (queries @ own[attn + "to_q.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (seen @ own[attn + "to_kv.weight"].T).chunk(2, -1)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        hidden = torch.cat((mask, torch.ones(len(x), count)), 1)[:, None, None] == 0
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        latents = latents + (weights @ v).transpose(1, 2).flatten(2) @ own[attn + "to_out.weight"].T
        inner = norm(latents, ff + "0") @ own[ff + "1.weight"].T
        latents = latents + F.gelu(inner) @ own[ff + "3.weight"].T
    return norm(latents, "norm") @ own["projection.weight"].T + own["projection.bias"]


@pytest.mark.parametrize("size", [(100, 50), (30, 90), (64, 64), (90, 70), (400, 20)])
def test_tiles_become_masked_bands_as_published(size) -> None:
    model = chiasm.new("xgen_mm")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel()))
        pixels, plans = model.processor.image_processor.pixels([picture(*size), picture(40, 50)])
        tokens = model.module.encode_images(pixels, plans)
        assert [len(each) for each in tokens] == [plan.num_tokens for plan in plans]
        assert [plan.num_tokens for plan in plans] == [4 * len(plan.crops) for plan in plans]
        features = model.module.visual_features(pixels)[: len(plans[0].crops)]
        tower = model.module.vision
        assert torch.equal(features, tower.norm_post(tower.features(pixels[: len(plans[0].crops)])))
        state = layout_of(model.config).table(model.config).to_theirs(model.module.state_dict())
        x, mask = published_features(features, size, plans[0].grid)
        wanted = published_resampler(state, x, mask, model.config.connector.num_heads).flatten(0, 1)
        assert (tokens[0] - wanted).abs().max() <= 1e-5
        assert bool((mask == 0).any()) == (size not in ((100, 50), (64, 64)))


def test_a_folder_without_its_added_words_and_settings_is_read(tmp_path) -> None:
    """The tokenizer as published, before the code adds the picture's words; no picture settings, no shapes of ours."""
    made = chiasm.new("xgen_mm")
    made.save(tmp_path / "one")
    again = chiasm.load(tmp_path / "one")
    talk = [
        {"role": "user", "content": [{"type": "image", "image": picture(90, 60)}, {"type": "text", "text": "what?"}]}
    ]
    reply = made.generate([talk], max_new_tokens=4)[0]
    assert again.config == made.config and again.generate([talk], max_new_tokens=4)[0].token_ids == reply.token_ids
    tokenizer = xgen_mm.tiny_tokenizer("chatml", image_token="<|end|>", controls=("<|user|>", "<|assistant|>"))
    size = len(tokenizer)
    config = replace(made.config, image_token_id=size, language=replace(made.config.language, vocab_size=size + 3))
    processor = xgen_mm.processor(config, xgen_mm.Parts(tokenizer))
    assert [processor.tokenizer.token_to_id(word) for word in xgen_mm.WORDS] == [size, size + 1, size + 2]
    prompt = processor.prompt(talk).text
    assert prompt.startswith("<|system|>\nA chat between a curious user") and prompt.endswith("<|assistant|>\n")


def test_a_budget_takes_tiles_away() -> None:
    pictures = chiasm.new("xgen_mm").processor.image_processor
    for tokens, crops in ((20, 5), (19, 3), (12, 3), (11, 1), (4, 1)):
        assert len(pictures.within(tokens).plan((64, 64)).crops) == crops
    with pytest.raises(ConfigError, match="image_tokens_too_few|budget of 3"):
        pictures.within(3)
