"""CLIP's recipes: InfoNCE from scratch on generated scenes, and the paper's (Radford et al. 2021, §2.5, table 18)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Pairs
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoClip(ModelConfig):
    """A small ViT and a small text transformer, both from scratch.

    Attributes:
        image_size, patch_size: of the picture tower, in pixels.
        hidden_dim, num_layers: of both towers.
        embed_dim: E.
    """

    image_size: int = 96
    patch_size: int = 12
    hidden_dim: int = 128
    num_layers: int = 4
    embed_dim: int = 128

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts, clip_tower
        from chiasm.models.clip import ClipConfig, text
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble

        tokenizer = tiny_tokenizer("clip")
        width, heads = self.hidden_dim, self.hidden_dim // 32
        config = ClipConfig(
            vision=clip_tower(self.image_size, self.patch_size, width, self.num_layers, heads),
            language=text(width, layers=self.num_layers, vocab=len(tokenizer), heads=heads),
            embed_dim=self.embed_dim,
        )
        return assemble(family, config, Parts(tokenizer), seed=seed)


@recipe(family="clip", scale="pico", needs="generated scenes")
def clip_pico() -> Run:
    """A CLIP of under a million parameters that tells scenes apart by their captions."""
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=PicoClip(),
        data=(Source(name="scenes:train:captions?size=96"),),
        collate=Pairs(),
        objective=InfoNCE(),
        steps=1000,
        batch_size=64,
        optimizer=AdamW(betas=(0.9, 0.98), eps=1e-6),
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=1e-3, weight_decay=0.1),),
    )


@recipe(family="clip", scale="paper", needs="400 million pairs; model.processing names a folder with CLIP's tokenizer")
def clip_vit_b_32_paper() -> Run:
    """CLIP ViT-B/32 as published: 32 epochs of WIT-400M."""
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=Preset(name="clip_vit_b_32"),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=InfoNCE(),
        steps=32 * 400_000_000 // 32768,
        batch_size=32768,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.98), eps=1e-6),
        schedule=Cosine(warmup=2000),
        groups=(Group(learning_rate=5e-4, weight_decay=0.2),),
        clip=None,
        bf16=True,
    )


@recipe(family="clip", scale="paper", needs="400 million pairs; model.processing names a folder with CLIP's tokenizer")
def clip_vit_l_14_paper() -> Run:
    """CLIP ViT-L/14 as published."""
    run = clip_vit_b_32_paper()
    groups = (replace(run.groups[0], learning_rate=4e-4),)
    return replace(run, model=Preset(name="clip_vit_l_14"), groups=groups, recompute=True)
