"""The recipes of bridged families: what learns, by count, and that one setting swaps the connector."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import chiasm
from chiasm.core.errors import ConfigError
from chiasm.recipes import bridges
from chiasm.recipes.run import find_recipe
from chiasm.recipes.running.building import speaking
from chiasm.recipes.running.carry import Manner, carry_out, counts

PICTURE = Image.fromarray(np.full((96, 96, 3), (200, 30, 30), dtype=np.uint8))
TALK = [
    {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what color is it?"}]},
    {"role": "assistant", "content": "red"},
]


def trained(run: bridges.Run, module: torch.nn.Module) -> int:
    for name, parameter in module.named_parameters():
        learns = any(re.search(pattern, name) for pattern in run.learn)
        parameter.requires_grad_(learns and not any(re.search(pattern, name) for pattern in run.freeze))
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("connector", ["linear", "mlp", "pooled", "prefix", "qformer", "resampler", "grid", "latents"])
def test_one_setting_swaps_the_connector_over_frozen_parts(connector) -> None:
    run = bridges.blip2_pico()
    run = replace(run, model=replace(run.model, connector=connector))
    model = run.model.build("blip2", 0)
    count = trained(run, model.module)
    assert count == sum(p.numel() for p in model.module.connector.parameters())
    before = {n: p.clone() for n, p in model.module.named_parameters() if not p.requires_grad}
    batch = model.processor([TALK], add_generation_prompt=False, supervise=True)
    optimizer = torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model.module(batch)[0, :-1], batch.labels[0, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    now = dict(model.module.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_an_unknown_connector_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="qformer"):
        bridges.connector_by_name("magic", 32, 48, 4)


# What learns, exactly; beside it what the paper says.
PAPER = {
    "frozen_7b_paper": 40_293_440,
    "flamingo_3b_paper": 1_327_862_832,  # gates 1.16B, resampler 170M; paper: 1.2B, 194M
    "flamingo_9b_paper": 1_973_752_852,  # gates 1.80B; paper: 1.6B
    "flamingo_80b_paper": 8_525_485_080,  # gates 8.36B; paper: 10B
    "blip2_stage1_paper": 186_702_654,  # 188M
    "blip2_opt_2_7b_stage2_paper": 107_130_880,  # 107M
    "blip2_opt_6_7b_stage2_paper": 108_312_064,  # 108M
    "blip2_flan_t5_xl_stage2_paper": 106_737_152,  # 107M
    "blip2_flan_t5_xxl_stage2_paper": 108_312_064,  # 108M
    "instructblip_vicuna_7b_paper": 188_834_560,  # 188M
    "minigpt4_7b_align_paper": 768 * 4096 + 4096,
    "minigpt4_13b_finetune_paper": 768 * 5120 + 5120,
    "xgen_mm_pretrain_paper": 3_930_712_079,
    "kosmos_1_paper": 1_371_794_432,  # 1.6B in all, CLIP frozen but for its last layer
    "palm_e_12b_paper": 12_444_778_752,  # 12B
    "palm_e_12b_frozen_paper": 3_812_761_856,
    "palm_e_562b_paper": 562_222_067_712,  # 562B
    "qwen_vl_stage1_paper": 1_842_770_688 + 92_839_936 - 256 * 4096,  # 1.9B + 0.08B; the sinusoids are fixed
    "qwen_vl_stage2_paper": 9_656_935_168 - 256 * 4096,  # 9.6B
    "qwen_vl_stage3_paper": 7_721_324_544 + 92_839_936 - 256 * 4096,
    "internvl_c_13b_paper": 12_620_029_697,  # 13B
    "internvl_g_14b_paper": 1_010_334_467,  # 1B
    "cogvlm_stage1_paper": 6_476_005_376 + 142_622_720,  # 6.5B: visual experts, adapter
    "cogvlm_chat_paper": 10_901_269_760,  # the same and the tower
    "internvl2_8b_warmup_paper": 33_570_816,
    "internvl2_8b_finetune_paper": 16_150_730_752 // 2,  # the published files
    "internvl2_26b_finetune_paper": 25_514_186_112,  # 25.5B
    "molmo_7b_d_multitask_paper": 8_021_025_280,  # 8.02B
    "molmo_e_1b_caption_paper": 7_221_875_712,  # 1B of 7B are active
    "molmo_72b_caption_paper": 73_308_285_952,
    "qwen2_vl_7b_vision_paper": 631_183_360 + 44_575_744,  # 675M with the merger
    "qwen2_vl_7b_all_paper": 8_291_375_616,  # the published files
    "qwen2_vl_7b_instruct_paper": 8_291_375_616 - 631_183_360,
    "qwen2_5_vl_7b_vision_paper": 631_975_680 + 44_574_464,
    "qwen2_5_vl_7b_long_paper": 16_584_333_312 // 2,  # the published files
    "qwen2_5_vl_7b_instruct_paper": 16_584_333_312 // 2 - 631_975_680,
    "xcomposer_pretrain_paper": 303_505_408 + 33_562_624 + 603_979_776 + 8192,  # tower, connector, rank 256, two rows
    "xcomposer_finetune_paper": 8_678_764_544,
    "kimi_vl_align_paper": 416_866_032 + 30_679_808,  # 400M and the projector
    "kimi_vl_finetune_paper": 16_407_654_384,  # 16.4B
    "imagebind_huge_paper": 213_918_976,
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_scale_trains_what_the_paper_trains(name) -> None:
    run = find_recipe(name).run()
    assert run.scale == "paper" and run.needs
    assert counts(run)["total"]["trainable"] == PAPER[name]
    if run.after is not None:
        assert find_recipe(run.after).scale == "paper"


def digests(module: torch.nn.Module) -> dict[str, str]:
    """A digest of every tensor."""
    return {
        name: hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in module.state_dict().items()
    }


def test_every_stage_starts_where_the_last_one_ended_and_moves_only_what_learns(tmp_path) -> None:
    """BLIP-2's two stages, then MiniGPT-4's two, two steps each: hashes of all tensors before and after."""
    chain = ("clip_pico", "blip2_pico_stage1", "blip2_pico_stage2", "minigpt4_pico_align", "minigpt4_pico_finetune")
    last: Path | None = None
    said: dict[str, torch.Tensor] = {}
    for name in chain:
        run = find_recipe(name).run()
        assert run.after == (None if last is None else last.name)
        run = replace(run, steps=2, batch_size=4, init_from=None if last is None else str(last), after=None)
        carry_out(run, tmp_path / name, Manner(show=False), lambda line: None)
        trained = chiasm.load(tmp_path / name)
        assert run.model is not None
        now, fresh = digests(trained.module), digests(run.model.build(run.family, run.seed).module)
        before = fresh if last is None else {**fresh, **digests(chiasm.load(last).module)}
        moved = {key for key in now if now[key] != before[key]}
        learns = [key for key in now if any(re.search(p, key) for p in run.learn)]
        learns = [key for key in learns if not any(re.search(p, key) for p in run.freeze)]
        assert moved and moved <= set(learns), (name, sorted(moved - set(learns))[:3])
        if name.startswith(("blip2_pico_stage2", "minigpt4")):  # the frozen language model says what it always said
            tokens = torch.arange(5, 25)[None]
            language = trained.module.language
            with torch.no_grad():
                said[name] = language.logits(language(language.embed_tokens(tokens)))
        last = tmp_path / name
    first = said["blip2_pico_stage2"]
    assert all(torch.equal(logits, first) for logits in said.values())


@pytest.mark.parametrize("name", ["instructblip_pico", "frozen_pico", "idefics_pico"])
def test_recipes_with_parts_of_their_own_take_a_step(name, tmp_path) -> None:
    run = replace(find_recipe(name).run(), steps=1, batch_size=2, after=None, store=None)
    carry_out(run, tmp_path / name, Manner(show=False), lambda line: None)
    reply = chiasm.load(tmp_path / name).generate([TALK[:1]], max_new_tokens=2)[0]
    assert reply.usage.image_tokens > 0


def test_idefics_in_miniature_keeps_the_language_model_and_its_reply_sees_the_question_s_picture() -> None:
    run = find_recipe("idefics_pico").run()
    assert run.model is not None
    model = run.model.build("idefics", 0)
    table, ready = model.module.language.embed_tokens.weight, speaking("pico_text")[0].embed_tokens.weight
    assert torch.equal(table[:-1], ready) and torch.allclose(table[-1], ready.mean(0))
    gallery = model.module.gallery(model.processor([TALK[:1]]))
    assert gallery.seen[0, -1] == 0  # the end of the user's turn isn't the end of what sees the picture


def test_imagebind_in_miniature_learns_pairs(tmp_path) -> None:
    run = replace(find_recipe("imagebind_pico").run(), steps=2, batch_size=4, threads=1)
    carry_out(run, tmp_path, Manner(show=False), lambda line: None)
    assert chiasm.load(tmp_path).similarity([PICTURE], ["a red square", "a dog"]).shape == (1, 2)


def test_a_recipe_that_can_only_be_counted_says_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="setting_missing"):
        carry_out(find_recipe("imagebind_huge_paper").run(), tmp_path, Manner(show=False), lambda line: None)
