"""Paper-scale recipes of the high-resolution families: published sizes, what learns in each stage, its schedule.

CogVLM: Wang et al. 2023, §2.2 and §2.3. InternVL 2: Chen et al. 2024, the released fine-tuning settings. Molmo: Deitke
et al. 2024, the released training code. Qwen2-VL: Wang et al. 2024, §2.2. Qwen2.5-VL: Bai et al. 2025, §2.2 and §2.3.
InternLM-XComposer2-4KHD: Dong et al. 2024, §3.4. Kimi-VL: Kimi Team 2025, §2.3 and §2.4. `chiasm train NAME --dry-run`
counts what learns; no weight is made. Other sizes: `--set model.name=…`.

A docstring calls "ours" what no paper says or what wasn't compared with one; so are, everywhere, the betas, the decay
and the warm-up where none is named. Where a paper counts tokens, a step is our batch of whole rows of its length.
"""

from __future__ import annotations

from dataclasses import replace

from chiasm.data.collation import Conversations
from chiasm.recipes.run import Preset, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group, Muon

TOWER, CONNECTOR = "^vision\\.", "^connector\\."
TRILLION = 1_000_000_000_000


def _stage(
    preset: str, steps: int, batch: int, *groups: Group, learn: tuple[str, ...] = ("",), warmup: float = 0.03
) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Preset(name=preset),
        learn=learn,
        data=(Source(name="conversations"),),
        collate=Conversations(),
        objective=NextToken(),
        steps=steps,
        batch_size=batch,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=warmup),
        groups=groups,
        bf16=True,
        recompute=True,
    )


def _rate(rate: float, pattern: str = "") -> Group:
    return Group(pattern=pattern, learning_rate=rate, weight_decay=0.05)


def _tokens(total: float, length: int, rows: int) -> int:
    """Steps that `total` tokens make in batches of `rows` rows of `length`."""
    return int(total) // (length * rows)


@recipe(family="cogvlm", scale="paper", needs="1.5B pairs of LAION-2B and COYO-700M")
def cogvlm_stage1_paper() -> Run:
    """Captions at 224 pixels: visual experts and adapter learn. Warm-up is ours."""
    return _stage("cogvlm_17b_224", 120_000, 8192, _rate(1e-4), learn=(CONNECTOR, "visual_"), warmup=0.1)


@recipe(family="cogvlm", scale="paper", needs="captions, and 40M pictures with grounded phrases")
def cogvlm_stage2_paper() -> Run:
    """Captions and phrases with their boxes, the first 30,000 steps at 224 pixels. Rate and warm-up are ours."""
    run = _stage("cogvlm_17b_224", 30_000, 1024, _rate(1e-5), learn=(CONNECTOR, "visual_"), warmup=0.04)
    return replace(run, after="cogvlm_stage1_paper")


@recipe(family="cogvlm", scale="paper", needs="captions, and 40M pictures with grounded phrases")
def cogvlm_stage2_490_paper() -> Run:
    """The last 30,000 steps at 490 pixels; here they have a cosine of their own.

    The frozen tower's positions have another shape than those of the stage before, and shapes that differ aren't taken
    over: start with `init_from`, a folder in which they are interpolated.
    """
    return replace(cogvlm_stage2_paper(), model=Preset(name="cogvlm_17b"), after="cogvlm_stage2_paper")


@recipe(family="cogvlm", scale="paper", needs="questions and conversations")
def cogvlm_chat_paper() -> Run:
    """Conversations; the tower learns, too, at a tenth of the rate."""
    run = replace(cogvlm_stage2_490_paper(), after="cogvlm_stage2_490_paper", steps=6000)
    return replace(run, learn=(TOWER, *run.learn), groups=(_rate(1e-6, TOWER), _rate(1e-5)))


@recipe(family="internvl", scale="paper", needs="captions, OCR and grounding, as the report's pretraining mixture")
def internvl2_8b_warmup_paper() -> Run:
    """The connector alone, between InternViT-300M and InternLM2.5-7B. Rate, batch and steps are ours."""
    return _stage("internvl2_8b", 10_000, 512, _rate(2e-4), learn=(CONNECTOR,))


