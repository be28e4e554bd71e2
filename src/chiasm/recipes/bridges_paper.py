"""Paper-scale recipes of the language models given eyes: published sizes, what learns in each stage, its schedule.

Frozen: Tsimpoukelli et al. 2021, §4. Flamingo: Alayrac et al. 2022, app. B.1. BLIP-2: Li et al. 2023, §4 and table 12.
InstructBLIP: Dai et al. 2023, §3.4. MiniGPT-4: Zhu et al. 2023, §3. Kosmos-1: Huang et al. 2023, §4.1. PaLM-E: Driess
et al. 2023, §6.1. Qwen-VL: Bai et al. 2023, §3 and appendix C. xGen-MM: Xue et al. 2024, §3 and §4. `chiasm train NAME
--dry-run` counts what learns; no weight is made.

Where a paper doesn't give a number, the recipe says so: PaLM-E's and xGen-MM's pretraining rates and batches are ours.
"""

from __future__ import annotations

from dataclasses import replace

from chiasm.data.collation import Conversations, Pairs
from chiasm.recipes.run import Preset, Run, Source, recipe
from chiasm.training.config import AdamW, Constant, Cosine, Group, Linear

CONNECTOR = ("^connector\\.",)
PAIRS = "129M pairs: COCO, VG, CC3M, CC12M, SBU, LAION115M"
STAGE_2 = "129M pairs, the first stage's Q-Former"
HELD_IN = "13 held-in sets, drawn by the square root of their size"
PAGES = "interleaved pages, pairs, videos in the paper's shares"
ROBOTS = "web pairs, VQA and robot data (8.9 %) in the paper's shares"


def _language(
    preset: str, steps: int, batch: int, rate: float, warmup: int, learn: tuple[str, ...], decay: float = 0.05
) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Preset(name=preset),
        learn=learn,
        data=(Source(name="pairs"),),
        collate=Conversations(),
        objective=NextToken(),
        steps=steps,
        batch_size=batch,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=warmup / steps),
        groups=(Group(learning_rate=rate, weight_decay=decay),),
    )


@recipe(family="frozen", scale="paper", needs="CC3M")
def frozen_7b_paper() -> Run:
    """Tower and prefix, one epoch (the paper stops early); the gradient passes through the frozen language model."""
    run = _language("frozen_7b", 3_300_000 // 128, 128, 3e-4, 0, ("^vision\\.", "^connector\\."), 0.0)
    return replace(run, optimizer=AdamW(betas=(0.9, 0.95)), schedule=Constant())


def _flamingo(preset: str) -> Run:
    return _language(preset, 500_000, 2048, 1e-4, 5000, ("^connector\\.", "^gates\\."), 0.1)


@recipe(family="flamingo", scale="paper", needs=PAGES)
def flamingo_3b_paper() -> Run:
    """Resampler and gated layers of Flamingo-3B; tower and language model are frozen."""
    return _flamingo("flamingo_3b")


@recipe(family="flamingo", scale="paper", needs=PAGES)
def flamingo_9b_paper() -> Run:
    """Flamingo-9B: a gated layer before every fourth."""
    return _flamingo("flamingo_9b")


@recipe(family="flamingo", scale="paper", needs=PAGES)
def flamingo_80b_paper() -> Run:
    """Flamingo-80B: a gated layer before every seventh."""
    return _flamingo("flamingo_80b")


@recipe(family="idefics", scale="paper", needs="OBELICS, Wikipedia, LAION, PMD")
def idefics_9b_paper() -> Run:
    """Resampler, gated layers and the added words of IDEFICS-9B (Laurençon et al. 2023, app. C)."""
    return _language("idefics_9b", 200_000, 2048, 1e-5, 2000, ("^connector\\.", "^gates\\."), 0.1)


@recipe(family="blip2_retrieval", scale="paper", needs=PAIRS)
def blip2_stage1_paper() -> Run:
    """The first stage on ViT-g: contrast, matching, captions; the tower is frozen."""
    from chiasm.objectives.querying import QueryingLosses

    run = _language("blip2_stage1_vit_g", 250_000, 1680, 1e-4, 2000, ("",))
    return replace(run, freeze=("^vision\\.",), collate=Pairs(), objective=QueryingLosses())


def _blip2_stage2(preset: str, batch: int) -> Run:
    return replace(_language(preset, 80_000, batch, 1e-4, 2000, CONNECTOR), after="blip2_stage1_paper")


@recipe(family="blip2", scale="paper", needs=STAGE_2)
def blip2_opt_2_7b_stage2_paper() -> Run:
    """The second stage over OPT-2.7B: tower and language model are frozen."""
    return _blip2_stage2("blip2_opt_2_7b", 1920)


@recipe(family="blip2", scale="paper", needs=STAGE_2)
def blip2_opt_6_7b_stage2_paper() -> Run:
    """The second stage over OPT-6.7B."""
    return _blip2_stage2("blip2_opt_6_7b", 1920)


@recipe(family="blip2", scale="paper", needs=STAGE_2)
def blip2_flan_t5_xl_stage2_paper() -> Run:
    """The second stage over Flan-T5-XL."""
    return _blip2_stage2("blip2_flan_t5_xl", 1520)


@recipe(family="blip2", scale="paper", needs=STAGE_2)
def blip2_flan_t5_xxl_stage2_paper() -> Run:
    """The second stage over Flan-T5-XXL."""
    return _blip2_stage2("blip2_flan_t5_xxl", 1520)


@recipe(family="instructblip", scale="paper", needs=HELD_IN)
def instructblip_vicuna_7b_paper() -> Run:
    """Instruction tuning of the Q-Former over Vicuna-7B."""
    return _language("instructblip_vicuna_7b", 60_000, 128, 1e-5, 1000, CONNECTOR)


@recipe(family="instructblip", scale="paper", needs=HELD_IN)
def instructblip_vicuna_13b_paper() -> Run:
    """Over Vicuna-13B, in smaller batches."""
    return replace(instructblip_vicuna_7b_paper(), model=Preset(name="instructblip_vicuna_13b"), batch_size=64)


@recipe(family="instructblip", scale="paper", needs=HELD_IN)
def instructblip_flan_t5_xl_paper() -> Run:
    """Over Flan-T5-XL, in larger batches."""
    return replace(instructblip_vicuna_7b_paper(), model=Preset(name="instructblip_flan_t5_xl"), batch_size=192)


@recipe(family="instructblip", scale="paper", needs=HELD_IN)
def instructblip_flan_t5_xxl_paper() -> Run:
    """Over Flan-T5-XXL."""
    return replace(instructblip_vicuna_7b_paper(), model=Preset(name="instructblip_flan_t5_xxl"), batch_size=64)


def _align(preset: str) -> Run:
    return _language(preset, 20_000, 256, 1e-4, 2000, ("^connector\\.proj\\.",))


def _finetune(align: Run, after: str) -> Run:
    groups = (Group(learning_rate=3e-5, weight_decay=0.05),)
    return replace(align, after=after, steps=1000, batch_size=12, schedule=Constant(), groups=groups)


@recipe(family="minigpt4", scale="paper", needs="5M pairs: LAION, CC, SBU")
def minigpt4_7b_align_paper() -> Run:
    """The affine map on short captions."""
    return _align("minigpt4_7b")


@recipe(family="minigpt4", scale="paper", needs="3,500 detailed descriptions")
def minigpt4_7b_finetune_paper() -> Run:
    """The affine map on detailed descriptions."""
    return _finetune(minigpt4_7b_align_paper(), "minigpt4_7b_align_paper")


@recipe(family="minigpt4", scale="paper", needs="5M pairs: LAION, CC, SBU")
def minigpt4_13b_align_paper() -> Run:
    """The affine map to Vicuna-13B."""
    return _align("minigpt4_13b")


@recipe(family="minigpt4", scale="paper", needs="3,500 detailed descriptions")
def minigpt4_13b_finetune_paper() -> Run:
    """The same on detailed descriptions."""
    return _finetune(minigpt4_13b_align_paper(), "minigpt4_13b_align_paper")


@recipe(family="xgen_mm", scale="paper", needs="100B tokens: MINT-1T, OBELICS, KALE, OCR-200M, grounding, Datacomp")
def xgen_mm_pretrain_paper() -> Run:
    """Resampler and Phi-3; SigLIP is frozen. Rows of 2,048 tokens; batch and rate are ours."""
    run = _language("xgen_mm_phi3_mini_base", 100_000_000_000 // (2048 * 2048), 2048, 5e-5, 2000, ("",))
    return replace(run, freeze=("^vision\\.",))


@recipe(family="xgen_mm", scale="paper", needs="1M instructions over crops at any resolution")
def xgen_mm_finetune_paper() -> Run:
    """One epoch of instructions."""
    run = replace(xgen_mm_pretrain_paper(), after="xgen_mm_pretrain_paper", model=Preset(name="xgen_mm_phi3_mini"))
    run = replace(run, steps=1_000_000 // 128, batch_size=128)
    groups = (Group(learning_rate=2e-5, weight_decay=0.0),)
    return replace(run, schedule=Cosine(warmup=2000 / run.steps), groups=groups)


@recipe(family="kosmos", scale="paper", needs="360B tokens: text, pairs and pages, 5 : 5 : 2")
def kosmos_1_paper() -> Run:
    """Everything but CLIP, whose last layer learns; 1.2 million tokens a step, in rows of 2,048."""
    learn = ("^language\\.", "^connector\\.", "^vision\\.blocks\\.23\\.", "^vision\\.norm_post\\.")
    run = _language("kosmos_1", 300_000, 1_200_000 // 2048, 2e-4, 375, learn, 0.01)
    return replace(run, schedule=Linear(warmup=375 / 300_000))


def _palme(preset: str) -> Run:
    return _language(preset, 100_000, 1024, 1e-4, 1000, ("",))


@recipe(family="palme", scale="paper", needs=ROBOTS)
def palm_e_12b_paper() -> Run:
    """PaLM-8B and ViT-4B, everything learns. Length, batch and rate are ours."""
    return _palme("palm_e_12b")


@recipe(family="palme", scale="paper", needs=ROBOTS)
def palm_e_12b_frozen_paper() -> Run:
    """The frozen variant: the tower and the map learn to speak to a language model that doesn't change."""
    return replace(_palme("palm_e_12b"), learn=("^vision\\.", "^connector\\."))


@recipe(family="palme", scale="paper", needs=ROBOTS)
def palm_e_84b_paper() -> Run:
    """PaLM-62B and ViT-22B."""
    return _palme("palm_e_84b")


@recipe(family="palme", scale="paper", needs=ROBOTS)
def palm_e_562b_paper() -> Run:
    """PaLM-540B and ViT-22B."""
    return _palme("palm_e_562b")


@recipe(family="qwen_vl", scale="paper", needs="1.4B pairs")
def qwen_vl_stage1_paper() -> Run:
    """Tower and adapter at 224 pixels; the language model is frozen."""
    return _language("qwen_vl_7b_224", 50_000, 30_720, 2e-4, 500, ("^vision\\.", "^connector\\."))


@recipe(family="qwen_vl", scale="paper", needs="76.8M rows of 7 tasks, pages and text")
def qwen_vl_stage2_paper() -> Run:
    """Everything at 448 pixels."""
    run = replace(qwen_vl_stage1_paper(), model=Preset(name="qwen_vl_7b"), after="qwen_vl_stage1_paper", learn=("",))
    groups = (Group(learning_rate=5e-5, weight_decay=0.05),)
    return replace(run, steps=19_000, batch_size=4096, schedule=Cosine(warmup=400 / 19_000), groups=groups)


@recipe(family="qwen_vl", scale="paper", needs="350,000 conversations")
def qwen_vl_stage3_paper() -> Run:
    """Conversations; the tower is frozen."""
    run = replace(qwen_vl_stage2_paper(), after="qwen_vl_stage2_paper", freeze=("^vision\\.",))
    groups = (Group(learning_rate=1e-5, weight_decay=0.05),)
    return replace(run, steps=8_000, batch_size=128, schedule=Cosine(warmup=3000 / 8_000), groups=groups)