@recipe(family="internvl", scale="paper", needs="5M instructions, as the report's fine-tuning mixture")
def internvl2_8b_finetune_paper() -> Run:
    """Everything, at the released settings; the number of steps is ours."""
    run = replace(internvl2_8b_warmup_paper(), after="internvl2_8b_warmup_paper", learn=("",), groups=(_rate(4e-5),))
    return replace(run, steps=5_000_000 // 128, batch_size=128)


@recipe(family="internvl", scale="paper", needs="captions, OCR and grounding, as the report's pretraining mixture")
def internvl2_26b_warmup_paper() -> Run:
    """Connector and InternViT-6B; InternLM2-20B is frozen. Rate, batch and steps are ours."""
    run = replace(internvl2_8b_warmup_paper(), model=Preset(name="internvl2_26b"), learn=(TOWER, CONNECTOR))
    return replace(run, groups=(_rate(1e-5),), batch_size=1024)


@recipe(family="internvl", scale="paper", needs="5M instructions, as the report's fine-tuning mixture")
def internvl2_26b_finetune_paper() -> Run:
    """Everything."""
    run = replace(internvl2_8b_finetune_paper(), model=Preset(name="internvl2_26b"))
    return replace(run, after="internvl2_26b_warmup_paper")


def _molmo_rates(tower: float, connector: float, rest: float) -> tuple[Group, ...]:
    connecting = f"{CONNECTOR}|^added_embed|^pad_embed"
    return tuple(
        Group(pattern=pattern, learning_rate=rate)
        for pattern, rate in ((TOWER, tower), (connecting, connector), ("", rest))
    )


def _molmo_caption(preset: str) -> Run:
    from chiasm.objectives.captioning import NextToken

    steps = 4 * 712_000 // 128  # epochs of PixMo-Cap
    run = _stage(preset, steps, 128, *_molmo_rates(6e-6, 2e-4, 2e-5), warmup=2000)
    return replace(run, objective=NextToken(z_loss=1e-4), schedule=Cosine(warmup=2000, final_share=0.1))


def _molmo_multitask(run: Run, after: str) -> Run:
    schedule = Cosine(warmup=200, final_share=0.1)
    groups = _molmo_rates(5e-6, 5e-6, 1e-5)
    return replace(run, after=after, steps=30_000, batch_size=256, schedule=schedule, groups=groups)


CAPTIONED, MIXED = "PixMo-Cap", "PixMo and academic sets, drawn by the square root of their size"


@recipe(family="molmo", scale="paper", needs=CAPTIONED)
def molmo_7b_d_caption_paper() -> Run:
    """Dense captions, everything learns, in rows of 2,304 tokens.

    Departures: the connector, whose own warm-up is 200 steps, shares the others' 2,000; no dropout on the replies.
    """
    return _molmo_caption("molmo_7b_d")


@recipe(family="molmo", scale="paper", needs=MIXED)
def molmo_7b_d_multitask_paper() -> Run:
    """Questions, points, counts. The warm-up is ours."""
    return _molmo_multitask(molmo_7b_d_caption_paper(), "molmo_7b_d_caption_paper")


@recipe(family="molmo", scale="paper", needs=CAPTIONED)
def molmo_e_1b_caption_paper() -> Run:
    """Over OLMoE: 64 experts a layer, 8 for a token."""
    return _molmo_caption("molmo_e_1b")


@recipe(family="molmo", scale="paper", needs=MIXED)
def molmo_e_1b_multitask_paper() -> Run:
    """The same over OLMoE."""
    return _molmo_multitask(molmo_e_1b_caption_paper(), "molmo_e_1b_caption_paper")


@recipe(family="molmo", scale="paper", needs=CAPTIONED)
def molmo_72b_caption_paper() -> Run:
    """Over Qwen2-72B; that its rates are the small ones' is ours."""
    return _molmo_caption("molmo_72b")


@recipe(family="molmo", scale="paper", needs=MIXED)
def molmo_72b_multitask_paper() -> Run:
    """The same over Qwen2-72B."""
    return _molmo_multitask(molmo_72b_caption_paper(), "molmo_72b_caption_paper")


def _qwen_vision(preset: str, tokens: float) -> Run:
    return _stage(preset, _tokens(tokens, 8192, 1024), 1024, _rate(1e-4), learn=(TOWER, CONNECTOR))


def _qwen_all(run: Run, after: str, tokens: float, length: int = 8192, rows: int = 1024) -> Run:
    run = replace(run, after=after, learn=("",), groups=(_rate(5e-5),), batch_size=rows)
    return replace(run, steps=_tokens(tokens, length, rows))


def _qwen_instruct(run: Run, after: str, rows: int) -> Run:
    run = replace(run, after=after, freeze=(TOWER,), groups=(_rate(1e-5),))
    return replace(run, steps=rows // 512, batch_size=512)


@recipe(family="qwen2_vl", scale="paper", needs="600B tokens of pairs, OCR and classification")
def qwen2_vl_7b_vision_paper() -> Run:
    """Tower and merger; Qwen2 is frozen. Length, batch and rate are ours."""
    return _qwen_vision("qwen2_vl_7b", 0.6 * TRILLION)


@recipe(family="qwen2_vl", scale="paper", needs="800B tokens more: interleaved pages, questions, videos, text")
def qwen2_vl_7b_all_paper() -> Run:
    """Everything. Length, batch and rate are ours."""
    return _qwen_all(qwen2_vl_7b_vision_paper(), "qwen2_vl_7b_vision_paper", 0.8 * TRILLION)


@recipe(family="qwen2_vl", scale="paper", needs="conversations about pictures, documents and videos, and text")
def qwen2_vl_7b_instruct_paper() -> Run:
    """Conversations; the tower is frozen. The number of rows (2 million), batch and rate are ours."""
    return _qwen_instruct(qwen2_vl_7b_all_paper(), "qwen2_vl_7b_all_paper", 2_000_000)


@recipe(family="qwen2_5_vl", scale="paper", needs="1.5T tokens of captions, knowledge and OCR")
def qwen2_5_vl_7b_vision_paper() -> Run:
    """The new tower and the merger, in rows of 8,192; Qwen2.5 is frozen. Batch and rate are ours."""
    return _qwen_vision("qwen2_5_vl_7b", 1.5 * TRILLION)


@recipe(family="qwen2_5_vl", scale="paper", needs="2T tokens: pages, questions, videos, grounding, agents, text")
def qwen2_5_vl_7b_all_paper() -> Run:
    """Everything, in rows of 8,192. Batch and rate are ours."""
    return _qwen_all(qwen2_5_vl_7b_vision_paper(), "qwen2_5_vl_7b_vision_paper", 2 * TRILLION)


@recipe(family="qwen2_5_vl", scale="paper", needs="0.6T tokens of long videos, agents and documents")
def qwen2_5_vl_7b_long_paper() -> Run:
    """Everything, in rows of 32,768. Batch and rate are ours."""
    return _qwen_all(qwen2_5_vl_7b_all_paper(), "qwen2_5_vl_7b_all_paper", 0.6 * TRILLION, 32_768, 256)


@recipe(family="qwen2_5_vl", scale="paper", needs="2 million conversations, half of them text")
def qwen2_5_vl_7b_instruct_paper() -> Run:
    """Conversations; the tower is frozen. Batch and rate are ours; the paper's preferences (DPO) are left out."""
    return _qwen_instruct(qwen2_5_vl_7b_long_paper(), "qwen2_5_vl_7b_long_paper", 2_000_000)


@recipe(family="xcomposer", scale="paper", needs="captions, concepts and documents at up to 25 tiles")
def xcomposer_pretrain_paper() -> Run:
    """Tower, connector and partial LoRA; InternLM2 is frozen. Each layer of the tower learns 0.9 times as fast as the
    next, from 2e-4 at its end. The number of steps is ours."""
    layers = 24
    tower = tuple(_rate(2e-4 * 0.9 ** (layers - 1 - at), rf"^vision\.blocks\.{at}\.") for at in range(layers))
    groups = (*tower, _rate(2e-4 * 0.9**layers, TOWER), _rate(2e-4))
    learn = (TOWER, CONNECTOR, "^newline", "^separator", "lora_")
    run = _stage("xcomposer2_4khd_7b", 10_000, 4096, *groups, learn=learn, warmup=0.01)
    return replace(run, freeze=("^vision\\.norm_post\\.",))


@recipe(family="xcomposer", scale="paper", needs="questions on pictures and documents at up to 55 tiles, text")
def xcomposer_finetune_paper() -> Run:
    """Everything but the tower's last norm, which nothing reads."""
    run = xcomposer_pretrain_paper()
    rates = tuple(replace(group, learning_rate=group.learning_rate / 4) for group in run.groups)
    return replace(run, after="xcomposer_pretrain_paper", learn=("",), steps=3500, batch_size=2048, groups=rates)


@recipe(family="kimi_vl", scale="paper", needs="0.1T tokens of captions; init_from names MoonViT and Moonlight")
def kimi_vl_align_paper() -> Run:
    """Tower and projector; Moonlight is frozen. Batch and rate are ours. What comes before, MoonViT's own training
    with a text tower, is none of this family's."""
    run = _stage("kimi_vl_a3b", _tokens(0.1 * TRILLION, 8192, 1024), 1024, _rate(2e-4), learn=(TOWER, CONNECTOR))
    return replace(run, optimizer=Muon())


@recipe(family="kimi_vl", scale="paper", needs="1.4T tokens of text and pictures")
def kimi_vl_joint_paper() -> Run:
    """Everything, in rows of 8,192. Batch and rate are ours."""
    run = replace(kimi_vl_align_paper(), after="kimi_vl_align_paper", learn=("",), groups=(_rate(1e-4),))
    return replace(run, steps=_tokens(1.4 * TRILLION, 8192, 1024))


@recipe(family="kimi_vl", scale="paper", needs="0.6T tokens of high quality")
def kimi_vl_cooldown_paper() -> Run:
    """Everything, down to a tenth of the rate. Batch and rate are ours."""
    run = replace(kimi_vl_joint_paper(), after="kimi_vl_joint_paper", schedule=Cosine(final_share=0.1))
    return replace(run, steps=_tokens(0.6 * TRILLION, 8192, 1024), groups=(_rate(5e-5),))


@recipe(family="kimi_vl", scale="paper", needs="0.3T tokens, a quarter of them long")
def kimi_vl_long_paper() -> Run:
    """Everything, in rows of up to 131,072. Batch and rate are ours."""
    run = replace(kimi_vl_cooldown_paper(), after="kimi_vl_cooldown_paper", batch_size=64, groups=(_rate(2e-5),))
    return replace(run, steps=_tokens(0.3 * TRILLION, 131_072, 64))


@recipe(family="kimi_vl", scale="paper", needs="conversations, in rows of 32,768 and then of 131,072 tokens")
def kimi_vl_finetune_paper() -> Run:
    """Everything on conversations, the rate from 2e-5 down to a tenth. Batch and steps are ours."""
    return replace(kimi_vl_long_paper(), after="kimi_vl_long_paper", steps=4000)
